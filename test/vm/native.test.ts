/** Every test case of the doctest program on this kernel, under the same names as in test/native. */
import { expect, test } from "vitest";
import { DOCTEST_PROGRAM, DOCTEST_SKIPPED, doctestCases } from "../harness/doctest-cases.js";
import { quoted } from "./quoted.js";
import { sharedVm } from "./shared-vm.js";

const vm = sharedVm();
const cases = doctestCases();

for (const { title, args } of cases) {
  test(title, async (context) => {
    const run = await vm().run([DOCTEST_PROGRAM, ...args].map(quoted).join(" "));
    if (run.code === DOCTEST_SKIPPED) context.skip(run.stdout.trim().split("\n").at(-1) ?? "missing: not said what");
    expect(run.code, `${run.stdout}${run.stderr}`).toBe(0);
    expect(/test cases:\s+(\d+)/.exec(run.stdout)?.[1], "cases that ran").not.toBe("0");
  });
}

test("the native test program has cases", () => {
  expect(cases.length, `${DOCTEST_PROGRAM}: run \`node .ci/build-native.mjs --tests\``).toBeGreaterThan(0);
});
