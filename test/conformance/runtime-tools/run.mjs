// @ts-check
/**
 * `npm run test:runtime-tools [-- --only PROGRAM] [-- --verbose]`: the validation programs of
 * opencontainers/runtime-tools, each run with minke-oci, crun and runc as its runtime.
 *
 * Every run has mount, pid and cgroup namespaces of its own: a fresh cgroup2 on /sys/fs/cgroup,
 * nothing of cgroup v1 in sight, and no process that outlives it. expected.json lists each program
 * that fails with minke-oci: what fails, why, and whether the peers fail too. A change in either
 * direction fails this run; one of a peer, which may be chance, is told and no more. Only programs
 * that are listed say something of the peers.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

/** @typedef {{ name: string, path: string, preload?: string }} Runtime */
/** @typedef {{ program: string, runtime: string, failures: string[], errors: string }} Result */
/** @typedef {{ reason: string, fails: string[], crun: string, runc: string, racy?: boolean }} Expected */

const MODULE = "github.com/opencontainers/runtime-tools";
const HERE = fileURLToPath(new URL(".", import.meta.url));
const PROJECT = fileURLToPath(new URL("../../..", import.meta.url));
const CACHE = join(PROJECT, ".cache/runtime-tools");
const SIDE_BY_SIDE = 4; // they mostly sleep
const LIMIT_S = 120;
const { values: options } = parseArgs({
  options: { only: { type: "string" }, verbose: { type: "boolean", default: false } },
});

/** @param {string[]} args */
function go(...args) {
  const result = spawnSync("go", args, {
    cwd: HERE,
    env: { ...process.env, CGO_ENABLED: "0", GOFLAGS: "-mod=readonly" },
    encoding: "utf8",
  });
  if (result.status !== 0) throw new Error(`go ${args[0]}: ${result.error?.message ?? result.stderr}`);
  return result.stdout.trim();
}

/** Builds runtimetest and the programs where the module has changed. Answers the programs' names. */
function builtPrograms() {
  const stamp = join(CACHE, "inputs");
  const inputs = createHash("sha256")
    .update(readFileSync(join(HERE, "go.mod")))
    .update(readFileSync(join(HERE, "go.sum")))
    .digest("hex");
  const programs = join(CACHE, "programs");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === inputs) return readdirSync(programs);
  console.log("building the programs of runtime-tools");
  rmSync(CACHE, { recursive: true, force: true });
  mkdirSync(programs, { recursive: true });
  go("mod", "download", MODULE);
  const source = go("list", "-m", "-f", "{{.Dir}}", MODULE);
  const build = ["build", "-trimpath", "-ldflags=-s -w", "-o"];
  // Static: it runs inside of containers that have no libc.
  go(...build, join(CACHE, "runtimetest"), `${MODULE}/cmd/runtimetest`);
  const folders = readdirSync(join(source, "validation"), { withFileTypes: true }).filter((entry) =>
    entry.isDirectory(),
  );
  const names = folders.map(({ name }) => name).filter((name) => name !== "util");
  go(...build, `${programs}/`, ...names.map((name) => `${MODULE}/validation/${name}`));
  const rootfs = "rootfs-amd64.tar.gz";
  copyFileSync(join(source, rootfs), join(CACHE, rootfs));
  writeFileSync(stamp, inputs);
  return readdirSync(programs);
}

/** @param {string} work @returns {Runtime[]} */
function runtimes(work) {
  const preload = join(work, "memlock.so");
  const compiled = spawnSync("gcc", ["-shared", "-fPIC", "-O1", "-o", preload, join(HERE, "memlock.c")]);
  if (compiled.status !== 0) throw new Error(`gcc: ${compiled.stderr}`);
  const found = [{ name: "minke-oci", path: join(PROJECT, "build/Release/minke-oci") }];
  for (const name of ["crun", "runc"]) {
    const { stdout, status } = spawnSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" });
    if (status !== 0) throw new Error(`${name} is not installed; Debian's package of that name has it`);
    found.push({ name, path: stdout.trim(), ...(name === "crun" ? { preload } : {}) });
  }
  return found;
}

