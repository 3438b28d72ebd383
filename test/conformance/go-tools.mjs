// @ts-check
/**
 * crictl, critest, and ginkgo, which critest calls to run its specs in parallel: built from the modules that
 * go.mod names, into .cache/bin.
 */
import { createHash } from "node:crypto";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const PACKAGES = {
  crictl: ["build", "sigs.k8s.io/cri-tools/cmd/crictl"],
  critest: ["test", "-c", "sigs.k8s.io/cri-tools/cmd/critest"],
  ginkgo: ["build", "github.com/onsi/ginkgo/v2/ginkgo"],
};

/**
 * Path of the program; built where it is missing or its modules have changed.
 *
 * @param {string} project @param {keyof typeof PACKAGES} name
 */
export function builtTool(project, name) {
  return goProgram(project, { name, dir: join(project, "test/conformance"), command: PACKAGES[name] ?? [] });
}

/**
 * Path of a program of Go below `.cache/bin`; built where it is missing or its modules or sources have changed.
 *
 * @param {string} project
 * @param {{ name: string, dir: string, command: readonly string[], sources?: readonly string[] }} program `command` of
 *   go, the package last; `sources` are files of `dir` beside go.mod and go.sum
 */
export function goProgram(project, { name, dir, command, sources = [] }) {
  const bin = join(project, ".cache/bin");
  const hash = createHash("sha256");
  for (const file of ["go.mod", "go.sum", ...sources]) hash.update(readFileSync(join(dir, file)));
  const inputs = hash.digest("hex");
  const [program, stamp] = [join(bin, name), join(bin, `${name}.inputs`)];
  if (existsSync(program) && existsSync(stamp) && readFileSync(stamp, "utf8") === inputs) return program;
  console.log(`building ${name}`);
  mkdirSync(bin, { recursive: true });
  const [verb = "", ...rest] = command;
  const flags = rest.slice(0, -1);
  const result = spawnSync("go", [verb, ...flags, "-trimpath", "-o", program, rest.at(-1) ?? ""], {
    cwd: dir,
    env: { ...process.env, GOFLAGS: "-mod=readonly" },
    encoding: "utf8",
  });
  if (result.status !== 0) throw new Error(`build ${name}: ${result.error?.message ?? result.stderr}`);
  writeFileSync(stamp, inputs);
  return program;
}
