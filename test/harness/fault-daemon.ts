/**
 * A daemon whose steps fail on demand: failpoints are set while it runs, through a file, and the
 * API is asked in-process, which is faster than a command for each question.
 */
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MinkeClient, type PodJson } from "../../src/client/index.js";
import type { RuntimeError } from "../../src/base/errors.js";
import { FIXTURE_LAYOUT, TestDaemon, type TestDaemonOptions } from "./daemon.js";
import type { Snapshot } from "./leaks.js";
import { isAlive } from "./processes.js";
import { cgroup2Mount } from "./requires.js";

const NAMESPACE = "default";
const NETWORK = "10.209";
const BACKOFF = "[backoff]\nbase-ms = 100\nmax-ms = 200\n";

export interface PodParts {
  readonly restartPolicy?: "Always" | "OnFailure" | "Never";
  readonly initContainers?: readonly ContainerParts[];
  readonly containers?: readonly ContainerParts[];
  readonly volumes?: readonly object[];
  readonly graceSeconds?: number;
  readonly hostUsers?: boolean;
}

export interface ContainerParts {
  readonly name: string;
  /** For `sh -c`. */
  readonly script: string;
  readonly mounts?: Readonly<Record<string, string>>;
  readonly ports?: readonly object[];
  readonly image?: string;
}

/** Runs until it is told to end. */
export const SLEEPER = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

export class FaultDaemon {
  readonly daemon: TestDaemon;
  readonly client: MinkeClient;
  readonly #points: string;
  #empty!: Snapshot;

  private constructor(daemon: TestDaemon, points: string) {
    this.daemon = daemon;
    this.#points = points;
    this.client = new MinkeClient(daemon.apiSocket);
  }

  /** A running daemon with the fixture images and no failpoint set. */
  static async start(options: TestDaemonOptions = {}): Promise<FaultDaemon> {
    const points = join("/tmp", `minke-failpoints-${process.pid}-${Math.random().toString(36).slice(2)}`);
    writeFileSync(points, "");
    const daemon = await TestDaemon.start({
      network: NETWORK,
      tables: BACKOFF,
      ...options,
      env: { MINKE_FAILPOINTS: `@${points}`, ...options.env },
    });
    const faults = new FaultDaemon(daemon, points);
    await faults.client.loadImages(FIXTURE_LAYOUT);
    faults.#empty = daemon.snapshot();
    return faults;
  }

