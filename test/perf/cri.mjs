/**
 * `npm run bench -- cri [--runs N] [--pods N] [--workers N] [--client go|node] [--skip-peer]`: what the verbs of CRI
 * cost.
 *
 * A pod's life through CRI, verb by verb, median, p95 and least; then many pods at once; beside the floor
 * program and containerd (cri-peer.mjs), interleaved in one run on the same machine. Images are cached.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { startClient } from "./cri-go-client.mjs";
import { startContainerd } from "./cri-peer.mjs";
import { startDaemon } from "./daemon.mjs";
import { heading, median, quantile, row } from "./figures.mjs";
import { startFloor } from "./floor.mjs";
import { withUndo } from "./undo.mjs";

const WARM_UP_RUNS = 3;
const LISTS = 15;
const ROUNDS = 3;
/** The kernel goes on taking network namespaces down after their pods have gone. */
const SETTLE_MS = 3_000;
const STARTS = ["runPodSandbox", "createContainer", "startContainer"];
const ENDS = ["stopContainer", "removeContainer", "stopPodSandbox", "removePodSandbox"];
const { values } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: "string", default: "50" },
    pods: { type: "string", default: "100" },
    workers: { type: "string", default: "10" },
    client: { type: "string" },
    "skip-peer": { type: "boolean", default: false },
  },
});
const [runs, pods, workers] = [values.runs, values.pods, values.workers].map(Number);
const clientIsKnown = ["go", "node", undefined].includes(values.client);
if (process.getuid() !== 0 || !(runs > 0) || !(pods >= 0) || !(workers > 0) || !clientIsKnown) {
  console.error(
    "usage (as root): npm run bench -- cri [--runs N] [--pods N] [--workers N] [--client go|node] [--skip-peer]",
  );
  process.exit(2);
}

const folder = mkdtempSync(join(tmpdir(), "minke-bench-"));
const cgroupRoot = `minke-bench-${process.pid}`;
await withUndo(async (undo) => {
  undo.push(() => rmSync(folder, { recursive: true, force: true }));
  const client = await startClient(values.client, undo);
  const floor = startFloor(folder, `${cgroupRoot}-floor`, undo);
  const daemon = await startDaemon(folder, cgroupRoot, undo);
  const contenders = [{ name: "minke", socket: daemon.criSocket, image: "minke.test/busybox:1" }];
  if (!values["skip-peer"]) contenders.push(await startContainerd(folder, undo));
  const floorMs = [];
  for (let i = -WARM_UP_RUNS; i < runs; i++) {
    const ms = await floor();
    if (i >= 0) floorMs.push(ms);
    for (const contender of contenders) {
      const times = withSums(await client.life(contender, `life-${i + WARM_UP_RUNS}`));
      if (i >= 0) for (const [verb, value] of Object.entries(times)) ((contender.ms ??= {})[verb] ??= []).push(value);
    }
  }
  console.log(heading(`client: ${client.name}; ${runs} runs, in ms`));
  printLives(contenders, floorMs);
  if (pods > 0) {
    console.log(`\n${pods} pods of one container by ${workers} workers, medians of ${ROUNDS} rounds in turns`);
    console.log(row("", ["started/s", "stopped/s", "lists, ms", "sandboxes", "containers"]));
    const figures = contenders.map(() => []);
    for (let round = 0; round < ROUNDS; round++) {
      for (const [i, contender] of contenders.entries()) {
        await sleep(SETTLE_MS);
        figures[i].push(await manyPods(client, contender));
      }
    }
    for (const [i, { name }] of contenders.entries()) {
      const medians = figures[i][0].map((_, column) => median(figures[i].map((round) => round[column])));
      console.log(row(name, medians));
    }
  }
});

function withSums(times) {
  const sum = (verbs) => verbs.reduce((total, verb) => total + times[verb], 0);
  const { execSync } = times;
  const pick = (verbs) => Object.fromEntries(verbs.map((verb) => [verb, times[verb]]));
  return { ...pick(STARTS), start: sum(STARTS), execSync, ...pick(ENDS), end: sum(ENDS) };
}

/** @returns {Promise<number[]>} pods started and stopped per second, and what both lists take then, in ms */
async function manyPods(client, contender) {
  const started = await client.start(contender, { pods, workers, name: "many" });
  const { sandboxes, containers } = await client.list(contender, LISTS);
  const stopped = await client.stop(contender, workers);
  const both = sandboxes.map((ms, i) => ms + containers[i]);
  return [pods / started.seconds, pods / stopped.seconds, median(both), median(sandboxes), median(containers)];
}

function printLives(contenders, floorMs) {
  const columns = (list) => [median(list), quantile(list, 0.95), Math.min(...list)];
  console.log(
    row(
      "",
      contenders.flatMap(({ name }) => ["", "", name]),
    ),
  );
  console.log(
    row(
      "",
      contenders.flatMap(() => ["median", "p95", "least"]),
    ),
  );
  console.log(row("floor", columns(floorMs)));
  for (const verb of Object.keys(contenders[0].ms)) {
    console.log(
      row(
        verb,
        contenders.flatMap(({ ms }) => columns(ms[verb])),
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
