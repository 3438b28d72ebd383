/**
 * Every test case of the doctest program (test/native/*.cc) as a test of its own: a case
 * that crashes fails alone, and the closing count is of cases.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeEach, describe, expect, test } from "vitest";
import { requires } from "../harness/requires.js";

const program = fileURLToPath(new URL("../../build/Release/minke-native-test", import.meta.url));

/** Exit code by which a test case says that the machine lacks something; its last line says what. */
const SKIPPED = 77;

interface Case {
  readonly file: string;
  readonly suite: string;
  readonly name: string;
}

function listCases(): Case[] {
  const { stdout } = spawnSync(program, ["--list-test-cases", "--reporters=xml", "--no-version"], { encoding: "utf8" });
  return [...stdout.matchAll(/<TestCase\b[^>]*>/g)].map(([tag]) => ({
    name: attribute(tag, "name"),
    suite: attribute(tag, "testsuite"),
    file: attribute(tag, "filename").replace(/^.*test\/native\//, ""),
  }));
}

function attribute(tag: string, key: string): string {
  const value = new RegExp(`\\s${key}="([^"]*)"`).exec(tag)?.[1] ?? "";
  const entities: Record<string, string> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };
  return value.replace(/&(\w+);/g, (whole, name: string) => entities[name] ?? whole);
}

/** doctest's filters are lists with wildcards: commas are escaped, and `?` matches what cannot be. */
function asFilter(name: string): string {
  return name.replace(/\\/g, "?").replace(/,/g, "\\,");
}

describe.skipIf(!existsSync(program))("native", () => {
  beforeEach(requires("root"));
  const cases = existsSync(program) ? listCases() : [];
  for (const { file, suite, name } of cases) {
    test(`${file}: ${suite ? `${suite}: ` : ""}${name}`, (context) => {
      const filters = [`--test-case=${asFilter(name)}`, `--source-file=*${file}`];
      const run = spawnSync(program, ["--no-version", "--no-path-filenames", "--no-colors", ...filters], {
        encoding: "utf8",
        timeout: 55_000,
        killSignal: "SIGKILL",
      });
      if (run.status === SKIPPED) context.skip(run.stdout.trim().split("\n").at(-1) ?? "missing: not said what");
      const output = `${run.stdout}${run.stderr}`;
      expect(run.status, run.signal ? `${run.signal}\n${output}` : output).toBe(0);
      expect(/test cases:\s+(\d+)/.exec(run.stdout)?.[1], "cases that ran").not.toBe("0");
    });
  }
});

test("the native test program is built", () => {
  expect(existsSync(program), `${program} is missing: run \`node .ci/build-native.mjs --tests\``).toBe(true);
});
