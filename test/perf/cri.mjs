/**
 * `npm run bench -- cri [--runs N] [--lives N] [--pods N] [--workers N] [--client go|node] [--skip-peer]`: what the
 * verbs of CRI cost.
 *
 * A pod's life through CRI, verb by verb, median, p95 and least, of a daemon that has just started and of one that
 * has had that many lives: V8 compiles what runs often, so the first hundred pods take longer. Then many pods at
 * once; all beside the floor program and containerd (cri-peer.mjs), interleaved in one run on the same machine.
 * Images are cached.
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
    lives: { type: "string", default: "300" },
    pods: { type: "string", default: "100" },
    workers: { type: "string", default: "10" },
    client: { type: "string" },
    "skip-peer": { type: "boolean", default: false },
  },
});
const [runs, lives, pods, workers] = [values.runs, values.lives, values.pods, values.workers].map(Number);
const clientIsKnown = ["go", "node", undefined].includes(values.client);
if (process.getuid() !== 0 || !(runs > 0) || !(lives >= 0) || !(pods >= 0) || !(workers > 0) || !clientIsKnown) {
  console.error(
    "usage (as root): npm run bench -- cri [--runs N] [--lives N] [--pods N] [--workers N] [--client go|node] [--skip-peer]",
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
  console.log(heading(`client: ${client.name}; ${runs} runs, in ms`));
  const measure = async (name) => {
    const figures = { floor: [], contenders: contenders.map(() => ({})) };
    for (let i = 0; i < runs; i++) {
      figures.floor.push(await floor());
      for (const [at, contender] of contenders.entries()) {
        const times = withSums(await client.life(contender, `${name}-${i}`));
        for (const [verb, ms] of Object.entries(times)) (figures.contenders[at][verb] ??= []).push(ms);
      }
    }
    printLives(contenders, figures);
  };
  for (let i = 0; i < WARM_UP_RUNS; i++) {
    await floor();
    for (const contender of contenders) await client.life(contender, `warm-up-${i}`);
  }
  console.log("a daemon that has just started:");
  await measure("young");
  if (lives > 0) {
    for (let i = 0; i < lives; i++) await client.life(contenders[0], `between-${i}`);
    await sleep(SETTLE_MS);
    console.log(`\nafter ${WARM_UP_RUNS + runs + lives} lives:`);
    await measure("grown");
  }
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

function printLives(contenders, { floor: floorMs, contenders: figures }) {
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
  for (const verb of Object.keys(figures[0])) {
    console.log(
      row(
        verb,
        figures.flatMap((ms) => columns(ms[verb])),
      ),
    );
  }
  const [ours, peer] = figures;
  console.log(`start (run + create + start) / floor: ${(median(ours.start) / median(floorMs)).toFixed(2)}`);
  if (!peer) return;
  for (const part of ["start", "execSync", "end"]) {
    console.log(`${part}: ${contenders[1].name} / minke: ${(median(peer[part]) / median(ours[part])).toFixed(1)}`);
  }
}
