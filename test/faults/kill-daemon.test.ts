/**
 * kill -9 of the daemon at every step of every verb: running containers go on with their pids,
 * every exit code is known, every log line is there once, and nothing is left in the end.
 *
 * Each daemon has a witness pod beside the one that is made or deleted: one container counts into
 * its log all the time, another one ends with code 7 each time the daemon is down.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { PodJson } from "../../src/client/index.js";
import { eventually, FaultDaemon, isRunning, type PodParts, SLEEPER } from "../harness/fault-daemon.js";
import type { Snapshot } from "../harness/leaks.js";
import { missing, requires } from "../harness/requires.js";
import { STEPS_DOWN, STEPS_OF_MEMORY_VOLUMES, STEPS_UP } from "./steps.js";

const NEEDS = ["root", "cgroup2", "overlayfs", "nft"] as const;

/** Steps that are passed before the first process exists, and the others: each half has a daemon of its own. */
const UP = [...STEPS_UP, ...STEPS_OF_MEMORY_VOLUMES, "record pod", "after record pod"] as const;

const COUNTER = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done";
const ENDER = "while [ ! -e /control/end ]; do sleep 0.02; done; rm /control/end; exit 7";

/** A daemon with its witness. */
class Scene {
  faults!: FaultDaemon;
  #control = "";
  #deaths = 0;
  #counterPid = 0;
  withWitness!: Snapshot;

