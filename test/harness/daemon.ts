/**
 * A daemon for one test file: the built one, with folders, cgroup root, bridge and subnets of
 * its own, so that it runs beside others and can be killed and started again.
 */
import { type ChildProcess, spawn } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { request } from "node:http";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MinkeClient, type PodJson } from "../../src/client/index.js";
import { DAEMON_ENV, DAEMON_NODE_FLAGS } from "../../src/client/node-flags.js";
import type { ContainerStatusJson } from "../../src/pod/status.js";
import { type CommandOptions, type CommandResult, MINKE, PROJECT, runCommand } from "./cli.js";
import { expectNothingLeft, type Scope, type Snapshot, takeSnapshot } from "./leaks.js";
import { isAlive } from "./processes.js";
import { missing } from "./requires.js";
import { SLOWNESS } from "./slowness.js";

/** The fixture images as one OCI layout; setup builds it. */
export const FIXTURE_LAYOUT = `${PROJECT}.cache/fixtures/layout`;

export interface TestDaemonOptions {
  /** More lines of the settings file, in front of its tables. */
  readonly settings?: string;
  /** More tables of the settings file. */
  readonly tables?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Who makes the pods' network, whatever CNI configurations this machine has. Default: `builtin`. */
  readonly networkMode?: "builtin" | "cni";
  /** First half of the pods' IPv4 network. Default: `10.206`. */
  readonly network?: string;
  /** The pods' IPv4 network, where 253 addresses are too few. Nothing else may use it. */
  readonly subnetIpv4?: string;
  /** Folder to make root and run in. Default: a new one below the system's. It stays. */
  readonly folder?: string;
}

/** A multiple of LANES, below 256. */
const MAX_SUBNETS = 252;
/** At least vitest's `maxWorkers`. */
const LANES = 4;

let made = 0;

/** IPv6 prefix beside `10.<second>.<n>`; ends with a colon. */
function prefix6(second: number, n: number): string {
  return `fd6d:696e:6b65:${(second * 256 + n).toString(16)}:`;
}

/**
 * The first n from here on whose networks no link of this machine has: other test runs go on beside
 * this one. The files that vitest runs side by side never look at the same n, which both would
 * find free before either has made its bridge.
 */
function freeSubnet(second: number, from: number): number {
  const taken = Object.values(networkInterfaces()).flatMap((addresses = []) => addresses.map(({ address }) => address));
  const lane = Number(process.env["VITEST_POOL_ID"] ?? 1) % LANES;
  for (let i = 0; i < MAX_SUBNETS; i += LANES) {
    const n = ((from * LANES + i) % MAX_SUBNETS) + lane;
    const isFree = (address: string) =>
      !address.startsWith(`10.${second}.${n}.`) && !address.startsWith(prefix6(second, n));
    if (taken.every(isFree)) return n;
  }
  throw new Error(`every subnet of 10.${second} is taken`);
}

export class TestDaemon {
  readonly folder: string;
  readonly root: string;
  readonly run: string;
  readonly cgroupRoot: string;
  readonly bridge: string;
  /** `10.206.N`, unless the options say otherwise: the pods' IPv4 network, /24. */
  readonly network4: string;
  /** Asks without a process of its own for each question, as a command is. */
  readonly client: MinkeClient;
  readonly #settingsFile: string;
  #env: Readonly<Record<string, string>>;
  #child: ChildProcess | undefined;
  /** The machine before this daemon existed. */
  readonly #machineBefore: Snapshot;