  /** Sets the failpoints, all at once: `name=error`, `name=once`, `name=kill`. None: clears them. */
  arm(...points: readonly string[]): void {
    // Complete before it is seen: the daemon reads the file at every point.
    writeFileSync(`${this.#points}.tmp`, points.join(","));
    renameSync(`${this.#points}.tmp`, this.#points);
  }

  /** The daemon dies at a point by itself; starts the next one, without failpoints. */
  async restartAfterDeath(): Promise<void> {
    await this.daemon.ended();
    this.arm();
    await this.daemon.start();
  }

  /** `kill -9`, and a new daemon. */
  async killAndRestart(whileDown: () => Promise<void> | void = () => undefined): Promise<void> {
    await this.daemon.kill9();
    await whileDown();
    await this.daemon.start();
  }

  create(name: string, parts: PodParts = {}): Promise<PodJson> {
    return this.client.createPod(manifest(name, parts)).then(({ pod }) => pod);
  }

  /** Creates it and waits until all its containers run, and the pod's own record says so, too. */
  async run(name: string, parts: PodParts = {}): Promise<PodJson> {
    await this.create(name, parts);
    const pod = await this.untilRunning(name);
    const file = join(this.daemon.root, "state/durable/pods", `${pod.metadata.uid}.json`);
    const count = (pod.status.containerStatuses?.length ?? 0) + (pod.status.initContainerStatuses?.length ?? 0);
    const recorded = () => {
      const { body } = JSON.parse(readFileSync(file, "utf8")) as { body: { containers: object } };
      return Object.values(body.containers).filter(({ startedAtNs }: { startedAtNs?: string }) => startedAtNs);
    };
    await eventually(
      () => recorded().length >= count,
      () => `the record of pod ${name} says less than its status: ${readQuietly(file)}`,
    );
    return pod;
  }

  pod(name: string): Promise<PodJson> {
    return this.client.getPod(NAMESPACE, name);
  }

  /** `undefined` where there is none. */
  async find(name: string): Promise<PodJson | undefined> {
    const { items } = await this.client.listPods();
    return items.find((pod) => pod.metadata.name === name);
  }

  async until(name: string, what: string, isSo: (pod: PodJson) => boolean, timeoutMs = 60_000): Promise<PodJson> {
    let last: PodJson | undefined;
    await eventually(
      async () => {
        last = await this.pod(name);
        return isSo(last);
      },
      () => `pod ${name} is not ${what}: ${JSON.stringify(last?.status, undefined, 1)}\n${this.tail}`,
      timeoutMs,
    );
    return last as PodJson;
  }

  untilRunning(name: string): Promise<PodJson> {
    return this.until(name, "running", isRunning);
  }

  /** Messages of the pod's events. */
  async messages(pod: PodJson): Promise<string[]> {
    return (await this.client.events(NAMESPACE, pod.metadata.uid)).map(({ message }) => message);
  }

  async untilMessage(pod: PodJson, text: string): Promise<void> {
    let messages: string[] = [];
    await eventually(
      async () => {
        messages = await this.messages(pod);
        return messages.some((message) => message.includes(text));
      },
      () => `no event says ${text}:\n${messages.join("\n")}\n${this.tail}`,
    );
  }

  /** Deletes it and waits until it is gone. */
  async delete(name: string, graceSeconds = 0): Promise<void> {
    const pod = await this.client.deletePod(NAMESPACE, name, { graceSeconds });
    await this.untilGone(pod);
  }

  async untilGone(pod: PodJson): Promise<void> {
    await eventually(
      async () => (await this.find(pod.metadata.name))?.metadata.uid !== pod.metadata.uid,
      () => `pod ${pod.metadata.name} is still there\n${this.tail}`,
    );
  }

  /** @param before default: the daemon with its images and no pod */
  expectNothingLeft(before: Snapshot = this.#empty): Promise<void> {
    return this.daemon.expectNothingLeft(before);
  }

  /** Exit code and output of a command in the pod's only or first container. */
  async exec(name: string, ...command: string[]): Promise<{ code: number; stdout: string }> {
    const streams = await this.client.exec(NAMESPACE, name, { command });
    streams.stderr.resume();
    const chunks: Buffer[] = [];
    for await (const chunk of streams.stdout) chunks.push(chunk as Buffer);
    return { code: await streams.exited, stdout: Buffer.concat(chunks).toString() };
  }

  async logText(name: string, container: string, request: { previous?: boolean } = {}): Promise<string> {
    const chunks: Buffer[] = [];
    for await (const chunk of this.client.logs(NAMESPACE, name, { container, ...request })) chunks.push(chunk);
    return Buffer.concat(chunks).toString();
  }

  /** Pids of all that runs, which a zombie does not, in the daemon's cgroups, or in those whose path holds `below`. */
  pids(below = ""): number[] {
    return readdirSync("/proc")
      .filter((pid) => /^\d+$/.test(pid))
      .filter((pid) => {
        if (!isAlive(Number(pid))) return false;
        const cgroup = readQuietly(`/proc/${pid}/cgroup`);
        return cgroup.includes(`/${this.daemon.cgroupRoot}/${below}`) && isAlive(Number(pid));
      })
      .map(Number);
  }

  monitorPids(): number[] {
    return this.pids("monitors/");
  }

  /** Pids whose command line fits, within this daemon's cgroups. */
  pidsOf(commandLine: RegExp): number[] {
    return this.pids().filter((pid) =>
      commandLine.test(readQuietly(`/proc/${pid}/cmdline`).replaceAll("\0", " ").trim()),
    );
  }

  /** The first process of the one container whose command line fits. @throws Error where it is not one */
  initOf(commandLine: RegExp): number {
    const inits = this.pidsOf(commandLine).filter((pid) =>
      /^NSpid:\t\d+\t1$/m.test(readQuietly(`/proc/${pid}/status`)),
    );
    const [pid] = inits;
    if (inits.length !== 1 || pid === undefined) {
      throw new Error(`${inits.length} containers run ${commandLine}, not one\n${this.tail}`);
    }
    return pid;
  }

  /** After a test: no failpoint, a daemon, and no pod but those to keep. */
  async reset(...kept: readonly string[]): Promise<void> {
    this.arm();
    if (!(await this.daemon.isServing())) await this.daemon.start();
    const { items } = await this.client.listPods();
    for (const { metadata } of items) if (!kept.includes(metadata.name)) await this.delete(metadata.name);
  }

  daemonRssBytes(): number {
    const pages = readQuietly(`/proc/${this.daemon.pid}/statm`).split(" ")[1];
    return Number(pages) * 4096;
  }

  /** Exit files of containers that are not removed yet. */
  exitFiles(): string[] {
    const containers = join(this.daemon.root, "containers");
    return readdirSync(containers).filter((id) => readQuietly(join(containers, id, "exit.json")) !== "");
  }

  removeMonitorSockets(): void {
    const folder = join(this.daemon.run, "tmpfs", "monitors");
    for (const name of readdirSync(folder)) rmSync(join(folder, name));
  }

  removeApiSocket(): void {
    rmSync(this.daemon.apiSocket);
  }

  /** Path of the pods' cgroups on this machine. */
  get podCgroups(): string {
    return join(cgroup2Mount() ?? "", this.daemon.cgroupRoot, "pods");
  }

  /** The end of the daemon's log, for messages of failed tests. */
  get tail(): string {
    return this.daemon.log.split("\n").slice(-30).join("\n");
  }

  async dispose(): Promise<void> {
    this.arm();
    await this.daemon.dispose();
    rmSync(this.#points);
  }
}

export function manifest(name: string, parts: PodParts) {
  const container = ({ name: containerName, script, mounts = {}, ports, image }: ContainerParts) => ({
    name: containerName,
    image: image ?? "minke.test/busybox:1",
    imagePullPolicy: "IfNotPresent",
    command: ["sh", "-c", script],
    volumeMounts: Object.entries(mounts).map(([volume, mountPath]) => ({ name: volume, mountPath })),
    ...(ports && { ports }),
  });
  const { initContainers = [], containers = [{ name: "main", script: SLEEPER }] } = parts;
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name },
    spec: {
      ...(parts.hostUsers !== undefined && { hostUsers: parts.hostUsers }),
      restartPolicy: parts.restartPolicy ?? "Always",
      terminationGracePeriodSeconds: parts.graceSeconds ?? 1,
      ...(initContainers.length > 0 && { initContainers: initContainers.map(container) }),
      containers: containers.map(container),
      ...(parts.volumes && { volumes: parts.volumes }),
    },
  };
}

export function isRunning({ status }: PodJson): boolean {
  const containers = status.containerStatuses ?? [];
  return status.phase === "Running" && containers.length > 0 && containers.every(({ state }) => state.running);
}

/** Polls until it is so; an attempt that throws counts as not yet. */
export async function eventually(
  isSo: () => Promise<boolean> | boolean,
  describe: () => string,
  timeoutMs = 60_000,
): Promise<void> {
  const giveUpAt = performance.now() + timeoutMs;
  for (;;) {
    let failure: unknown;
    try {
      if (await isSo()) return;
    } catch (err) {
      failure = err;
    }
    if (performance.now() > giveUpAt) throw new Error(describe(), { cause: failure });
    await sleep(15);
  }
}

/** The code of the RuntimeError that the work fails with; an answer fails the test. */
export async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (err) {
    return (err as RuntimeError).code ?? String(err);
  }
  throw new Error("it succeeded");
}

function readQuietly(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
