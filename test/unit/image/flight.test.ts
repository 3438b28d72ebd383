import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { Flights } from "../../../src/image/flight.js";
import { Semaphore } from "../../../src/image/semaphore.js";

const never = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(new Error("stopped"))));

test("run of one key by two callers works once and tells both of progress", async () => {
  const flights = new Flights<number, number>();
  let runs = 0;
  const seen: number[][] = [[], []];
  const work = async (_: AbortSignal, onProgress: (n: number) => void) => {
    runs++;
    onProgress(7);
    return 42;
  };
  const results = await Promise.all(seen.map((list) => flights.run("k", work, { onProgress: (n) => list.push(n) })));
  expect([runs, results, seen]).toEqual([1, [42, 42], [[7], [7]]]);
});

test("run is aborted when the last caller has gone, and not before", async () => {
  const flights = new Flights<never, never>();
  const aborts = [new AbortController(), new AbortController()];
  let stopped = false;
  const work = (signal: AbortSignal) => never(signal).finally(() => (stopped = true));
  const [first, second] = aborts.map(({ signal }) => flights.run("k", work, { signal }));
  aborts[0]?.abort();
  await expect(first).rejects.toMatchObject({ kind: "cancelled" });
  expect(stopped).toBe(false);
  aborts[1]?.abort();
  await expect(second).rejects.toMatchObject({ kind: "cancelled" });
  expect(stopped).toBe(true);
});

test("run after an aborted one starts anew when the aborted one has ended", async () => {
  const flights = new Flights<string, never>();
  const abort = new AbortController();
  let ended = false;
  const slow = async (signal: AbortSignal) => {
    try {
      return await never(signal);
    } finally {
      await sleep(20);
      ended = true;
    }
  };
  const first = flights.run("k", slow, { signal: abort.signal });
  const rejected = expect(first).rejects.toMatchObject({ kind: "cancelled" });
  await new Promise((resolve) => setImmediate(resolve));
  abort.abort();
  await new Promise((resolve) => setImmediate(resolve));
  expect(await flights.run("k", async () => (ended ? "after" : "before"), {})).toBe("after");
  await rejected;
});

test("Semaphore lets no more in than it has slots, and an aborted waiter takes none", async () => {
  const slots = new Semaphore(1);
  const abort = new AbortController();
  const free = new AbortController().signal;
  let release = () => {};
  const held = slots.run(free, () => new Promise<void>((resolve) => (release = resolve)));
  const waiting = slots.run(abort.signal, async () => "no");
  const last = slots.run(free, async () => "yes");
  abort.abort();
  await expect(waiting).rejects.toMatchObject({ kind: "cancelled" });
  await new Promise((resolve) => setImmediate(resolve));
  release();
  await held;
  expect(await last).toBe("yes");
});

test("run that ends well although its last caller has just gone gives that caller its result", async () => {
  const flights = new Flights<string, never>();
  const abort = new AbortController();
  const result = flights.run(
    "key",
    async () => {
      abort.abort();
      return "done";
    },
    { signal: abort.signal },
  );
  expect(await result).toBe("done");
});
