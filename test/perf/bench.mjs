/**
 * `npm run bench -- pod-start [--runs N] [--containers N]`: how long a pod takes to start, with
 * the floor program's figure beside it, interleaved in one run on the same machine.
 *
 * A start is measured at the API socket: from the request that makes the pod to the watch event
 * in which every container runs. The image is cached. The daemon is one of its own.
 */
import { spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { request } from "node:http";
import { availableParallelism, release, tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const project = fileURLToPath(new URL("../..", import.meta.url));
const minke = join(project, "dist/cli/main.js");
const podsPath = "/api/v1/namespaces/default/pods";
const WARM_UP_RUNS = 3;
const DEADLINE_MS = 30_000;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { runs: { type: "string", default: "50" }, containers: { type: "string", default: "1" } },
});
const runs = Number(values.runs);
const containers = Number(values.containers);
if (positionals[0] === "pull" && runs > 0) {
  const { benchPull } = await import("./pull.mjs");
  await benchPull(runs);
  process.exit();
}
if (positionals[0] !== "pod-start" || !(runs > 0) || !(containers > 0)) {
  console.error("usage: npm run bench -- pod-start [--runs N] [--containers N]");
  console.error("       npm run bench -- pull [--runs N]");
  process.exit(2);
}
if (process.getuid() !== 0) {
  console.error("bench: needs root");
  process.exit(1);
}

const folder = mkdtempSync(join(tmpdir(), "minke-bench-"));
const run = join(folder, "run");
const cgroupRoot = `minke-bench-${process.pid}`;
const cgroup2 = findCgroup2();
const undo = [() => rmSync(folder, { recursive: true, force: true })];
try {
  const floor = startFloor();
  await startDaemon();
  command("load", join(project, ".cache/fixtures/layout"));
  const watch = await openWatch();
  const figures = { floor: [], pod: [] };
  for (let i = -WARM_UP_RUNS; i < runs; i++) {
    const floorMs = (await floor()) / 1000;
    const podMs = await startPod(watch, `bench-${i + WARM_UP_RUNS}`);
    if (i >= 0) {
      figures.floor.push(floorMs);
      figures.pod.push(podMs);
    }
  }
  watch.close();
  print(figures);
} finally {
  for (const step of undo.reverse()) await step();
}

function print(figures) {
  const row = (name, list) => {
    const sorted = list.toSorted((a, b) => a - b);
    const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))].toFixed(2).padStart(9);
    return `${name.padEnd(26)}${at(0.5)}${at(0.9)}${at(0)}`;
  };
  const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];
  console.log(`kernel ${release()}, ${availableParallelism()} CPUs, Node ${process.version}, ${runs} runs, in ms`);
  console.log(`${"".padEnd(26)}${"median".padStart(9)}${"p90".padStart(9)}${"least".padStart(9)}`);
  console.log(row("floor", figures.floor));
  console.log(row(`pod-start, ${containers} container${containers > 1 ? "s" : ""}`, figures.pod));
  console.log(`ratio of the medians: ${(median(figures.pod) / median(figures.floor)).toFixed(2)}`);
}