function cgroup2Mount() {
  const line = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .find((text) => text.includes(" - cgroup2 "));
  if (!line) throw new Error("no cgroup v2 mount here");
  return line.split(" ")[4] ?? "";
}

// Programs signal a container as soon as `start` returns: its shell must have set its trap by then.
/** @param {Runtime} runtime @param {string} folder */
function wrapper(runtime, folder) {
  const preload = runtime.preload ? `LD_PRELOAD=${runtime.preload} ` : "";
  const path = join(folder, "runtime");
  writeFileSync(
    path,
    `#!/bin/sh
${preload}${runtime.path} --root ${folder}/state "$@"
code=$?
[ "$1" != start ] || sleep 0.3
exit $code
`,
    { mode: 0o755 },
  );
  return path;
}

// $CGROUP becomes the root that the runtimes see; all of the runner is in a leaf below it, since
// a cgroup with processes hands no controllers down (cgroups(7), "no internal processes").
const ENTER = `echo $$ >"$CGROUP/cgroup.procs" && exec unshare --cgroup sh -c '
  mkdir "$CGROUP/runner" && echo $$ >"$CGROUP/runner/cgroup.procs" &&
  exec unshare --mount --pid --fork --kill-child --mount-proc --propagation private sh -c "
    mount -t tmpfs none /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \\"\\$@\\"
  " sh "$@"' sh "$@"`;

/** @param {string} path */
function removeCgroup(path) {
  for (let attempt = 0; attempt < 100 && existsSync(path); attempt++) {
    const below = readdirSync(path, { recursive: true, withFileTypes: true }).filter((entry) => entry.isDirectory());
    const folders = below.map((entry) => join(entry.parentPath, entry.name)).toSorted((a, b) => b.length - a.length);
    try {
      for (const folder of [...folders, path]) rmdirSync(folder);
    } catch {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20); // the last process is ending
    }
  }
  if (existsSync(path)) throw new Error(`cgroup ${path} is left`);
}

/** @param {string} program @param {Runtime} runtime @param {string} work @param {string} mount */
async function run(program, runtime, work, mount) {
  const name = `${runtime.name}-${program}`;
  const folder = join(work, name);
  mkdirSync(join(folder, "tmp"), { recursive: true });
  const cgroup = join(mount, `minke-rt-${process.pid}-${name}`);
  mkdirSync(cgroup);
  const child = spawn("sh", ["-c", ENTER, "sh", join(CACHE, "programs", program)], {
    cwd: CACHE,
    env: { ...process.env, CGROUP: cgroup, TMPDIR: join(folder, "tmp"), RUNTIME: wrapper(runtime, folder) },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: LIMIT_S * 1000,
    killSignal: "SIGKILL",
  });
  let [output, errors] = ["", ""];
  child.stdout.on("data", (bytes) => (output += bytes));
  child.stderr.on("data", (bytes) => (errors += bytes));
  const status = await new Promise((resolve) => child.on("close", (code) => resolve(code ?? "none: it was killed")));
  rmSync(folder, { recursive: true, force: true });
  removeCgroup(cgroup);
  const failures = failuresOf(output, String(status));
  if (options.verbose) console.log(`--- ${name}\n${output}${errors}`);
  return { program, runtime: runtime.name, failures, errors };
}

/**
 * TAP as these programs write it: some print no test at all but an "error" in a diagnostic.
 *
 * @param {string} output @param {string} status
 */