  async open(): Promise<void> {
    this.faults = await FaultDaemon.start();
    this.#control = mkdtempSync(join(tmpdir(), "minke-control-"));
    await this.faults.run("witness", {
      containers: [
        { name: "counter", script: COUNTER },
        { name: "ender", script: ENDER, mounts: { control: "/control" } },
      ],
      volumes: [{ name: "control", hostPath: { path: this.#control } }],
    });
    this.#counterPid = this.#pidOf(/n=\$\(\(n\+1\)\)/);
    this.withWitness = this.faults.daemon.snapshot();
  }

  /** Waits for the daemon's death, lets the ender end meanwhile, and starts the next daemon. */
  async surviveDeath(): Promise<void> {
    await this.faults.daemon.ended();
    const pid = this.#pidOf(/control\/end/);
    writeFileSync(join(this.#control, "end"), "");
    await eventually(
      () => !isAlive(pid),
      () => "the ender did not end",
    );
    this.#deaths++;
    this.faults.arm();
    await this.faults.daemon.start();
  }

  /** What must be so after every death. */
  async expectWitness(): Promise<void> {
    const { status } = await this.faults.until("witness", "restarted", (pod) => {
      const ender = containerOf(pod, "ender");
      return ender?.restartCount === this.#deaths && ender.state.running !== undefined;
    });
    expect(containerOf({ status }, "ender")?.lastState.terminated).toMatchObject({ exitCode: 7, reason: "Error" });
    expect(containerOf({ status }, "counter")).toMatchObject({ restartCount: 0 });
    expect(this.#pidOf(/n=\$\(\(n\+1\)\)/)).toBe(this.#counterPid);
    const lines = (await this.faults.logText("witness", "counter")).split("\n").slice(0, -1).map(Number);
    expect(lines.length).toBeGreaterThan(0);
    expect(lines).toEqual(lines.map((_, index) => index + 1));
  }

  async expectOnlyWitness(): Promise<void> {
    await this.faults.daemon.expectNothingLeft(this.#withoutEnder(this.withWitness));
  }

  /** The ender is a new container after each restart; all else of the witness stays as it was. */
  #withoutEnder(before: Snapshot): Snapshot {
    const now = this.faults.daemon.snapshot();
    const ender = this.#enderId();
    const ofEnder = (lines: readonly string[] = []) =>
      lines.filter((line) => line.includes(ender) || /witness.*ender/.test(line));
    return Object.fromEntries(Object.entries(before).map(([kind, lines]) => [kind, [...lines, ...ofEnder(now[kind])]]));
  }

  #enderId(): string {
    const [pid] = this.faults.pidsOf(/control\/end/);
    return /([0-9a-f]{64})$/m.exec(readFileSync(`/proc/${pid}/cgroup`, "utf8"))?.[1] ?? "no ender";
  }

  #pidOf(commandLine: RegExp): number {
    const pids = this.faults.pidsOf(commandLine);
    if (pids.length !== 1) throw new Error(`${pids.length} processes fit ${commandLine}\n${this.faults.tail}`);
    return pids[0] as number;
  }

  async close(): Promise<void> {
    await this.faults?.dispose();
    if (this.#control) rmSync(this.#control, { recursive: true, force: true });
  }
}

const WHOLE: PodParts = {
  initContainers: [
    { name: "once", script: "echo once >> /kept/once; sleep 0.02", mounts: { kept: "/kept" } },
    { name: "twice", script: "echo twice >> /kept/twice", mounts: { kept: "/kept" } },
  ],
  containers: [
    {
      name: "main",
      script: SLEEPER,
      mounts: { kept: "/kept", memory: "/memory" },
      ports: [{ containerPort: 80, hostPort: 30_000 + (process.pid % 10_000) }],
    },
  ],
  volumes: [
    { name: "kept", emptyDir: {} },
    { name: "memory", emptyDir: { medium: "Memory" } },
  ],
};

const lacking = missing(...NEEDS);
const lanes = [new Scene(), new Scene()] as const;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (!lacking) await Promise.all(lanes.map((lane) => lane.open()));
});
afterAll(() => Promise.all(lanes.map((lane) => lane.close())));

/** Halves of a list, each for a daemon: they run side by side. */
const halves = <T>(all: readonly T[]): [number, readonly T[]][] => {
  const middle = Math.ceil(all.length / 2);
  return [
    [0, all.slice(0, middle)],
    [1, all.slice(middle)],
  ];
};

describe.concurrent.each(halves(UP))("the daemon of half %i killed on a pod's way up", (lane, points) => {
  describe.sequential("at", () => {
    test.each(points)("%s", async (point) => {
      const scene = lanes[lane] as Scene;
      const { faults } = scene;
      faults.arm(`${point}=kill`);
      const name = `up-${lane}`;
      // The answer may be lost with the daemon.
      await faults.create(name, { ...WHOLE, containers: withoutPort(lane) }).catch(() => undefined);
      await scene.surviveDeath();
      if (!(await faults.find(name))) await faults.create(name, { ...WHOLE, containers: withoutPort(lane) });
      const pod = await faults.until(name, "running", isRunning);
      expect(await faults.exec(name, "cat", "/kept/once", "/kept/twice")).toEqual({ code: 0, stdout: "once\ntwice\n" });
      expect(pod.status.initContainerStatuses).toMatchObject([
        { restartCount: 0, state: { terminated: { exitCode: 0 } } },
        { restartCount: 0, state: { terminated: { exitCode: 0 } } },
      ]);
      await scene.expectWitness();
      await faults.delete(name);
      await scene.expectOnlyWitness();
    });
  });
});

describe.concurrent.each(halves(STEPS_DOWN))("the daemon of half %i killed on a pod's way down", (lane, points) => {
  describe.sequential("at", () => {
    test.each(points)("%s", async (point) => {
      const scene = lanes[lane] as Scene;
      const { faults } = scene;
      const name = `down-${lane}`;
      const pod = await faults.run(name, { ...WHOLE, containers: withoutPort(lane) });
      faults.arm(`${point}=kill`);
      await faults.client.deletePod("default", name, { graceSeconds: 0 }).catch(() => undefined);
      await scene.surviveDeath();
      await faults.untilGone(pod);
      await scene.expectOnlyWitness();
      await scene.expectWitness();
    });
  });
});

/** Both daemons publish a port of the same host. */
function withoutPort(lane: number) {
  return (WHOLE.containers ?? []).map((container) => ({
    ...container,
    ports: [{ containerPort: 80, hostPort: 30_000 + ((process.pid * 2 + lane) % 10_000) }],
  }));
}

function containerOf({ status }: Pick<PodJson, "status">, name: string) {
  return status.containerStatuses?.find((container) => container.name === name);
}

/** A zombie has ended. */
function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2)[0] !== "Z";
  } catch {
    return false;
  }
}
