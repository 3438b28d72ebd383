import { expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.js";
import { deferred } from "../../../src/runtime/context.js";
import { InFlight, type StillWanted } from "../../../src/runtime/in-flight.js";

const GONE = new Error("gone");

/** Work of two steps, each of which the test lets go on; counts how often it began. */
function steps() {
  const [first, second, undone] = [deferred<void>(), deferred<void>(), deferred<void>()];
  let begun = 0;
  const work = async (stillWanted: StillWanted) => {
    const round = ++begun;
    if (round > 1) return `made in round ${round}`;
    await first.promise;
    try {
      stillWanted();
    } catch (err) {
      await undone.promise;
      throw err;
    }
    await second.promise;
    return `made in round ${round}`;
  };
  return { work, first, second, undone, begun: () => begun };
}

const settle = () => new Promise((resolve) => setImmediate(resolve));

test("join of a key under way is one call with one answer", async () => {
  const { work, first, second, begun } = steps();
  const inFlight = new InFlight();
  const both = [inFlight.join("a", work), inFlight.join("a", work)];
  first.resolve();
  second.resolve();
  expect(await Promise.all(both)).toEqual(["made in round 1", "made in round 1"]);
  expect(begun()).toBe(1);
});

test("an aborted caller is answered at once, and the work goes on for the others", async () => {
  const { work, first, second } = steps();
  const inFlight = new InFlight();
  const controller = new AbortController();
  const leaving = inFlight.join("a", work, controller.signal);
  const staying = inFlight.join("a", work);
  controller.abort(GONE);
  await expect(leaving).rejects.toBe(GONE);
  first.resolve();
  second.resolve();
  expect(await staying).toBe("made in round 1");
});

test("a caller that leaves is told the stage, in its reason's words, kind and code", async () => {
  const inFlight = new InFlight();
  const done = deferred<string>();
  let stage = "plan";
  const work = (_: StillWanted, tellStage: (read: () => string) => void) => {
    tellStage(() => stage);
    return done.promise;
  };
  const controller = new AbortController();
  const leaving = inFlight.join("a", work, controller.signal);
  await settle();
  stage = "network";
  controller.abort(new RuntimeError("too late", { kind: "deadline-exceeded", code: "CALLER_DEADLINE" }));
  await expect(leaving).rejects.toMatchObject({
    kind: "deadline-exceeded",
    code: "CALLER_DEADLINE",
    message: expect.stringMatching(/^too late, at stage "network", \d+\.\d s after the request began/) as string,
  });
  const retry = inFlight.join("a", work);
  done.resolve("made");
  expect(await retry).toBe("made");
});

test("a retry before the next step takes an abandoned call over", async () => {
  const { work, first, second, begun } = steps();
  const inFlight = new InFlight();
  const controller = new AbortController();
  const leaving = inFlight.join("a", work, controller.signal);
  await settle();
  controller.abort(GONE);
  await expect(leaving).rejects.toBe(GONE);
  const retry = inFlight.join("a", work);
  first.resolve();
  second.resolve();
  expect([await retry, begun()]).toEqual(["made in round 1", 1]);
});

test("a retry after it begins anew, and not before all is undone", async () => {
  const { work, first, undone, begun } = steps();
  const inFlight = new InFlight();
  const controller = new AbortController();
  const leaving = inFlight.join("a", work, controller.signal);
  await settle();
  controller.abort(GONE);
  await expect(leaving).rejects.toBe(GONE);
  first.resolve();
  await settle();
  const retry = inFlight.join("a", work);
  await settle();
  expect(begun()).toBe(1);
  undone.resolve();
  expect(await retry).toBe("made in round 2");
});

test("a caller that is gone already begins nothing", async () => {
  const { work, begun } = steps();
  await expect(new InFlight().join("a", work, AbortSignal.abort(GONE))).rejects.toBe(GONE);
  expect(begun()).toBe(0);
});
