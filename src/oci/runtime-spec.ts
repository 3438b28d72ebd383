/**
 * `config.json` of an OCI bundle: OCI runtime-spec 1.3, config.md, as TypeScript types.
 *
 * Types only; who makes a spec is src/spec, who obeys it is native/runtime. Property names
 * and values are the specification's. What is optional may also be `undefined`, which JSON
 * leaves out. Linux is in linux.ts, the other platforms in platforms.ts.
 */
import type { Linux } from "./linux.js";
import type { FreeBsd, Solaris, Vm, Windows, Zos } from "./platforms.js";

/** The version of the specification that these types follow. */
export const RUNTIME_SPEC_VERSION = "1.3.0";

/** The whole of `config.json` (config.md). */
export interface Spec {
  /** SemVer 2.0.0 version of the specification that the bundle follows. */
  ociVersion: string;
  /** The container's root filesystem. Required but on Windows Hyper-V containers. */
  root?: Root | undefined;
  /** Mounted in the order listed, after the root. */
  mounts?: Mount[] | undefined;
  /** The container's process. Required when `start` is called. */
  process?: Process | undefined;
  /** The host name as the container sees it; with the UTS namespace of the container. */
  hostname?: string | undefined;
  /** The NIS domain name as the container sees it. */
  domainname?: string | undefined;
  /** Programs run at points of the container's life. */
  hooks?: Hooks | undefined;
  /** Arbitrary metadata; keys are unique and not empty, values may be empty. */
  annotations?: Record<string, string> | undefined;
  linux?: Linux | undefined;
  solaris?: Solaris | undefined;
  windows?: Windows | undefined;
  vm?: Vm | undefined;
  zos?: Zos | undefined;
  freebsd?: FreeBsd | undefined;
}

export interface Root {
  /** Absolute, or relative to the bundle. */
  path: string;
  /** The root filesystem is read-only inside the container. Default: false. */
  readonly?: boolean | undefined;
}

/** One mount (config.md, "Mounts"). */
export interface Mount {
  /** Where, inside the container: absolute on Linux; relative ones are taken from `/`. */
  destination: string;
  /** A device name, a file or a directory for bind mounts (relative to the bundle), or a dummy. */
  source?: string | undefined;
  /** Type of the filesystem (`/proc/filesystems`). Ignored with `bind` or `rbind` among the options. */
  type?: string | undefined;
  /** Of mount(8) and of the specification: `ro`, `nosuid`, `rbind`, `rslave`, `idmap`, `tmpcopyup`, … */
  options?: string[] | undefined;
  /** User ids between container and the source's filesystem; needs a bind mount. Together with gidMappings. */
  uidMappings?: IdMapping[] | undefined;
  /** Group ids between container and the source's filesystem; needs a bind mount. Together with uidMappings. */
  gidMappings?: IdMapping[] | undefined;
}

/** A range of ids of a user namespace or of an idmapped mount. */
export interface IdMapping {
  /** First id in the container. */
  containerID: number;
  /** First id on the host that `containerID` maps to. */
  hostID: number;
  /** How many ids. */
  size: number;
}

/** The container's process, or a further one of it (config.md, "Process"). */
export interface Process {
  /** Attach a terminal. Default: false. */
  terminal?: boolean | undefined;
  /** Size of the terminal in characters. Ignored without `terminal`. */
  consoleSize?: ConsoleSize | undefined;
  user: User;
  /** Executable and arguments, as argv of execvp(3). Required on Linux, at least one entry. */
  args?: string[] | undefined;
  /** The whole command line; Windows only, instead of `args`. */
  commandLine?: string | undefined;
  /** `NAME=value` entries, with the meaning of POSIX environ. */
  env?: string[] | undefined;
  /** The working directory; absolute. */
  cwd: string;
  /** POSIX process: Linux, Solaris, z/OS. No duplicate types. */
  rlimits?: Rlimit[] | undefined;
  /** Linux: the capability sets. */
  capabilities?: Capabilities | undefined;
  /** Linux: no privilege may be gained by execve (kernel doc, no_new_privs). */
  noNewPrivileges?: boolean | undefined;
  /** Linux: name of the AppArmor profile. */
  apparmorProfile?: string | undefined;
  /** Linux: `/proc/PID/oom_score_adj`; `undefined` leaves it as inherited. */
  oomScoreAdj?: number | undefined;
  /** Linux: scheduling policy and priority, sched_setattr(2). */
  scheduler?: Scheduler | undefined;
  /** Linux: SELinux label. */
  selinuxLabel?: string | undefined;
  /** Linux: I/O priority, ioprio_set(2). */
  ioPriority?: IoPriority | undefined;
  /** Linux: CPU affinity of further processes (exec). */
  execCPUAffinity?: ExecCpuAffinity | undefined;
}

export interface ConsoleSize {
  height: number;
  width: number;
}

