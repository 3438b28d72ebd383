/**
 * `npm run bench -- cri [--runs N] [--pods N] [--workers N] [--skip-peer]`: what the verbs of CRI cost.
 *
 * A pod's life through CRI, verb by verb, median and p95; then many pods at once; beside the floor
 * program and containerd (cri-peer.mjs), interleaved in one run on the same machine. Images are cached.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { criClient } from "./cri-client.mjs";
import { startContainerd } from "./cri-peer.mjs";
import { startDaemon } from "./daemon.mjs";
import { heading, median, quantile, row } from "./figures.mjs";
import { startFloor } from "./floor.mjs";
import { withUndo } from "./undo.mjs";

const WARM_UP_RUNS = 3;
const LISTS = 5;
const { values } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: "string", default: "50" },
    pods: { type: "string", default: "100" },
    workers: { type: "string", default: "10" },
    "skip-peer": { type: "boolean", default: false },
  },
});
const [runs, pods, workers] = [values.runs, values.pods, values.workers].map(Number);
if (process.getuid() !== 0 || !(runs > 0) || !(pods >= 0) || !(workers > 0)) {
  console.error("usage (as root): npm run bench -- cri [--runs N] [--pods N] [--workers N] [--skip-peer]");
  process.exit(2);
}

const folder = mkdtempSync(join(tmpdir(), "minke-bench-"));
const cgroupRoot = `minke-bench-${process.pid}`;
await withUndo(async (undo) => {
  undo.push(() => rmSync(folder, { recursive: true, force: true }));
  const floor = startFloor(folder, `${cgroupRoot}-floor`, undo);
  const daemon = await startDaemon(folder, cgroupRoot, undo);
  const contenders = [{ name: "minke", ...criClient(daemon.criSocket), image: "minke.test/busybox:1" }];
  const peer = values["skip-peer"] ? undefined : await startContainerd(folder, undo);
  if (peer) contenders.push({ name: peer.name, ...criClient(peer.socket), image: peer.image });
  const floorMs = [];
  for (let i = -WARM_UP_RUNS; i < runs; i++) {
    const ms = await floor();
    if (i >= 0) floorMs.push(ms);
    for (const contender of contenders) {
      const times = await podLife(contender, `life-${i + WARM_UP_RUNS}`);
      if (i >= 0) for (const [verb, value] of Object.entries(times)) ((contender.ms ??= {})[verb] ??= []).push(value);
    }
  }
  printLives(contenders, floorMs);
  if (pods > 0) {
    console.log(`\n${pods} pods of one container by ${workers} workers`);
    console.log(row("", ["started/s", "stopped/s", "list, ms"]));
    for (const contender of contenders) console.log(row(contender.name, await manyPods(contender)));
  }
  for (const { close } of contenders) close();
});

/** @returns {Promise<Record<string, number>>} milliseconds of each verb */
async function podLife({ call, image }, name) {
  const times = {};
  const timed = async (verb, fields) => {
    const startedAt = performance.now();
    const answer = await call(verb, fields);
    times[verb] = performance.now() - startedAt;
    return answer;
  };
  const config = sandboxConfig(name);
  const { podSandboxId } = await timed("runPodSandbox", { config });
  const { containerId } = await timed("createContainer", {
    podSandboxId,
    sandboxConfig: config,
    config: containerConfig(image),
  });
  await timed("startContainer", { containerId });
  times.start = times.runPodSandbox + times.createContainer + times.startContainer;
  await timed("execSync", { containerId, cmd: ["true"], timeout: 10n });
  await timed("stopContainer", { containerId, timeout: 0n });
  await timed("removeContainer", { containerId });
  await timed("stopPodSandbox", { podSandboxId });
  await timed("removePodSandbox", { podSandboxId });
  times.end = times.stopContainer + times.removeContainer + times.stopPodSandbox + times.removePodSandbox;
  return times;
}

/** As a kubelet asks for it: network and IPC of the pod, a PID namespace for each container. */
function sandboxConfig(name) {
  const namespaceOptions = { network: 0, pid: 1, ipc: 0, targetId: "" };
  return {
    metadata: { name, uid: name, namespace: "bench", attempt: 0 },
    linux: { securityContext: { namespaceOptions } },
  };
}

function containerConfig(image) {
  return { metadata: { name: "main", attempt: 0 }, image: { image }, command: ["sleep", "1000"] };
}

/** @returns {Promise<number[]>} pods started and stopped per second, and what both lists take then, in ms */
async function manyPods({ call, image }) {
  const ids = [];
  const startSeconds = await inParallel(async (i) => {
    const config = sandboxConfig(`many-${i}`);
    const { podSandboxId } = await call("runPodSandbox", { config });
    ids.push(podSandboxId);
    const container = { podSandboxId, sandboxConfig: config, config: containerConfig(image) };
    const { containerId } = await call("createContainer", container);
    await call("startContainer", { containerId });
  });
  const listMs = [];
  for (let i = 0; i < LISTS; i++) {
    const startedAt = performance.now();
    await call("listPodSandbox");
    await call("listContainers");
    listMs.push(performance.now() - startedAt);
  }
  const stopSeconds = await inParallel(async (i) => {
    await call("stopPodSandbox", { podSandboxId: ids[i] });
    await call("removePodSandbox", { podSandboxId: ids[i] });
  });
  return [pods / startSeconds, pods / stopSeconds, median(listMs)];
}

/** Does `work` for each pod by as many workers as asked for. @returns {Promise<number>} seconds */
async function inParallel(work) {
  let next = 0;
  const startedAt = performance.now();
  const worker = async () => {
    for (let i = next++; i < pods; i = next++) await work(i);
  };
  await Promise.all(Array.from({ length: workers }, worker));
  return (performance.now() - startedAt) / 1000;
}

function printLives(contenders, floorMs) {
  console.log(heading(`${runs} runs, in ms`));
  console.log(row("floor", [median(floorMs)]));
  console.log(
    row(
      "",
      contenders.flatMap(({ name }) => [name, "p95"]),
    ),
  );
  const verbs = Object.keys(contenders[0].ms);
  for (const verb of verbs) {
    console.log(
      row(
        verb,
        contenders.flatMap(({ ms }) => [median(ms[verb]), quantile(ms[verb], 0.95)]),
      ),
    );
  }
  const [ours, peer] = contenders.map(({ ms }) => ms);
  console.log(`start (run + create + start) / floor: ${(median(ours.start) / median(floorMs)).toFixed(2)}`);
  if (!peer) return;
  for (const part of ["start", "execSync", "end"]) {
    console.log(`${part}: ${contenders[1].name} / minke: ${(median(peer[part]) / median(ours[part])).toFixed(1)}`);
  }
}
