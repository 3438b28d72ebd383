/**
 * The container: one process tree in a sandbox with its own rootfs, as asked for and as recorded.
 *
 *   (none) --create--> created --start--> starting --> running --exit--> exited --remove--> removing --> (none)
 *                         |                  |                             ^
 *                         +----remove        +--start failed, reboot-------+
 *
 * How it ended is never in this record: the exit file, written by the monitor, says it.
 */
import type { ContainerId, Digest, SandboxId } from "../base/ids.js";
import type { ContainerConfig } from "../spec/container-config.js";

export type {
  ContainerConfig,
  ContainerDevice,
  ContainerMount,
  ContainerResources,
  ContainerSecurity,
  ContainerUser,
  MountPropagation,
  SecurityProfile,
} from "../spec/container-config.js";

export type ContainerState = "created" | "starting" | "running" | "exited" | "removing";

/** As stored: boot class. */
export interface ContainerRecord {
  readonly id: ContainerId;
  readonly sandboxId: SandboxId;
  readonly bootId: string;
  readonly config: ContainerConfig;
  readonly imageId: Digest;
  /** The reference it was asked by, normalised. */
  readonly imageRef: string;
  readonly state: ContainerState;
  readonly createdAtNs: string;
  readonly startedAtNs?: string | undefined;
  readonly pid?: number | undefined;
  readonly cgroupPath: string;
  /** Absolute; empty: none. */
  readonly logPath: string;
  readonly stopSignal: string;
  /** Images that its mounts show; they are in use as long as it is there. */
  readonly mountedImageIds?: readonly Digest[] | undefined;
  /** Who its first process is, as resolved in the image. */
  readonly user?:
    | { readonly uid: number; readonly gid: number; readonly supplementalGroups: readonly number[] }
    | undefined;
  /** What was asked for and is not in force, a sentence each. */
  readonly warnings?: readonly string[] | undefined;
  /** Why it never started, where it did not. */
  readonly startError?: { readonly reason: string; readonly message: string; readonly exitCode: number } | undefined;
}

/**
 * How a container ended: the body of the exit file, written by the monitor before it tells anyone.
 * Nobody but the monitor, or recovery where the monitor is gone, writes it.
 */
export interface ExitRecord {
  readonly version: 1;
  readonly containerId: ContainerId;
  /** 0 to 255; 128 + signal where a signal ended it. */
  readonly exitCode: number;
  /** Number of the signal that ended it, 0 for none. */
  readonly signal: number;
  readonly oomKilled: boolean;
  /** Unix ns, decimal. */
  readonly startedAtNs: string;
  readonly finishedAtNs: string;
  readonly rusage?: { readonly userUs: number; readonly systemUs: number; readonly maxRssKib: number } | undefined;
  /** Set where nobody saw the end (monitor killed, reboot); exitCode is then 255 and means "unknown". */
  readonly unknown?: string | undefined;
}

/** A container as its users see it. */
export interface ContainerStatus extends ContainerRecord {
  readonly exit?: ExitRecord | undefined;
  /** CRI's and Kubernetes' word: `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`. */
  readonly reason?: string | undefined;
  readonly message?: string | undefined;
}
