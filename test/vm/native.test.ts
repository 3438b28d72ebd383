/** Every test case of the doctest program on this kernel, under the same names as in test/native. */
import { beforeAll, expect, test } from "vitest";
import { DOCTEST_PROGRAM, DOCTEST_SKIPPED, doctestCases } from "../harness/doctest-cases.js";
import { quoted } from "./quoted.js";
import { sharedVm } from "./shared-vm.js";

const vm = sharedVm();
const cases = doctestCases();
const ALL_MS = 300_000;

/** Exit code and standard output of each, by its place: all in one command, since each costs a fifth of a second. */
const ran = new Map<number, { code: number; stdout: string }>();
let stderr = "";

beforeAll(async () => {
  const lines = cases.map(({ args }, index) => {
    const command = [DOCTEST_PROGRAM, ...args].map(quoted).join(" ");
    return `timeout -s KILL 60 ${command}; echo "=== case ${index} ended with $?"`;
  });
  const run = await vm().run(lines.join("\n"), { timeoutMs: ALL_MS });
  stderr = run.stderr;
  let rest = run.stdout;
  for (const [line, index, code] of run.stdout.matchAll(/^=== case (\d+) ended with (\d+)\n/gm)) {
    const end = rest.indexOf(line);
    ran.set(Number(index), { code: Number(code), stdout: rest.slice(0, end) });
    rest = rest.slice(end + line.length);
  }
}, ALL_MS + 30_000);

for (const [index, { title }] of cases.entries()) {
  test(title, (context) => {
    const { code, stdout } = ran.get(index) ?? { code: -1, stdout: "it did not end" };
    if (code === DOCTEST_SKIPPED) context.skip(stdout.trim().split("\n").at(-1) ?? "missing: not said what");
    expect(code, `${stdout}${stderr}`).toBe(0);
    expect(/test cases:\s+(\d+)/.exec(stdout)?.[1], "cases that ran").not.toBe("0");
  });
}

test("the native test program has cases", () => {
  expect(cases.length, `${DOCTEST_PROGRAM}: run \`node .ci/build-native.mjs --tests\``).toBeGreaterThan(0);
});