  private constructor({ settings = "", tables = "", env = {}, networkMode = "builtin", ...place }: TestDaemonOptions) {
    const second = Number((place.network ?? "10.206").split(".")[1]);
    const n = freeSubnet(second, process.pid + made++);
    this.folder = mkdtempSync(join(place.folder ?? tmpdir(), "minke-test-"));
    this.root = join(this.folder, "root");
    this.run = join(this.folder, "run");
    this.client = new MinkeClient(this.apiSocket);
    this.cgroupRoot = `minke-test-${process.pid}-${made}`;
    this.bridge = `mkt${process.pid.toString(36)}x${made}`;
    this.network4 = `10.${second}.${n}`;
    this.#env = env;
    this.#machineBefore = takeSnapshot(this.#scope());
    this.#settingsFile = join(this.folder, "config.toml");
    const tolerate = ["cpu", "memory", "pids"].some((name) => missing(`controller:${name}`) !== undefined);
    writeFileSync(
      this.#settingsFile,
      `log-level = "debug"
cgroup-root = "${this.cgroupRoot}"
tolerate-missing-controllers = ${tolerate}
${settings}
[network]
mode = "${networkMode}"
bridge = "${this.bridge}"
subnet-ipv4 = "${place.subnetIpv4 ?? `${this.network4}.0/24`}"
subnet-ipv6 = "${prefix6(second, n)}:/64"
${tables}`,
    );
    for (const path of [this.root, this.run]) mkdirSync(path, { mode: 0o700 });
  }

  /** A running daemon without images. */
  static async start(options: TestDaemonOptions = {}): Promise<TestDaemon> {
    const daemon = new TestDaemon(options);
    await daemon.start();
    return daemon;
  }

  /** A running daemon with the fixture images. */
  static async startWithImages(options: TestDaemonOptions = {}): Promise<TestDaemon> {
    const daemon = await TestDaemon.start(options);
    await daemon.client.loadImages(FIXTURE_LAYOUT);
    return daemon;
  }

  get apiSocket(): string {
    return join(this.run, "api.sock");
  }

  get criSocket(): string {
    return join(this.run, "cri.sock");
  }

  get pid(): number {
    if (this.#child?.pid === undefined) throw new Error("the daemon does not run");
    return this.#child.pid;
  }

  /** What the daemon wrote, all runs of it. */
  get log(): string {
    const file = join(this.folder, "daemon.log");
    return existsSync(file) ? readFileSync(file, "utf8") : "";
  }

  /**
   * Starts it, again after `kill9`, and waits until it answers.
   *
   * @param program another build of minke: `dist/cli/main.js` of its folder
   */
  async start(env: Readonly<Record<string, string>> = {}, program: string = MINKE): Promise<void> {
    const log = openSync(join(this.folder, "daemon.log"), "a", 0o600);
    const args = [
      ...DAEMON_NODE_FLAGS,
      program,
      "daemon",
      "--root",
      this.root,
      "--run",
      this.run,
      "--config",
      this.#settingsFile,
    ];
    const child = spawn(process.execPath, args, {
      env: { ...process.env, ...DAEMON_ENV, ...this.#env, ...env },
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    this.#child = child;
    const deadline = Date.now() + 60_000 * SLOWNESS;
    while (!(await this.isServing())) {
      if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline) {
        throw new Error(
          `the daemon did not start (${child.exitCode ?? child.signalCode ?? "no answer"}):\n${this.log}`,
        );
      }
      await sleep(10);
    }
  }

  /** Settles when a container of this daemon has written how it ended. */
  async containerEnded(containerId: string): Promise<void> {
    const file = join(this.root, "containers", containerId, "exit.json");
    for (const giveUpAt = Date.now() + 60_000 * SLOWNESS; !existsSync(file); await sleep(20)) {
      if (Date.now() > giveUpAt) throw new Error(`no ${file}`);
    }
  }

  /** Ends the daemon as a crash would; pods go on. */
  async kill9(): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
    this.#child = undefined;
  }

  /** Settles when the daemon has ended by itself, as at a failpoint. */
  async ended(timeoutMs = 60_000 * SLOWNESS): Promise<void> {
    const child = this.#child;
    if (!child) return;
    const giveUpAt = Date.now() + timeoutMs;
    while (child.exitCode === null && child.signalCode === null) {
      if (Date.now() > giveUpAt) throw new Error(`the daemon did not end within ${timeoutMs} ms:\n${this.log}`);
      await sleep(5);
    }
    this.#child = undefined;
  }

  /** Runs a minke command against this daemon. */
  minke(args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    const env = { MINKE_ROOT: this.root, MINKE_RUN: this.run, ...options.env };
    return runCommand(process.execPath, [MINKE, ...args], { ...options, env });
  }

  /** Runs a minke command that has to succeed; gives its standard output. */
  async expect(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.minke(args);
    if (code !== 0) throw new Error(`minke ${args.join(" ")} ended with ${code}:\n${stderr}${stdout}`);
    return stdout;
  }

  /** Makes the pods of a manifest and waits until they are ready. */
  async runPod(manifest: string): Promise<void> {
    const { code, stdout, stderr } = await this.minke(["run", "-f", "-", "--wait"], { input: manifest });
    if (code !== 0) throw new Error(`minke run ended with ${code}:\n${stderr}${stdout}\n${this.log}`);
  }

  async pod(name: string): Promise<PodJson> {
    const { items } = await this.client.listPods("default");
    const pod = items.find((item) => item.metadata.name === name);
    if (!pod) throw new Error(`no pod ${name} among ${items.map((item) => item.metadata.name).join(", ")}`);
    return pod;
  }

  async container(podName: string, name: string): Promise<ContainerStatusJson> {
    const { status } = await this.pod(podName);
    const all = [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])];
    const found = all.find((container) => container.name === name);
    if (!found) throw new Error(`no container ${name} in pod ${podName}`);
    return found;
  }

