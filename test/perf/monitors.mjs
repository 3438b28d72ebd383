/** What benchmarks of monitors share: small static programs, pods of one container, and memory figures. */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const PODS = "/api/v1/namespaces/default/pods";
const DEADLINE_MS = 120_000;

/** Compiles C source into a static program. @returns {string} its path */
export function staticProgram(folder, name, source) {
  const program = join(folder, name);
  writeFileSync(`${program}.c`, source);
  const { status, stderr } = spawnSync("gcc", ["-O2", "-static", "-o", program, `${program}.c`], { encoding: "utf8" });
  if (status !== 0) throw new Error(`gcc:\n${stderr}`);
  return program;
}

/** Proportional set size in KiB: what this process alone uses, and its share of what it shares. */
export function pssKib(pid) {
  return Number(/^Pss: +(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))[1]);
}

/** Memory in KiB that belongs to this process alone; a monitor shares the rest, its program. */
export function anonymousKib(pid) {
  return Number(/^Pss_Anon: +(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))[1]);
}

/** Pids of the monitors of the daemon with this cgroup root. */
export function monitorPids(cgroupRoot) {
  const mount = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .find((line) => line.includes(" - cgroup2 "))
    .split(" ")[4];
  const monitors = join(mount, cgroupRoot, "monitors");
  return readdirSync(monitors, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap(({ name }) =>
      readFileSync(join(monitors, name, "cgroup.procs"), "utf8")
        .split("\n")
        .filter(Boolean),
    )
    .map(Number);
}

/** Makes a pod of containers of busybox that are never restarted. */
export async function makePod({ ask }, name, containers, volumes = []) {
  const { status, text } = await ask("POST", PODS, {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name },
    spec: {
      restartPolicy: "Never",
      terminationGracePeriodSeconds: 0,
      containers: containers.map((container) => ({
        image: "minke.test/busybox:1",
        imagePullPolicy: "IfNotPresent",
        ...container,
      })),
      volumes,
    },
  });
  if (status !== 201) throw new Error(`make pod ${name}: ${status} ${text}`);
}

/** Waits until the phases of all pods are these; gives the pods. */
export async function untilPods({ ask }, count, phase) {
  const deadline = performance.now() + DEADLINE_MS;
  for (;;) {
    const pods = JSON.parse((await ask("GET", PODS)).text).items;
    if (pods.filter(({ status }) => status.phase === phase).length === count) return pods;
    if (performance.now() > deadline) throw new Error(`not in ${DEADLINE_MS / 1000} s: ${count} pods are ${phase}`);
    await sleep(20);
  }
}

export async function deletePod({ ask }, name) {
  await ask("DELETE", `${PODS}/${name}?gracePeriodSeconds=0`);
  const deadline = performance.now() + DEADLINE_MS;
  while ((await ask("GET", `${PODS}/${name}`)).status !== 404) {
    if (performance.now() > deadline) throw new Error(`pod ${name} is not gone in ${DEADLINE_MS / 1000} s`);
    await sleep(20);
  }
}
