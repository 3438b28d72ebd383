import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { hasEnded, parseProcessStat } from "../../../src/base/process-stat.js";

/** As Linux 6.18 writes it, up to the start time and a bit further. */
const text = (name: string, state = "S", flags = 0x40_0100) =>
  `4711 (${name}) ${state} 4700 4711 4711 0 -1 ${flags} 25 6 7 8 0 0 0 0 20 0 1 0 987654 1 2`;

test.each(["sh", "a b", ") R 1 1", "((", ""])("the fields are found behind the name %j", (name) => {
  expect(parseProcessStat(text(name))).toEqual({
    name,
    state: "S",
    parent: 4700,
    isExiting: false,
    minorFaults: 25,
    majorFaults: 7,
    startTicks: "987654",
  });
});

test("this process runs, and is no child of its own", () => {
  const stat = parseProcessStat(readFileSync("/proc/self/stat", "utf8"));
  expect(hasEnded(stat)).toBe(false);
  expect(stat).toMatchObject({ parent: process.ppid, isExiting: false, startTicks: expect.stringMatching(/^\d+$/) });
});

test("no such process has ended, and so have a zombie and a dead one, but not one on its way to its end", () => {
  expect(parseProcessStat("")).toBeUndefined();
  expect([undefined, ...["Z", "X", "D"].map((state) => parseProcessStat(text("x", state)))].map(hasEnded)).toEqual([
    ...[true, true, true],
    false,
  ]);
  const ending = parseProcessStat(text("x", "S", 0x40_0104));
  expect([hasEnded(ending), ending?.isExiting]).toEqual([false, true]);
});
