/**
 * `npm run bench -- oci [--runs N]`: `run` of a trivial bundle, and create + start + delete, by
 * minke-oci and Debian sid's crun and runc (sid.mjs), interleaved in one run; medians and the ratio to crun.
 *
 * Every runtime gets the same config without linux.resources, in a private mount namespace with
 * a fresh cgroup2 on /sys/fs/cgroup: crun refuses hybrid hosts. Times are of whole processes, from spawn to exit.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, release, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { peerPrograms } from "./sid.mjs";
import { withUndo } from "./undo.mjs";

const self = fileURLToPath(import.meta.url);
const project = fileURLToPath(new URL("../..", import.meta.url));
const WARM_UP_RUNS = 2;
const { values } = parseArgs({ allowPositionals: true, options: { runs: { type: "string", default: "30" } } });
const runs = Number(values.runs);
if (process.getuid() !== 0 || !(runs > 0)) {
  console.error("usage (as root): npm run bench -- oci [--runs N]");
  process.exit(2);
}
if (!process.env.MINKE_BENCH_PRIVATE) enterPrivateNamespace();

const folder = mkdtempSync(join(tmpdir(), "minke-bench-oci-"));
await withUndo(async (undo) => {
  undo.push(() => rmSync(folder, { recursive: true, force: true }));
  await measure();
});

function enterPrivateNamespace() {
  const script = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$0" "$@"';
  const { status } = spawnSync(
    "unshare",
    ["-m", "--propagation", "private", "sh", "-c", script, process.execPath, self, "oci", "--runs", String(runs)],
    { stdio: "inherit", env: { ...process.env, MINKE_BENCH_PRIVATE: "1" } },
  );
  process.exit(status ?? 1);
}

async function measure() {
  const bundle = makeBundle();
  const runtimes = [{ name: "minke-oci", path: join(project, "build/Release/minke-oci") }];
  const { suite, root, env } = peerPrograms();
  for (const name of ["crun", "runc"]) {
    const folder = ["usr/bin", "usr/sbin"].find((dir) => existsSync(join(root, dir, name)));
    const path = join(root, folder ?? "", name);
    runtimes.push({ name, path });
  }
  for (const runtime of runtimes) {
    runtime.env = env;
    const { stdout } = spawnSync(runtime.path, ["--version"], { encoding: "utf8", env: runtime.env });
    runtime.version = stdout.split("\n")[0];
    runtime.run = [];
    runtime.lifecycle = [];
  }
  console.log(`peers: ${suite}`);
  for (let i = -WARM_UP_RUNS; i < runs; i++) {
    for (const runtime of runtimes) {
      const id = `minke-bench-${process.pid}-${i + WARM_UP_RUNS}`;
      const runMs = call(runtime, bundle, ["run", id]);
      const pidFile = join(folder, "pid");
      let lifecycleMs = call(runtime, bundle, ["create", "--pid-file", pidFile, id]);
      const pid = readFileSync(pidFile, "utf8").trim();
      lifecycleMs += call(runtime, bundle, ["start", id]);
      while (isAlive(pid)) await sleep(1);
      lifecycleMs += call(runtime, bundle, ["delete", id]);
      if (i < 0) continue;
      runtime.run.push(runMs);
      runtime.lifecycle.push(lifecycleMs);
    }
  }
  print(runtimes);
}

/** A process that is a zombie has ended: a runtime sees it so too. */
function isAlive(pid) {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

function call(runtime, bundle, args) {
  const start = performance.now();
  const { status } = spawnSync(runtime.path, ["--root", join(folder, runtime.name), ...args], {
    cwd: bundle,
    stdio: "ignore",
    env: runtime.env,
    timeout: 30_000,
  });
  const elapsedMs = performance.now() - start;
  if (status !== 0) throw new Error(`${runtime.name} ${args.join(" ")}: exit status ${status}`);
  return elapsedMs;
}

function makeBundle() {
  const bundle = join(folder, "bundle");
  mkdirSync(join(bundle, "rootfs/bin"), { recursive: true });
  for (const name of ["proc", "dev", "sys"]) mkdirSync(join(bundle, "rootfs", name));
  writeFileSync(join(folder, "true.c"), "int main(void) { return 0; }\n");
  const { status } = spawnSync(
    "gcc",
    ["-O2", "-static", "-o", join(bundle, "rootfs/bin/true"), join(folder, "true.c")],
    { stdio: "inherit" },
  );
  if (status !== 0 || !existsSync(join(bundle, "rootfs/bin/true"))) throw new Error("gcc made no program");
  spawnSync(join(project, "build/Release/minke-oci"), ["spec", "--bundle", bundle]);
  const config = JSON.parse(readFileSync(join(bundle, "config.json"), "utf8"));
  config.ociVersion = "1.0.2"; // what Debian 12's crun knows
  config.process.args = ["/bin/true"];
  config.process.terminal = false;
  delete config.linux.resources;
  writeFileSync(join(bundle, "config.json"), JSON.stringify(config));
  return bundle;
}

function print(runtimes) {
  const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];
  const crun = runtimes.find(({ name }) => name === "crun");
  console.log(`kernel ${release()}, ${availableParallelism()} CPUs, ${runs} runs interleaved, medians in ms`);
  console.log(`${"".padEnd(30)}${"run".padStart(8)}${"create+start+delete".padStart(22)}`);
  for (const { version, run, lifecycle } of runtimes) {
    console.log(
      `${version.padEnd(30)}${median(run).toFixed(2).padStart(8)}${median(lifecycle).toFixed(2).padStart(22)}`,
    );
  }
  if (!crun) return;
  const [minke] = runtimes;
  const ratio = (key) => (median(minke[key]) / median(crun[key])).toFixed(2);
  console.log(`minke-oci / crun: run ${ratio("run")}, create+start+delete ${ratio("lifecycle")} (goal: at most 0.60)`);
}
