/**
 * Pods come and go through CRI, several at once, while the daemon is killed again and again at random
 * moments. The callers do as a kubelet does: they ask again until it is so. MINKE_CHAOS_SEED repeats a run.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { ContainerState } from "../../src/cri/generated/runtime/v1/api.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { PersistentCaller } from "../harness/persistent-caller.js";
import { randomOf } from "../harness/random.js";
import { scaled } from "./scale.js";

const KILLS = scaled(150);
const WORKERS = 6;
const SEED = Number(process.env["MINKE_CHAOS_SEED"] ?? Date.now() % 1_000_000);
const END_MS = 120_000;

const bench = useCriDaemon({ subnetIpv4: "10.207.224.0/21" });

/** Makes a pod with one container that ends by itself and one that is asked something, and removes it. */
async function livesOfOnePod(name: string, random: () => number): Promise<void> {
  const logDirectory = join(bench.daemon.folder, "logs", name);
  const caller = new PersistentCaller(bench.cri);
  const sandbox = await caller.runSandbox(name, { logDirectory });
  const exitCode = Math.floor(random() * 200);
  const brief = await caller.createContainer(sandbox, "brief", {
    command: ["sh", "-c", `echo line of ${name}; exit ${exitCode}`],
    logPath: "brief.log",
  });
  const lasting = await caller.createContainer(sandbox, "lasting", { command: ["sleep", "1000"] });
  await caller.start(brief);
  await caller.start(lasting);

  const said = await caller.ask(() => bench.cri.output(lasting, "echo", name));
  expect(said).toBe(`${name}\n`);
  const state = async () => (await caller.ask(() => bench.cri.status(brief))).state;
  await expect.poll(state, { timeout: END_MS }).toBe(ContainerState.CONTAINER_EXITED);
  const end = await caller.ask(() => bench.cri.status(brief));
  expect([name, end.exitCode]).toEqual([name, exitCode]);
  const log = readFileSync(join(logDirectory, "brief.log"), "utf8");
  expect(log.match(/ stdout F line of /g), log).toHaveLength(1);
  expect((await caller.ask(() => bench.cri.status(lasting))).state).toBe(ContainerState.CONTAINER_RUNNING);

  if (random() < 0.5) await caller.ask(() => bench.cri.call("stopContainer", { containerId: lasting, timeout: 0n }));
  await caller.removeSandbox(sandbox);
}

test(`through ${KILLS} kills of the daemon every pod lives as asked, and nothing is left`, async () => {
  console.log(`seed ${SEED}`);
  const random = randomOf(SEED);
  const over = new AbortController();
  let pods = 0;
  const worker = async (index: number) => {
    const own = randomOf(SEED + index + 1);
    for (let i = 0; !over.signal.aborted; i++) {
      await livesOfOnePod(`chaos-${index}-${i}`, own);
      pods++;
    }
  };
  const kills = async () => {
    for (let i = 0; i < KILLS; i++) {
      await sleep(50 + random() ** 2 * 1500);
      await bench.daemon.kill9();
      await bench.daemon.start();
    }
  };
  const workers = Promise.all(Array.from({ length: WORKERS }, (_, index) => worker(index)));
  // A worker that fails ends the run at once.
  await Promise.race([kills(), workers]).finally(() => over.abort());
  await workers;
  console.log(`${pods} pods`);
  expect(pods).toBeGreaterThan(0);
  expect((await bench.cri.call("listPodSandbox")).items).toEqual([]);
  expect((await bench.cri.call("listContainers")).containers).toEqual([]);
}, 1_800_000);
