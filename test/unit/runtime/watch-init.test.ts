import { expect, test } from "vitest";
import { parseProcessStat } from "../../../src/base/process-stat.js";
import { isLivingInit } from "../../../src/runtime/watch-init.js";

/** /proc/PID/stat as Linux 6.18 writes it, up to the flags and a bit further. */
const stat = (state: string, flags: number, name = "minke-init") =>
  `4711 (${name}) ${state} 4700 4711 4711 0 -1 ${flags} 25 0 0 0 0 0 0 0 20 0 1 0`;

test("isLivingInit of one that waits for signals is true", () => {
  expect(isLivingInit(parseProcessStat(stat("S", 0x40_0100)))).toBe(true);
});

test.each([
  ["that has ended", stat("Z", 0x40_010c)],
  ["that is ending, and waits for the others of its namespace", stat("S", 0x40_0104)],
  ["that was reaped", ""],
  ["whose pid another process has", stat("S", 0x40_0100, "sleep")],
])("isLivingInit of one %s is false", (_, text) => {
  expect(isLivingInit(parseProcessStat(text))).toBe(false);
});
