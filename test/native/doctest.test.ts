/**
 * Every test case of the doctest program (test/native/*.cc) as a test of its own: a case
 * that crashes fails alone, and the closing count is of cases.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { beforeEach, describe, expect, test } from "vitest";
import { DOCTEST_PROGRAM, DOCTEST_SKIPPED, doctestCases } from "../harness/doctest-cases.js";
import { requires } from "../harness/requires.js";

describe.skipIf(!existsSync(DOCTEST_PROGRAM))("native", () => {
  beforeEach(requires("root"));
  for (const { title, args } of doctestCases()) {
    test(title, (context) => {
      const run = spawnSync(DOCTEST_PROGRAM, args, { encoding: "utf8", timeout: 55_000, killSignal: "SIGKILL" });
      if (run.status === DOCTEST_SKIPPED)
        context.skip(run.stdout.trim().split("\n").at(-1) ?? "missing: not said what");
      const output = `${run.stdout}${run.stderr}`;
      expect(run.status, run.signal ? `${run.signal}\n${output}` : output).toBe(0);
      expect(/test cases:\s+(\d+)/.exec(run.stdout)?.[1], "cases that ran").not.toBe("0");
    });
  }
});

test("the native test program is built", () => {
  expect(existsSync(DOCTEST_PROGRAM), `${DOCTEST_PROGRAM}: run \`node .ci/build-native.mjs --tests\``).toBe(true);
});
