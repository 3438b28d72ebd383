/**
 * A real monitor with real containers of busybox, for tests of the monitor without a daemon.
 */
import { type ChildProcess, spawn } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import {
  type ContainerId,
  type ExecId,
  newContainerId,
  newExecId,
  newSandboxId,
  type SandboxId,
} from "../../src/base/ids.js";
import { type ExecParams, MonitorClient, type StartParams } from "../../src/monitor/monitor-client.js";
import type { ExitRecord } from "../../src/state/container.js";

export const BINARY = fileURLToPath(new URL("../../build/Release/minke-oci", import.meta.url));
const BUSYBOX = "/usr/bin/busybox";
const APPLETS = [
  "sh",
  "cat",
  "echo",
  "sleep",
  "true",
  "yes",
  "head",
  "seq",
  "stty",
  "dd",
  "id",
  "ls",
  "kill",
  "nc",
  "wc",
  "tr",
];

/** A request for the namespaces that a sandbox on the host's network has. */
export const IPC_AND_UTS = {
  network: false,
  ipc: true,
  uts: true,
  hostname: "h",
  domainname: "",
  sysctls: {},
} as const;

export class MonitorBench {
  readonly dir = mkdtempSync(join(tmpdir(), "minke-monitor-"));
  readonly sandboxId: SandboxId = newSandboxId();
  readonly socketPath: string;
  readonly rootfs = join(this.dir, "rootfs");
  readonly cgroup: string;
  readonly child: ChildProcess;
  readonly exits: ExitRecord[] = [];
  stderr = "";
  client!: MonitorClient;
  readonly #clients: MonitorClient[] = [];

