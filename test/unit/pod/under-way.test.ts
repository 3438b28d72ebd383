import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { UnderWay } from "../../../src/pod/under-way.js";

test("ended waits for work that succeeds and for work that fails, and tells of neither", async () => {
  const underWay = new UnderWay();
  let done = 0;
  const work = async (fails: boolean) => {
    await sleep(20);
    done++;
    if (fails) throw new Error("broken");
    return "made";
  };
  const failing = underWay.add(work(true));
  expect(await Promise.all([underWay.add(work(false)), expect(failing).rejects.toThrow("broken")])).toHaveLength(2);
  underWay.add(work(true)).catch(() => undefined);
  await underWay.ended(60_000);
  expect(done).toBe(3);
});

test("ended gives up on what never ends", async () => {
  const underWay = new UnderWay();
  void underWay.add(new Promise(() => undefined));
  await expect(underWay.ended(1)).resolves.toBeUndefined();
});