export interface User {
  /** User id in the container's namespace. */
  uid: number;
  /** Group id in the container's namespace. */
  gid: number;
  /** File mode creation mask; `undefined`: as the runtime's caller has it. */
  umask?: number | undefined;
  /** More group ids. */
  additionalGids?: number[] | undefined;
  /** Windows only. */
  username?: string | undefined;
}

/** setrlimit(2). Values to 2^64-1, RLIM_INFINITY; beyond 2^53 as bigint (see `specToJson`). */
export interface Rlimit {
  type: RlimitType;
  /** The ceiling that an unprivileged process may not pass. */
  hard: number | bigint;
  /** The value that the kernel enforces. */
  soft: number | bigint;
}

export type RlimitType =
  | "RLIMIT_AS"
  | "RLIMIT_CORE"
  | "RLIMIT_CPU"
  | "RLIMIT_DATA"
  | "RLIMIT_FSIZE"
  | "RLIMIT_LOCKS"
  | "RLIMIT_MEMLOCK"
  | "RLIMIT_MSGQUEUE"
  | "RLIMIT_NICE"
  | "RLIMIT_NOFILE"
  | "RLIMIT_NPROC"
  | "RLIMIT_RSS"
  | "RLIMIT_RTPRIO"
  | "RLIMIT_RTTIME"
  | "RLIMIT_SIGPENDING"
  | "RLIMIT_STACK";

/** The five sets of capabilities(7), as names with `CAP_`. */
export interface Capabilities {
  effective?: string[] | undefined;
  bounding?: string[] | undefined;
  inheritable?: string[] | undefined;
  permitted?: string[] | undefined;
  ambient?: string[] | undefined;
}

/** sched_setattr(2). */
export interface Scheduler {
  policy: "SCHED_OTHER" | "SCHED_FIFO" | "SCHED_RR" | "SCHED_BATCH" | "SCHED_ISO" | "SCHED_IDLE" | "SCHED_DEADLINE";
  /** For SCHED_OTHER and SCHED_BATCH: -20 (most favoured) to 19. */
  nice?: number | undefined;
  /** For SCHED_FIFO and SCHED_RR: 1 to 99. */
  priority?: number | undefined;
  flags?:
    | (
        | "SCHED_FLAG_RESET_ON_FORK"
        | "SCHED_FLAG_RECLAIM"
        | "SCHED_FLAG_DL_OVERRUN"
        | "SCHED_FLAG_KEEP_POLICY"
        | "SCHED_FLAG_KEEP_PARAMS"
        | "SCHED_FLAG_UTIL_CLAMP_MIN"
        | "SCHED_FLAG_UTIL_CLAMP_MAX"
      )[]
    | undefined;
  /** For SCHED_DEADLINE, in nanoseconds. */
  runtime?: number | undefined;
  /** For SCHED_DEADLINE, in nanoseconds. */
  deadline?: number | undefined;
  /** For SCHED_DEADLINE, in nanoseconds. */
  period?: number | undefined;
}

/** ioprio_set(2). */
export interface IoPriority {
  class: "IOPRIO_CLASS_RT" | "IOPRIO_CLASS_BE" | "IOPRIO_CLASS_IDLE";
  /** 0 (highest) to 7. */
  priority: number;
}

/** CPU lists as in cpuset(7), "Formats": `0-3,7`. */
export interface ExecCpuAffinity {
  /** For the runtime's own process, before it is moved to the container's cgroup. */
  initial?: string | undefined;
  /** For the process, after the move. */
  final?: string | undefined;
}

/** Programs that the runtime runs; the state of the container is on their standard input. */
export interface Hooks {
  /** Deprecated: after the namespaces are made, before pivot_root; runtime namespace. */
  prestart?: Hook[] | undefined;
  /** In `create`, after the namespaces are made, before pivot_root; runtime namespace. */
  createRuntime?: Hook[] | undefined;
  /** In `create`, after createRuntime, before pivot_root; container namespace. */
  createContainer?: Hook[] | undefined;
  /** In `start`, before the user's process is executed; container namespace. */
  startContainer?: Hook[] | undefined;
  /** After the user's process is executed, before `start` returns; runtime namespace. */
  poststart?: Hook[] | undefined;
  /** After the container is deleted, before `delete` returns; runtime namespace. */
  poststop?: Hook[] | undefined;
}

export interface Hook {
  /** Absolute. */
  path: string;
  /** As argv of execv(3), the program's own name first. */
  args?: string[] | undefined;
  env?: string[] | undefined;
  /** Seconds before the hook is ended; above 0. */
  timeout?: number | undefined;
}

/** What `state` prints and hooks read (runtime.md, "State"). */
export interface State {
  ociVersion: string;
  /** Unique on this host. */
  id: string;
  status: "creating" | "created" | "running" | "stopped";
  /** The container's process as the runtime sees it; required for created and running on Linux. */
  pid?: number | undefined;
  /** Absolute path of the bundle. */
  bundle: string;
  annotations?: Record<string, string> | undefined;
}