  constructor(socketName = "monitor.sock") {
    this.socketPath = join(this.dir, socketName);
    this.cgroup = join(cgroup2Root(), `minke-montest-${process.pid}-${this.sandboxId.slice(0, 8)}`);
    mkdirSync(join(this.socketPath, ".."), { recursive: true });
    mkdirSync(this.cgroup);
    makeRootfs(this.rootfs);
    this.child = spawn(BINARY, [this.sandboxId, this.socketPath], {
      argv0: "minke-monitor",
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.child.stderr?.on("data", (text: Buffer) => (this.stderr += text.toString()));
  }

  static async start(socketName?: string): Promise<MonitorBench> {
    const bench = new MonitorBench(socketName);
    try {
      // Between bind and listen the socket is there and refuses.
      await until(async () => {
        bench.client = await bench.connect().catch(() => undefined as never);
        return bench.client !== undefined;
      });
    } catch (err) {
      // Nobody has it yet who could.
      await bench.stop().catch(() => undefined);
      throw err;
    }
    bench.client.onExit((exit) => bench.exits.push(exit));
    return bench;
  }

  /** One more control client. */
  async connect(): Promise<MonitorClient> {
    const client = await MonitorClient.connect(this.socketPath);
    this.#clients.push(client);
    return client;
  }

  /** A bundle and start parameters for `args`; nothing is started. */
  prepare(args: readonly string[], changes: Partial<StartParams> = {}, uid = 0, pidNamespace?: string): StartParams {
    const containerId = newContainerId();
    const bundlePath = join(this.dir, containerId);
    const cgroup = join(this.cgroup, containerId.slice(0, 12));
    mkdirSync(bundlePath);
    mkdirSync(cgroup);
    writeFileSync(
      join(bundlePath, "config.json"),
      JSON.stringify(this.#spec(args, changes.terminal ?? false, uid, pidNamespace)),
    );
    return {
      containerId,
      bundlePath,
      cgroup,
      exitFile: join(bundlePath, "exit.json"),
      logPath: join(bundlePath, "0.log"),
      logMaxBytes: 0,
      logMaxFiles: 1,
      terminal: false,
      stdin: false,
      stdinOnce: false,
      ...changes,
    };
  }

  async start(args: readonly string[], changes: Partial<StartParams> = {}): Promise<StartParams> {
    const params = this.prepare(args, changes);
    await this.client.start(params);
    return params;
  }

  /** Starts it and waits for its end. */
  async run(
    args: readonly string[],
    changes: Partial<StartParams> = {},
  ): Promise<{ params: StartParams; exit: ExitRecord }> {
    const params = await this.start(args, changes);
    return { params, exit: await this.exitOf(params.containerId) };
  }

  async exitOf(containerId: ContainerId): Promise<ExitRecord> {
    const find = (): ExitRecord | undefined => this.exits.find((exit) => exit.containerId === containerId);
    await until(() => find() !== undefined);
    return find() as ExitRecord;
  }

  execParams<Mode extends "capture" | "stream">(
    container: StartParams,
    mode: Mode,
    args: readonly string[],
    changes: { timeoutMs?: number; limitBytes?: number; stdin?: boolean; terminal?: boolean } = {},
  ): ExecParams & { readonly mode: Mode; readonly execId: ExecId } {
    const { terminal = false, ...rest } = changes;
    const process = { ...this.#spec(args, terminal).process };
    return {
      execId: newExecId(),
      containerId: container.containerId,
      cgroup: container.cgroup,
      process,
      mode,
      stdin: false,
      timeoutMs: 0,
      limitBytes: 1 << 20,
      ...rest,
    };
  }

  capture(
    container: StartParams,
    args: readonly string[],
    changes: { timeoutMs?: number; limitBytes?: number; terminal?: boolean } = {},
  ) {
    return this.client.exec(this.execParams(container, "capture", args, changes));
  }

  /**
   * Kills what runs, ends the monitor and removes everything. Throws the first thing that went wrong, but tries
   * all of it: what a monitor that does not answer leaves would stay for good.
   *
   * @param answerMs how long the monitor may take before it is killed
   */
  async stop(answerMs = 30_000): Promise<void> {
    const problems: unknown[] = [];
    const attempt = async (work: () => unknown) => {
      try {
        await work();
      } catch (err) {
        problems.push(err);
      }
    };
    if (!this.#hasEnded) await attempt(() => within(answerMs, this.#shutDown()));
    await attempt(() => this.#killRest());
    for (const client of this.#clients) client.close();
    await attempt(() => removeCgroupTree(this.cgroup));
    await attempt(() => rmSync(this.dir, { recursive: true, force: true, maxRetries: 10 }));
    if (problems.length > 0) throw problems[0];
  }

  get #hasEnded(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  async #shutDown(): Promise<void> {
    const client = await this.connect();
    for (const { containerId } of (await client.list()).containers) await client.kill({ containerId });
    await until(async () => (await client.list()).containers.every(({ state }) => state === "exited"));
    await client.shutdown();
    await until(() => this.#hasEnded);
  }

  /** What heeded no request: the monitor, and what is in the cgroup. */
  async #killRest(): Promise<void> {
    if (!this.#hasEnded) this.child.kill("SIGKILL");
    if (existsSync(this.cgroup)) writeFileSync(join(this.cgroup, "cgroup.kill"), "1");
    await until(() => this.#hasEnded);
  }

  #spec(args: readonly string[], terminal: boolean, uid = 0, pidNamespace?: string) {
    return {
      ociVersion: "1.2.0",
      process: {
        terminal,
        user: { uid, gid: uid },
        args: [...args],
        env: ["PATH=/bin:/usr/bin", "TERM=xterm"],
        cwd: "/",
        capabilities: { bounding: ["CAP_KILL"], effective: ["CAP_KILL"], permitted: ["CAP_KILL"] },
      },
      root: { path: this.rootfs },
      hostname: "montest",
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755", "size=64k"] },
        {
          destination: "/dev/pts",
          type: "devpts",
          source: "devpts",
          options: ["newinstance", "ptmxmode=0666", "mode=0620"],
        },
      ],
      linux: {
        namespaces: [
          { type: "pid", ...(pidNamespace && { path: pidNamespace }) },
          { type: "mount" },
          { type: "ipc" },
          { type: "uts" },
          { type: "cgroup" },
        ],
      },
    };
  }
}

/** Content of the records of a CRI log, joined: `F` ends a line. */
export function logText(path: string, stream?: "stdout" | "stderr"): string {
  return readFileSync(path, "utf8")
    .split("\n")
    .slice(0, -1)
    .map(
      (record) => /^(\S+) (stdout|stderr) ([FP]) (.*)$/s.exec(record) ?? fail(`no CRI record: ${record.slice(0, 80)}`),
    )
    .filter(([, , from]) => stream === undefined || from === stream)
    .map(([, , , tag, text]) => `${text}${tag === "F" ? "\n" : ""}`)
    .join("");
}

/** Polls; throws after `deadlineMs`. */
export async function until(isTrue: () => boolean | Promise<boolean>, deadlineMs = 30_000): Promise<void> {
  const giveUpAt = performance.now() + deadlineMs;
  while (!(await isTrue())) {
    if (performance.now() > giveUpAt) throw new Error(`not so within ${deadlineMs} ms: ${isTrue}`);
    await sleep(2);
  }
}

/** Memory that belongs to this process alone; the rest of a monitor is its program, which all monitors share. */
export function anonymousKib(pid: number): number {
  const line = /^Pss_Anon: +(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"));
  return Number(line?.[1] ?? fail("no Pss_Anon"));
}

async function within<T>(limitMs: number, work: Promise<T>): Promise<T> {
  const timer = new AbortController();
  const late = sleep(limitMs, undefined, { signal: timer.signal }).then(() => fail(`no answer within ${limitMs} ms`));
  late.catch(() => undefined);
  work.catch(() => undefined);
  return Promise.race([work, late]).finally(() => timer.abort());
}

function fail(why: string): never {
  throw new Error(why);
}

function cgroup2Root(): string {
  const mount = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .find((line) => line.includes(" - cgroup2 "));
  return mount?.split(" ")[4] ?? fail("no cgroup v2 mount");
}

async function removeCgroupTree(path: string): Promise<void> {
  const { readdirSync } = await import("node:fs");
  if (!existsSync(path)) return;
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeCgroupTree(join(path, entry.name));
  }
  await until(() => {
    try {
      rmdirSync(path);
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code === "EBUSY") return false;
      throw err;
    }
    return true;
  });
}

function makeRootfs(path: string): void {
  for (const name of ["bin", "proc", "dev", "tmp"]) mkdirSync(join(path, name), { recursive: true });
  copyFileSync(BUSYBOX, join(path, "bin/busybox"));
  chmodSync(join(path, "bin/busybox"), 0o755);
  for (const applet of APPLETS) symlinkSync("busybox", join(path, "bin", applet));
}
