/** The test cases of the doctest program, and how to run one of them. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const DOCTEST_PROGRAM = fileURLToPath(new URL("../../build/Release/minke-native-test", import.meta.url));

/** Exit code by which a test case says that the machine lacks something; its last line says what. */
export const DOCTEST_SKIPPED = 77;

export interface DoctestCase {
  /** `<file>: <suite>: <name>`, as a test of ours is called. */
  readonly title: string;
  /** Arguments of the program that run this case alone. */
  readonly args: readonly string[];
}

/** All of them; none where the program was not built. */
export function doctestCases(): DoctestCase[] {
  if (!existsSync(DOCTEST_PROGRAM)) return [];
  const list = ["--list-test-cases", "--reporters=xml", "--no-version"];
  const { stdout } = spawnSync(DOCTEST_PROGRAM, list, { encoding: "utf8" });
  return [...stdout.matchAll(/<TestCase\b[^>]*>/g)].map(([tag]) => {
    const [name, suite] = [attribute(tag, "name"), attribute(tag, "testsuite")];
    const file = attribute(tag, "filename").replace(/^.*test\/native\//, "");
    const filters = [`--test-case=${asFilter(name)}`, `--source-file=*${file}`];
    return {
      title: `${file}: ${suite ? `${suite}: ` : ""}${name}`,
      args: ["--no-version", "--no-path-filenames", "--no-colors", ...filters],
    };
  });
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
