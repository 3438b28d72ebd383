/**
 * `npm run fuzz -- [NAME...] [--seconds N] [--seed N]`: each target for 60 seconds or as long as
 * said; all of them where none is named.
 *
 * `spec`, `layer` and `grpc` are libFuzzer targets under ASan and UBSan. The corpus in test/fuzz/corpus/NAME
 * is read and never written; what a run finds beside it is kept in .cache/fuzz/NAME, and an input
 * that fails in .cache/fuzz/NAME-failed. `tar` compares minke-layer with GNU tar (tar.mjs).
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { fuzzTar } from "./tar.mjs";

const project = fileURLToPath(new URL("../..", import.meta.url));
const DEFAULT_SECONDS = 60;

/** What each target is built from: source folders or files, libraries, and a dictionary if it has one. */
const TARGETS = {
  spec: { sources: ["test/fuzz/spec_fuzzer.cc", "native/runtime", "native/sys"], libraries: ["-lseccomp"] },
  layer: {
    sources: [
      "test/fuzz/layer_fuzzer.cc",
      ...["decompress", "gzip", "pax", "tar_header", "tar_reader"].map((name) => `native/layer/${name}.cc`),
    ],
    libraries: ["-lz", "-lzstd", "-ldl"],
  },
  grpc: { sources: ["test/fuzz/grpc_fuzzer.cc", "native/grpc"], libraries: ["-lnghttp2"] },
};
const TAR = "tar";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: "string", default: String(DEFAULT_SECONDS) },
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
  },
});
const names = positionals.length > 0 ? positionals : [...Object.keys(TARGETS), TAR];
if (names.some((name) => !TARGETS[name] && name !== TAR) || !(Number(values.seconds) > 0)) {
  console.error(`usage: npm run fuzz -- [${Object.keys(TARGETS).join("|")}|${TAR}] [--seconds N] [--seed N]`);
  process.exit(2);
}
const compiler = ["clang++", "clang++-14"].find((each) => spawnSync(each, ["--version"]).status === 0);
if (!compiler) {
  console.error("fuzz: clang with its runtime is missing (Debian: clang-14 libclang-rt-14-dev)");
  process.exit(1);
}
for (const name of names) {
  if (name !== TAR) run(name, build(name), join(project, "test/fuzz/corpus", name));
  else if (!fuzzTar(Number(values.seconds), Number(values.seed))) process.exit(1);
}

function sourcesOf(path) {
  if (path.endsWith(".cc")) return [path];
  const files = readdirSync(join(project, path)).filter((file) => file.endsWith(".cc"));
  return files.map((file) => join(path, file));
}

/** @returns the program's path; built anew where a source is newer, by make's rule of ages */
function build(name) {
  const target = TARGETS[name];
  const folder = join(project, ".cache/fuzz/build", name);
  mkdirSync(folder, { recursive: true });
  const sources = target.sources.flatMap(sourcesOf);
  const flags =
    "-std=c++20 -O1 -g -D_GNU_SOURCE -Inative -fno-exceptions -Wall -Wextra -Wno-missing-field-initializers -Wno-c99-designator -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -fsanitize-ignorelist=test/fuzz/ubsan-ignore.txt";
  const program = join(folder, "fuzzer");
  const objects = sources.map((source) => join(folder, `${source.replaceAll("/", "_")}.o`));
  const makefile = [
    `${program}: ${objects.join(" ")}\n\t${compiler} ${flags} -o $@ $^ ${target.libraries.join(" ")}`,
    ...sources.map((source, i) => `${objects[i]}: ${source}\n\t${compiler} ${flags} -MMD -c -o $@ $<`),
    ...objects.map((object) => `-include ${object.replace(/\.o$/, ".d")}`),
  ].join("\n");
  const make = spawnSync("make", ["-s", "-j2", "-f", "-", program], {
    cwd: project,
    input: `${makefile}\n`,
    stdio: ["pipe", "inherit", "inherit"],
  });
  if (make.status !== 0) process.exit(1);
  return program;
}

function run(name, program, corpus) {
  const found = join(project, ".cache/fuzz", name);
  const failed = `${found}-failed/`;
  for (const folder of [found, failed]) mkdirSync(folder, { recursive: true });
  const dictionary = join(project, "test/fuzz", `${name}.dict`);
  const { status } = spawnSync(
    program,
    [
      found,
      ...(existsSync(corpus) ? [corpus] : []),
      `-max_total_time=${values.seconds}`,
      `-seed=${values.seed}`,
      `-artifact_prefix=${failed}`,
      "-max_len=65536",
      "-timeout=10",
      "-rss_limit_mb=2048",
      "-print_final_stats=1",
      // Each new input is a line, thousands in a minute: for who looks on.
      `-verbosity=${process.stdout.isTTY ? 1 : 0}`,
      ...(existsSync(dictionary) ? [`-dict=${dictionary}`] : []),
    ],
    { cwd: project, stdio: "inherit" },
  );
  if (status !== 0) process.exit(status ?? 1);
}
