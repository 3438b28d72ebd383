/**
 * Ten workers make and remove pods through CRI while what they need is killed or taken away at random
 * moments: the daemon, its fork server, monitors, the bridge, the rules. A request may fail by then; what it
 * says has to be one of a few things, every pod can be removed, and nothing is left, not even a zombie.
 * MINKE_ATTACK_SEED repeats the moments.
 */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { ServiceError } from "@grpc/grpc-js";
import { expect, test } from "vitest";
import { parseProcessStat, type ProcessStat } from "../../src/base/process-stat.js";
import { tableName } from "../../src/network/ruleset.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { isAlive } from "../harness/processes.js";
import { randomOf } from "../harness/random.js";
import { scaled } from "./scale.js";

const ATTACKS = scaled(100);
const WORKERS = 10;
const SEED = Number(process.env["MINKE_ATTACK_SEED"] ?? Date.now() % 1_000_000);
const END_MS = 120_000;

const bench = useCriDaemon({ subnetIpv4: "10.207.232.0/21" }, "nft");

/** minke's own codes of failed requests, and how often each came. */
const failures = new Map<string, number>();

/** What may be said to somebody whose pod is under attack. */
const EXPECTED =
  /^(MONITOR_UNREACHABLE|SANDBOX_NOT_READY|SANDBOX_NOT_FOUND|CONTAINER_NOT_FOUND|CONTAINER_NOT_RUNNING)$/;

function ofDaemon(): { readonly pid: number; readonly stat: ProcessStat }[] {
  return readdirSync("/proc").flatMap((entry) => {
    try {
      const stat = parseProcessStat(readFileSync(`/proc/${Number(entry)}/stat`, "utf8"));
      return stat?.parent === bench.daemon.pid ? [{ pid: Number(entry), stat }] : [];
    } catch {
      return []; // No process, or one that has ended.
    }
  });
}

function monitors(): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => {
      try {
        const cgroup = readFileSync(`/proc/${pid}/cgroup`, "utf8");
        return cgroup.includes(`/${bench.daemon.cgroupRoot}/monitors/`) && isAlive(pid);
      } catch {
        return false;
      }
    });
}

function kill(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(pid, "SIGKILL");
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== "ESRCH") throw err;
  }
}

/** Each on its own; two at once are as likely as chance has it. */
function attacks(random: () => number): (() => Promise<void> | void)[] {
  const { daemon } = bench;
  const run = (command: string, ...args: string[]) => void spawnSync(command, args, { stdio: "ignore" });
  const forkServer = () => kill(ofDaemon().find(({ stat }) => stat.name === "minke-fork")?.pid);
  const monitor = () => {
    const pids = monitors();
    kill(pids[Math.floor(random() * pids.length)]);
  };
  const restart = async () => {
    await daemon.kill9();
    await daemon.start();
  };
  return [
    forkServer,
    forkServer,
    monitor,
    monitor,
    () => run("ip", "link", "delete", daemon.bridge),
    () => run("nft", "flush", "table", "inet", tableName(daemon.bridge)),
    restart,
    async () => {
      forkServer();
      monitor();
      await restart();
    },
  ];
}

/** Asks until it is done, whatever is attacked meanwhile. */
async function removePodsOf(name: string): Promise<void> {
  const filter = { id: "", state: undefined, labelSelector: { name } };
  const giveUpAt = Date.now() + END_MS;
  for (;;) {
    try {
      const { items } = await bench.cri.call("listPodSandbox", { filter });
      if (items.length === 0) return;
      for (const { id } of items) await bench.cri.removeSandbox(id);
    } catch (err) {
      if (Date.now() > giveUpAt) throw err;
      await sleep(20);
    }
  }
}

/** True where the pod lived as asked. */
async function lifeOfOnePod(name: string): Promise<boolean> {
  try {
    const metadata = { name, uid: name, namespace: "test", attempt: 0 };
    const id = await bench.cri.runSandbox({ metadata, labels: { name } });
    const container = await bench.cri.startContainer(id);
    expect(await bench.cri.output(container, "echo", name)).toBe(`${name}\n`);
    return true;
  } catch (err) {
    if (!(err instanceof Error) || !("metadata" in err)) throw err;
    // Without one the daemon itself was gone.
    const code = (err as ServiceError).metadata.get("minke-code")[0];
    if (code !== undefined) {
      const key = String(code);
      failures.set(key, (failures.get(key) ?? 0) + 1);
      if (!EXPECTED.test(key)) console.log(`${name}: ${(err as ServiceError).details}`);
    }
    return false;
  } finally {
    await removePodsOf(name);
  }
}

test(`through ${ATTACKS} attacks on all that pods need, requests fail with reason and nothing is left`, async () => {
  console.log(`seed ${SEED}`);
  const random = randomOf(SEED);
  const all = attacks(random);
  const over = new AbortController();
  let [whole, broken] = [0, 0];
  const worker = async (index: number) => {
    for (let i = 0; !over.signal.aborted; i++) {
      if (await lifeOfOnePod(`attack-${index}-${i}`)) whole++;
      else broken++;
    }
  };
  const attack = async () => {
    for (let i = 0; i < ATTACKS && !over.signal.aborted; i++) {
      await sleep(random() * 400);
      await all[Math.floor(random() * all.length)]?.();
    }
  };
  const workers = Promise.all(Array.from({ length: WORKERS }, (_, index) => worker(index)));
  await Promise.race([attack(), workers]).finally(() => over.abort());
  await workers;
  console.log(`${whole} pods whole, ${broken} broken`, Object.fromEntries(failures));
  expect([...failures.keys()].filter((code) => !EXPECTED.test(code))).toEqual([]);
  expect(await lifeOfOnePod("after")).toBe(true);
  const zombies = () => ofDaemon().flatMap(({ pid, stat }) => (stat.state === "Z" ? [`${pid} ${stat.name}`] : []));
  await expect.poll(zombies).toEqual([]);
  expect((await bench.cri.call("listContainers")).containers).toEqual([]);
}, 1_800_000);
