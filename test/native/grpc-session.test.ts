/** A session as the daemon has it: what JavaScript's collector cannot see of it. */
import { expect, test } from "vitest";
import { createGrpcSession, type GrpcSession } from "../../src/native/index.js";

const SESSIONS = 4000;
/** RFC 9113, 3.4, and empty SETTINGS. */
const OPENING = Buffer.concat([
  Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]),
]);

function opened(): GrpcSession {
  const session = createGrpcSession(1024);
  session.receive(OPENING);
  session.take();
  return session;
}

test("close gives a session's memory back while its object is still held", () => {
  const held: GrpcSession[] = [];
  const growthOf = (make: () => GrpcSession): number => {
    const before = process.memoryUsage.rss();
    for (let i = 0; i < SESSIONS; i++) held.push(make());
    return process.memoryUsage.rss() - before;
  };
  const closed = () => {
    const session = opened();
    session.close();
    return session;
  };
  // What the allocator and the heap take once is taken before anything is measured.
  for (let i = 0; i < 100; i++) held.push(closed());
  const growthOfClosed = growthOf(closed);
  const growthOfOpen = growthOf(opened);
  for (const session of held) session.close();
  expect(growthOfOpen).toBeGreaterThan(SESSIONS * 2048);
  expect(growthOfClosed).toBeLessThan(growthOfOpen / 3);
});

test("a closed session is over, and takes and gives nothing", () => {
  const session = opened();
  session.close();
  session.close();
  session.answer(1, Buffer.alloc(1));
  session.fail(1, 13, "late", "X");
  session.write(1, Buffer.alloc(1));
  session.end(1);
  session.goAway();
  expect(session.receive(OPENING)).toBe(false);
  expect(session.take()).toBeUndefined();
  expect(session.queued(1)).toBe(0);
  expect(session.isOver()).toBe(true);
});
