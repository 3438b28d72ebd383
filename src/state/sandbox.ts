/**
 * The sandbox: CRI's pod-level environment, as asked for and as recorded.
 *
 *   (none) --run--> creating --> ready --stop--> stopping --> stopped --remove--> removing --> (none)
 *                      |           |                             ^
 *                      +--failure--+--monitor died, reboot-------+
 *
 * The record is written before the kernel is touched, so `creating` may own anything or nothing.
 */
import type { SandboxId } from "../base/ids.js";
import type { Span } from "../base/timeline.js";
import type { IdMaps, SandboxConfig, SandboxDns } from "../spec/sandbox-config.js";

export type {
  IdMapping,
  IdMaps,
  NamespaceMode,
  Owner,
  PortMapping,
  SandboxConfig,
  SandboxDns,
  SandboxNamespaces,
} from "../spec/sandbox-config.js";

export type SandboxState = "creating" | "ready" | "stopping" | "stopped" | "removing";

export interface SandboxNetwork {
  readonly interface: string;
  /** Without prefix length; the first is the pod's main one. */
  readonly ips: readonly string[];
  /** As a CNI result names them; the built-in network has a default route of each family. */
  readonly routes?: readonly { readonly destination: string; readonly gateway?: string }[] | undefined;
  /** Of a CNI result: for a pod that brings none of its own. */
  readonly dns?: SandboxDns | undefined;
}

/** The monitor of a sandbox. The start time tells a reused pid from the same process. */
export interface MonitorProcess {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, clock ticks since boot. */
  readonly startTicks: string;
  /** Descriptor numbers inside the monitor: `/proc/<pid>/fd/<n>` is the namespace's path. */
  readonly netFd: number | undefined;
  readonly ipcFd: number | undefined;
  readonly utsFd: number | undefined;
  readonly shmFd: number | undefined;
  /** Absent in records from before there was one. */
  readonly userFd?: number | undefined;
}

/** As stored: boot class. */
export interface SandboxRecord {
  readonly id: SandboxId;
  readonly bootId: string;
  readonly config: SandboxConfig;
  readonly state: SandboxState;
  /** Unix ns, decimal. */
  readonly createdAtNs: string;
  readonly cgroupPath: string;
  readonly monitor?: MonitorProcess | undefined;
  readonly network?: SandboxNetwork | undefined;
  /** Of the sandbox's user namespace, where it has one of its own. */
  readonly idMaps?: IdMaps | undefined;
  /** `minke-init`, pid 1 of the PID namespace that the containers share; only where they share one. */
  readonly initPid?: number | undefined;
  /** Why it is stopped, where that is not because somebody asked. */
  readonly reason?: string | undefined;
}

/** A sandbox as its users see it. */
export interface SandboxStatus extends SandboxRecord {
  readonly spans: readonly Span[];
}
