/**
 * kill -9 of the daemon at every step of every verb: running containers go on with their pids,
 * every exit code is known, every log line is there once, and nothing is left in the end.
 *
 * Each daemon has a witness pod beside the one that is made or deleted: one container counts into
 * its log all the time, another one ends with code 7 each time the daemon is down.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { PodJson } from "../../src/client/index.js";
import { eventually, FaultDaemon, type PodParts, SLEEPER } from "../harness/fault-daemon.js";
import { freePort } from "../harness/free-port.js";
import type { Snapshot } from "../harness/leaks.js";
import { isAlive } from "../harness/processes.js";
import { missing, requires } from "../harness/requires.js";
import { DEATHS_DOWN, DEATHS_UP } from "./steps.js";

const NEEDS = ["root", "cgroup2", "overlayfs", "nft"] as const;

const COUNTER = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done";
const ENDER = "while [ ! -e /control/end ]; do sleep 0.02; done; rm /control/end; exit 7";

/** A daemon with its witness. */
class Scene {
  faults!: FaultDaemon;
  #control = "";
  #deaths = 0;
  #counterPid = 0;
  #witnessUid = "";
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
    this.#counterPid = this.faults.initOf(/n=\$\(\(n\+1\)\)/);
    this.#witnessUid = (await this.faults.daemon.pod("witness")).metadata.uid;
    this.withWitness = this.faults.daemon.snapshot();
  }

  /** Waits for the daemon's death, lets the ender end meanwhile, and starts the next daemon. */
  async surviveDeath(): Promise<void> {
    await this.faults.daemon.ended();
    const pid = this.faults.initOf(/control\/end/);
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
    expect(this.faults.initOf(/n=\$\(\(n\+1\)\)/)).toBe(this.#counterPid);
    const lines = (await this.faults.logText("witness", "counter")).split("\n").slice(0, -1).map(Number);
    expect(lines.length).toBeGreaterThan(0);
    expect(lines).toEqual(lines.map((_, index) => index + 1));
  }

  async expectOnlyWitness(): Promise<void> {
    // Until the ender has come back, its new container would be taken for a left-over.
    await this.expectWitness();
    await this.faults.daemon.expectNothingLeft(await this.#withoutEnder(this.withWitness));
  }

  /**
   * The ender is a new container after each restart, with a message file of its own; all else of the
   * witness stays as it was.
   */
  async #withoutEnder(before: Snapshot): Promise<Snapshot> {
    const now = this.faults.daemon.snapshot();
    const { containerID } = await this.faults.daemon.container("witness", "ender");
    const ender = /[0-9a-f]{64}$/.exec(containerID ?? "")?.[0] ?? "no ender";
    const ofEnder = (lines: readonly string[] = []) =>
      lines.filter(
        (line) =>
          line.includes(ender) ||
          /witness.*ender/.test(line) ||
          line.startsWith(`volumes/${this.#witnessUid}/..messages/ender.`),
      );
    return Object.fromEntries(Object.entries(before).map(([kind, lines]) => [kind, [...lines, ...ofEnder(now[kind])]]));
  }

  async close(): Promise<void> {
    await this.faults?.dispose();
    if (this.#control) rmSync(this.#control, { recursive: true, force: true });
  }
}

const HOST_PORTS = [await freePort(), await freePort()];

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
      ports: [{ containerPort: 80, hostPort: HOST_PORTS[0] }],
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

/** Every other one of a list: the lanes take equally long. */
const shareOf = <T>(all: readonly T[], lane: number): T[] => all.filter((_, index) => index % lanes.length === lane);

describe.concurrent.each([0, 1])("daemon %i killed", (lane) => {
  const scene = lanes[lane] as Scene;
  // Every other death is one of a pod with a user namespace.
  const pod = { ...WHOLE, containers: withPort(lane), hostUsers: lane === 0 || missing("userns") !== undefined };
  afterEach(() => scene.faults.reset("witness"));

  describe.sequential("on the way up", () => {
    test.each(shareOf(DEATHS_UP, lane))("at %s", async (point) => {
      const { faults } = scene;
      faults.arm(`${point}=kill`);
      // The answer may be lost with the daemon.
      await faults.create("up", pod).catch(() => undefined);
      await scene.surviveDeath();
      if (!(await faults.find("up"))) await faults.create("up", pod);
      const { status } = await faults.untilRunning("up");
      expect(await faults.exec("up", "cat", "/kept/once", "/kept/twice")).toEqual({ code: 0, stdout: "once\ntwice\n" });
      expect(status.initContainerStatuses).toMatchObject([
        { restartCount: 0, state: { terminated: { exitCode: 0 } } },
        { restartCount: 0, state: { terminated: { exitCode: 0 } } },
      ]);
      await scene.expectWitness();
      await faults.delete("up");
      await scene.expectOnlyWitness();
    });
  });

  describe.sequential("on the way down", () => {
    test.each(shareOf(DEATHS_DOWN, lane))("at %s", async (point) => {
      const { faults } = scene;
      const running = await faults.run("down", pod);
      faults.arm(`${point}=kill`);
      await faults.client.deletePod("default", "down", { graceSeconds: 0 }).catch(() => undefined);
      await scene.surviveDeath();
      await faults.untilGone(running);
      await scene.expectOnlyWitness();
      await scene.expectWitness();
    });
  });
});

/** Both daemons publish a port of the same host. */
function withPort(lane: number) {
  return (WHOLE.containers ?? []).map((container) => ({
    ...container,
    ports: [{ containerPort: 80, hostPort: HOST_PORTS[lane] }],
  }));
}

function containerOf({ status }: Pick<PodJson, "status">, name: string) {
  return status.containerStatuses?.find((container) => container.name === name);
}
