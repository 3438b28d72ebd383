/**
 * What a sandbox's monitor is asked and answers (native/monitor/PROTOCOL.md), as types.
 */
import type { ContainerId, ExecId, SandboxId } from "../base/ids.js";
import type { ExitRecord } from "../state/container.js";

export const PROTOCOL = 1;

/** The monitor's first frame. */
export interface MonitorHello {
  readonly protocol: number;
  /** Release of the binary; a monitor may be older than the daemon. */
  readonly version: string;
  readonly sandboxId: SandboxId;
  readonly pid: number;
  /** Where it listens. */
  readonly socketPath: string;
  /** Descriptors the monitor holds: `/proc/<pid>/fd/<n>` is the namespace's path. */
  readonly fds: Readonly<Partial<Record<"net" | "ipc" | "uts" | "shm" | "user", number>>>;
}

export interface StartParams {
  readonly containerId: ContainerId;
  /** Absolute; `config.json` is read from it, at start and at each exec. */
  readonly bundlePath: string;
  /** Absolute; written when the container has ended, before anybody is told. */
  readonly exitFile: string;
  /** Absolute path of an existing cgroup2 directory, the container's own. */
  readonly cgroup: string;
  /** The rootfs as overlay; without it the spec's `root.path`. Directories are absolute, `lower` topmost first. */
  readonly overlay?:
    | {
        readonly lower: readonly string[];
        readonly upper: string;
        readonly work: string;
        readonly volatile: boolean;
        /** The lower layers' ids are mapped by the container's user namespace. */
        readonly idmapped?: boolean;
      }
    | undefined;
  /**
   * Another OCI runtime, whose command line is called: `path` absolute, `args` before the command, `stateDir`
   * absolute and the container's own. The overlay is then mounted at `rootfs` in the bundle. Without it the
   * monitor starts the container itself.
   */
  readonly runtimeHandler?:
    | { readonly path: string; readonly args: readonly string[]; readonly stateDir: string }
    | undefined;
  /** Absolute; `null`: no log. */
  readonly logPath: string | null;
  /** 0: never rotated. */
  readonly logMaxBytes: number;
  /** In all, the one being written included. */
  readonly logMaxFiles: number;
  /** Must be the spec's `process.terminal`. */
  readonly terminal: boolean;
  readonly stdin: boolean;
  /** Stdin ends with the first client that ends it or goes. */
  readonly stdinOnce: boolean;
}

export interface StartResult {
  readonly pid: number;
  /** Unix ns, decimal. */
  readonly startedAtNs: string;
}

export interface ExecParams {
  readonly execId: ExecId;
  readonly containerId: ContainerId;
  /** An OCI process object. */
  readonly process: object;
  /** Absolute: the container's. The exec gets one of its own below it. */
  readonly cgroup: string;
  /**
   * `capture`: answered at the end, with the output. `stream`: answered when the command runs; its
   * streams are taken by `openStream`, within 30 s and once, and it ends with that client.
   */
  readonly mode: "capture" | "stream";
  /** Only with `stream`. */
  readonly stdin: boolean;
  /** 0: none. At the end of it everything that the exec started is killed. */
  readonly timeoutMs: number;
  /** `capture`: of stdout and of stderr each, at most 16 MiB; what is beyond is read and dropped. */
  readonly limitBytes: number;
}

export interface CaptureResult {
  readonly exitCode: number;
  /** 0: none. */
  readonly signal: number;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** The limit has cut stdout or stderr. */
  readonly truncated: boolean;
  readonly timedOut: boolean;
}

export interface ListedContainer {
  readonly containerId: ContainerId;
  readonly state: "starting" | "running" | "exited";
  readonly pid: number;
  /** Unix ns, decimal; `"0"` while starting. */
  readonly startedAtNs: string;
  readonly exit?: ExitRecord | undefined;
}

export type MonitorEvent =
  | {
      readonly event: "exit";
      readonly containerId: ContainerId;
      readonly exit: ExitRecord;
      /** The container's own cgroup is gone. Older monitors leave it, and do not say so. */
      readonly cgroupRemoved?: boolean | undefined;
    }
  | { readonly event: "execExit"; readonly execId: ExecId; readonly exitCode: number; readonly signal: number }
  | { readonly event: "oom"; readonly containerId: ContainerId };

/** What a monitor says went wrong. */
export interface MonitorFailure {
  readonly code: string;
  readonly message: string;
  /** Where a start or exec failed: `"spec"`, `"mount"`, `"exec"`, … */
  readonly step?: string | undefined;
  readonly syscall?: string | undefined;
  readonly errno?: string | undefined;
  /** For a refused spec: `"process.user.uid"`. */
  readonly jsonPath?: string | undefined;
}

export type StreamTarget = { readonly containerId: ContainerId } | { readonly execId: ExecId };