  /**
   * Kills the one process in this daemon's containers whose command line fits: from outside, as
   * the kernel ignores SIGKILL to a pid 1 from within (pid_namespaces(7)).
   */
  killProcess(commandLine: RegExp): void {
    const found = readdirSync("/proc").filter((pid) => {
      if (!/^\d+$/.test(pid)) return false;
      try {
        const cgroup = readFileSync(`/proc/${pid}/cgroup`, "utf8");
        const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
        return cgroup.includes(`/${this.cgroupRoot}/`) && commandLine.test(command);
      } catch {
        return false; // It ended meanwhile.
      }
    });
    if (found.length !== 1) throw new Error(`${found.length} processes fit ${commandLine}, not one`);
    process.kill(Number(found[0]), "SIGKILL");
  }

  snapshot(): Snapshot {
    return takeSnapshot(this.#scope());
  }

  /** @throws Error that lists what is there and was not there before */
  async expectNothingLeft(before: Snapshot): Promise<void> {
    await expectNothingLeft(before, this.#scope());
  }

  /** Stops pods and daemon, then looks that nothing of them is left on the machine. */
  async dispose(): Promise<void> {
    if (!(await this.isServing())) await this.start();
    const { pid } = await this.client.stopDaemon({ pods: true });
    const giveUpAt = Date.now() + 60_000 * SLOWNESS;
    while (isAlive(pid)) {
      if (Date.now() > giveUpAt) throw new Error(`the daemon was told to stop and did not end:\n${this.log}`);
      await sleep(10);
    }
    await this.kill9();
    rmSync(this.folder, { recursive: true, force: true });
    await expectNothingLeft(this.#machineBefore, this.#scope());
  }

  isServing(): Promise<boolean> {
    return new Promise((resolve) => {
      const ask = request({ socketPath: this.apiSocket, path: "/healthz", timeout: 2000 * SLOWNESS }, (response) => {
        response.resume();
        resolve(response.statusCode === 200);
      });
      ask.once("error", () => resolve(false));
      ask.once("timeout", () => ask.destroy());
      ask.end();
    });
  }

  #scope(): Scope {
    return {
      root: this.root,
      run: this.run,
      cgroupRoot: this.cgroupRoot,
      bridge: this.bridge,
      daemonPid: this.#child?.pid,
    };
  }
}
