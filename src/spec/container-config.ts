/**
 * What a caller asks of a container: converted at the edge from a CRI message or a Pod.
 * Pure data; knows neither.
 */
import type { IdMapping, Owner } from "./sandbox-config.js";

export type MountPropagation = "private" | "host-to-container" | "bidirectional";

export interface ContainerMount {
  /** Absolute, inside the container. */
  readonly containerPath: string;
  /** Absolute, on the host; empty with `image`. */
  readonly hostPath: string;
  /** Reference or id of an image whose files are mounted read-only. */
  readonly image?: string | undefined;
  /** What of the image is mounted, relative; empty or `undefined`: all. A directory or a file. */
  readonly imageSubPath?: string | undefined;
  readonly readonly: boolean;
  /** Makes every mount below read-only too; needs `readonly`. */
  readonly recursiveReadonly: boolean;
  readonly propagation: MountPropagation;
  /** Further options of the mount itself, in mount(8)'s words: `noexec`, `nosuid`, … */
  readonly options?: readonly string[] | undefined;
  /** For an idmapped mount; empty or `undefined`: none. Both or neither. */
  readonly uidMappings?: readonly IdMapping[] | undefined;
  readonly gidMappings?: readonly IdMapping[] | undefined;
  /** In a sandbox with a user namespace, the files belong to the ids inside that they have on the disk. */
  readonly mapsIds?: boolean | undefined;
}

/** A node of the host that the container may use. */
export interface ContainerDevice {
  /** A device node, or a directory: all nodes below it. */
  readonly hostPath: string;
  readonly containerPath: string;
  /** Composed of `r` read, `w` write, `m` mknod. */
  readonly permissions: string;
}

/** What confines system calls (seccomp) or access (AppArmor). */
export interface SecurityProfile {
  readonly type: "runtime-default" | "unconfined" | "localhost";
  /** With `localhost`: an absolute path of a seccomp profile, or the name of a loaded AppArmor profile. */
  readonly localhostRef: string;
}

/** Who the first process is. Names are resolved inside the rootfs at create. */
export interface ContainerUser {
  /** `uid`, `name`, or `undefined` for the image's. */
  readonly user?: string | undefined;
  readonly gid?: number | undefined;
  readonly supplementalGroups: readonly number[];
  /** `merge`, the default: with the groups that the image's /etc/group gives to the user; `strict`: without. */
  readonly supplementalGroupsPolicy?: "merge" | "strict" | undefined;
}

export interface ContainerSecurity {
  readonly privileged: boolean;
  readonly readonlyRootfs: boolean;
  readonly noNewPrivileges: boolean;
  /** Names without `CAP_`; `ALL` alone or with others. */
  readonly addCapabilities: readonly string[];
  readonly dropCapabilities: readonly string[];
  /** Kept over execve by a process that is not root; also given as with `addCapabilities`. */
  readonly addAmbientCapabilities?: readonly string[] | undefined;
  /** `undefined`: unconfined. Privileged containers are unconfined. */
  readonly seccomp?: SecurityProfile | undefined;
  readonly apparmor?: SecurityProfile | undefined;
  /** Parts of an SELinux label, "" for what is left open; without effect where the kernel runs without SELinux. */
  readonly selinux?:
    | { readonly user: string; readonly role: string; readonly type: string; readonly level: string }
    | undefined;
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
  /** Added to the image's, later ones win. Values may be byte strings (base/byte-strings.ts). */
  readonly env: readonly { readonly name: string; readonly value: string }[];
  readonly mounts: readonly ContainerMount[];
  readonly devices?: readonly ContainerDevice[] | undefined;
  /** Qualified names, `vendor.example/class=name`, of devices that CDI specifications of the host describe. */
  readonly cdiDevices?: readonly string[] | undefined;
  /** The PID namespace, where it is not what the sandbox has: its own, the host's, or that of another container. */
  readonly pid?: "container" | "node" | { readonly target: string } | undefined;
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
