/**
 * What a caller asks of a container: converted at the edge from a CRI message or a Pod.
 * Pure data; knows neither.
 */
import type { Owner } from "./sandbox-config.js";

export type MountPropagation = "private" | "host-to-container" | "bidirectional";

export interface ContainerMount {
  /** Absolute, inside the container. */
  readonly containerPath: string;
  /** Absolute, on the host. */
  readonly hostPath: string;
  readonly readonly: boolean;
  /** Makes every mount below read-only too; needs `readonly`. */
  readonly recursiveReadonly: boolean;
  readonly propagation: MountPropagation;
}

/** Who the first process is. Names are resolved inside the rootfs at create. */
export interface ContainerUser {
  /** `uid`, `name`, or `undefined` for the image's. */
  readonly user?: string | undefined;
  readonly gid?: number | undefined;
  readonly supplementalGroups: readonly number[];
}

export interface ContainerSecurity {
  readonly privileged: boolean;
  readonly readonlyRootfs: boolean;
  readonly noNewPrivileges: boolean;
  /** Names without `CAP_`; `ALL` alone or with others. */
  readonly addCapabilities: readonly string[];
  readonly dropCapabilities: readonly string[];
  /** `undefined`: the default lists. */
  readonly maskedPaths?: readonly string[] | undefined;
  readonly readonlyPaths?: readonly string[] | undefined;
}

export interface ContainerResources {
  readonly cpuShares?: number | undefined;
  readonly cpuQuotaUs?: number | undefined;
  readonly cpuPeriodUs?: number | undefined;
  readonly memoryLimitBytes?: number | undefined;
  readonly memorySwapLimitBytes?: number | undefined;
  readonly cpusetCpus?: string | undefined;
  readonly cpusetMems?: string | undefined;
  readonly pidsLimit?: number | undefined;
  readonly hugepageLimits?: readonly { readonly pageSize: string; readonly limitBytes: number }[] | undefined;
  readonly unified?: Readonly<Record<string, string>> | undefined;
  readonly oomScoreAdj?: number | undefined;
}

export interface ContainerConfig {
  readonly owner: Owner;
  readonly metadata: { readonly name: string; readonly attempt: number };
  /** A reference or an image id; resolved at create. */
  readonly image: string;
  /** Replaces the image's entrypoint; `undefined` keeps it. */
  readonly command?: readonly string[] | undefined;
  /** Replaces the image's cmd; a set command without args drops it (Kubernetes rules). */
  readonly args?: readonly string[] | undefined;
  /** Empty: the image's, or `/`. */
  readonly workingDir: string;
  /** Added to the image's, later ones win. Values are latin1 strings of their bytes where they are not UTF-8. */
  readonly env: readonly { readonly name: string; readonly value: string }[];
  readonly mounts: readonly ContainerMount[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Relative to the sandbox's logDirectory; empty: no log. */
  readonly logPath: string;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly tty: boolean;
  readonly user: ContainerUser;
  readonly security: ContainerSecurity;
  readonly resources: ContainerResources;
  /** `undefined`: the image's, or SIGTERM. */
  readonly stopSignal?: string | undefined;
  /** Log rotation by the monitor; 0 bytes: never (CRI: the kubelet rotates). */
  readonly logMaxBytes: number;
  readonly logMaxFiles: number;
}
