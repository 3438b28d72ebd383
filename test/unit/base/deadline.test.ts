import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { orLate } from "../../../src/base/deadline.js";

test("what is done in time is its value, and what fails in time its error", async () => {
  expect(await orLate(Promise.resolve(7), 60_000)).toEqual({ value: 7 });
  await expect(orLate(Promise.reject(new Error("no")), 60_000)).rejects.toThrow("no");
});

test("what is not done in time is late, and its own caller hears how it ends", async () => {
  const work = sleep(50, "done");
  expect(await orLate(work, 1)).toBe("late");
  expect(await work).toBe("done");
});

test("no timer is left", async () => {
  const before = process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
  await orLate(Promise.resolve(), 60_000);
  expect(process.getActiveResourcesInfo().filter((name) => name === "Timeout")).toHaveLength(before);
});