/** The floor program as a function: one pod a call, in microseconds. */
function startFloor() {
  const scratch = join(folder, "floor");
  const cgroup = join(cgroup2, `${cgroupRoot}-floor`);
  mkdirSync(join(scratch, "lower/bin"), { recursive: true });
  mkdirSync(join(scratch, "root"));
  mkdirSync(cgroup);
  const program = join(scratch, "floor");
  compile(["-O2", "-o", program, join(project, "test/perf/floor.c"), "-lpthread"]);
  const source = join(scratch, "true.c");
  writeFileSync(source, "int main(void) { return 0; }\n");
  compile(["-O2", "-static", "-o", join(scratch, "lower/bin/true"), source]);

  const child = spawn(program, [scratch, cgroup], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  undo.push(async () => {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.stdin.end();
    if (child.exitCode === null) await ended;
    for (const entry of readdirSync(cgroup, { withFileTypes: true })) {
      if (entry.isDirectory()) rmdirSync(join(cgroup, entry.name));
    }
    rmdirSync(cgroup);
  });
  return async () => {
    child.stdin.write("\n");
    const { value, done } = await lines.next();
    if (done) throw new Error("the floor program ended");
    return JSON.parse(value).totalUs;
  };
}

function compile(args) {
  const { status, stderr } = spawnSync("gcc", args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`gcc ${args.join(" ")}:\n${stderr}`);
}

async function startDaemon() {
  const config = join(folder, "config.toml");
  writeFileSync(
    config,
    `log-level = "warn"
cgroup-root = "${cgroupRoot}"
tolerate-missing-controllers = true
[network]
bridge = "mkb${process.pid.toString(36)}"
subnet-ipv4 = "10.206.252.0/22"
subnet-ipv6 = "fd6d:696e:6b65:beef::/64"
`,
  );
  for (const path of ["root", "run"]) mkdirSync(join(folder, path), { mode: 0o700 });
  const log = openSync(join(folder, "daemon.log"), "a");
  const args = [minke, "daemon", "--root", join(folder, "root"), "--run", run, "--config", config];
  const child = spawn(process.execPath, args, { stdio: ["ignore", log, log] });
  closeSync(log);
  undo.push(async () => {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    if (child.exitCode !== null) return;
    // Not spawnSync: the command waits for the daemon to be gone, and it is ours to reap.
    const env = { ...process.env, MINKE_ROOT: join(folder, "root"), MINKE_RUN: run };
    spawn(process.execPath, [minke, "daemon", "stop", "--pods"], { env, stdio: "ignore" });
    await ended;
  });
  for (let waitedMs = 0; ; waitedMs += 20) {
    const answer = await ask("GET", "/healthz").catch(() => undefined);
    if (answer?.status === 200) return;
    if (child.exitCode !== null || waitedMs > DEADLINE_MS) {
      throw new Error(`the daemon did not start:\n${readFileSync(join(folder, "daemon.log"), "utf8")}`);
    }
    await sleep(20);
  }
}

function command(...args) {
  const env = { ...process.env, MINKE_ROOT: join(folder, "root"), MINKE_RUN: run };
  const { status, stderr } = spawnSync(process.execPath, [minke, ...args], { encoding: "utf8", env });
  if (status !== 0) throw new Error(`minke ${args.join(" ")} ended with ${status}: ${stderr}`);
}

function ask(method, path, body) {
  return new Promise((resolve, reject) => {
    const headers = body ? { "content-type": "application/json" } : {};
    const call = request({ socketPath: join(run, "api.sock"), method, path, headers }, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.once("end", () => resolve({ status: response.statusCode, text: Buffer.concat(chunks).toString() }));
    });
    call.once("error", reject);
    call.end(body ? JSON.stringify(body) : undefined);
  });
}

/** Watch events of pods; `until` waits for one that fits, from those that come after the call. */
function openWatch() {
  return new Promise((resolve, reject) => {
    const waiting = new Set();
    const call = request({ socketPath: join(run, "api.sock"), path: `${podsPath}?watch=true` }, (response) => {
      const lines = createInterface({ input: response });
      // Ours to end: `close` cuts the connection.
      lines.on("error", () => undefined);
      lines.on("line", (line) => {
        const event = JSON.parse(line);
        for (const one of waiting) {
          if (!one.fits(event)) continue;
          waiting.delete(one);
          one.resolve(performance.now());
        }
      });
      const until = (what, fits) =>
        new Promise((done, fail) => {
          const one = { fits, resolve: done };
          waiting.add(one);
          setTimeout(
            () => waiting.delete(one) && fail(new Error(`no event within ${DEADLINE_MS} ms: ${what}`)),
            DEADLINE_MS,
          ).unref();
        });
      resolve({ until, close: () => call.destroy() });
    });
    call.once("error", reject);
    call.end();
  });
}

async function startPod(watch, name) {
  const started = watch.until(`${name} runs`, ({ object }) => {
    const statuses = object.metadata?.name === name ? (object.status?.containerStatuses ?? []) : [];
    return statuses.length === containers && statuses.every(({ state }) => state?.running);
  });
  const begin = performance.now();
  const { status, text } = await ask("POST", podsPath, {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name },
    spec: {
      restartPolicy: "Never",
      terminationGracePeriodSeconds: 0,
      containers: Array.from({ length: containers }, (_, i) => ({
        name: `main-${i}`,
        image: "minke.test/busybox:1",
        imagePullPolicy: "IfNotPresent",
        command: ["sleep", "1000"],
      })),
    },
  });
  if (status !== 201 && status !== 200) throw new Error(`make pod ${name}: ${status} ${text}`);
  const elapsedMs = (await started) - begin;
  const gone = watch.until(
    `${name} is gone`,
    ({ type, object }) => type === "DELETED" && object.metadata?.name === name,
  );
  await ask("DELETE", `${podsPath}/${name}?gracePeriodSeconds=0`);
  await gone;
  return elapsedMs;
}

function findCgroup2() {
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const [before, after] = line.split(" - ");
    if (after?.startsWith("cgroup2 ")) return before.split(" ")[4];
  }
  throw new Error("cgroup v2 is not mounted");
}