function failuresOf(output, status) {
  const failures = new Set([...output.matchAll(/^not ok \d+ - (.*)$/gm)].map(([, text = ""]) => text));
  if (status !== "0") failures.add(`exit status ${status}`);
  if (!/^(not )?ok /m.test(output)) {
    for (const [, text = ""] of output.matchAll(/^ {4}"error": "(.+)"$/gm)) failures.add(text.split("\\n")[0] ?? "");
  }
  return [...failures].toSorted();
}

/** @param {readonly Result[]} results @param {string} program @param {string} runtime */
function verdictOf(results, program, runtime) {
  const result = results.find((one) => one.program === program && one.runtime === runtime);
  return result && result.failures.length > 0 ? "fails" : "passes";
}

/**
 * @param {readonly Result[]} results @param {readonly string[]} programs
 * @param {Readonly<Record<string, Expected>>} expected
 */
function compare(results, programs, expected) {
  let surprises = 0;
  const say = (/** @type {string} */ text) => {
    surprises++;
    console.log(text);
  };
  for (const { program, runtime, failures, errors } of results) {
    const known = expected[program];
    if (runtime !== "minke-oci" || known?.racy) continue; // either outcome says nothing
    const wanted = known?.fails.toSorted() ?? [];
    const peers = `crun ${verdictOf(results, program, "crun")}, runc ${verdictOf(results, program, "runc")}`;
    if (JSON.stringify(failures) !== JSON.stringify(wanted)) {
      const lines = (/** @type {string[]} */ list) => list.map((text) => `\n      ${text}`).join("");
      say(`OTHER THAN EXPECTED: ${program} (${peers})\n    fails:${lines(failures)}\n    listed:${lines(wanted)}`);
      console.log(`    ${errors.trim().split("\n").slice(0, 8).join("\n    ")}`);
    } else if (known && peers !== `crun ${known.crun}, runc ${known.runc}`) {
      console.log(`peers other than listed: ${program}: ${peers}; listed: crun ${known.crun}, runc ${known.runc}`);
    }
  }
  if (!options.only) {
    for (const name of Object.keys(expected)) if (!programs.includes(name)) say(`LISTED, and no program: ${name}`);
  }
  for (const name of ["minke-oci", "crun", "runc"]) {
    const own = results.filter(
      ({ runtime, program }, at) =>
        runtime === name && results.findIndex((one) => one.runtime === name && one.program === program) === at,
    );
    const failed = own.filter(({ failures }) => failures.length > 0).length;
    console.log(`${name.padEnd(10)} ${own.length - failed} of ${own.length} programs pass`);
  }
  console.log(surprises === 0 ? "as expected" : `${surprises} surprises`);
  return surprises === 0 ? 0 : 1;
}

async function main() {
  if (process.getuid?.() !== 0) throw new Error("needs root");
  const programs = builtPrograms().filter((name) => options.only === undefined || name === options.only);
  const work = mkdtempSync(join(tmpdir(), "minke-rt-"));
  const mount = cgroup2Mount();
  try {
    const all = runtimes(work);
    const queue = programs.flatMap((program) => all.map((runtime) => ({ program, runtime })));
    /** @type {Result[]} */
    const results = [];
    const worker = async () => {
      for (let next = queue.shift(); next; next = queue.shift()) {
        results.push(await run(next.program, next.runtime, work, mount));
      }
    };
    await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker));
    /** @type {Record<string, Expected>} */
    const expected = JSON.parse(readFileSync(join(HERE, "expected.json"), "utf8"));
    // crun's outcome is a matter of chance where a hook does not read its standard input: a peer
    // gets further tries. minke-oci gets one.
    for (const runtime of all.slice(1)) {
      for (const program of programs) {
        const listed = expected[program]?.[/** @type {"crun" | "runc"} */ (runtime.name)];
        if (!listed) continue;
        for (let again = 0; again < 3; again++) {
          if (verdictOf(results, program, runtime.name) === listed) break;
          results.unshift(await run(program, runtime, work, mount));
        }
      }
    }
    return compare(results, programs, expected);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

process.exitCode = await main();
