/**
 * What a caller asks of a sandbox: converted at the edge from a CRI message or a Pod.
 * Pure data; knows neither.
 */

import type { ContainerResources } from "./container-config.js";

/** Who made an object. A kubelet removes what it does not know, so CRI sees only its own. */
export type Owner = "cri" | "pod";

export type NamespaceMode = "pod" | "container" | "node";

/** Namespaces shared by the containers of a sandbox (CRI NamespaceOption). */
export interface SandboxNamespaces {
  /** `node`: the host's. Never `container`. */
  readonly network: "pod" | "node";
  /** `pod`: one shared PID namespace with `minke-init` as its pid 1. */
  readonly pid: NamespaceMode;
  readonly ipc: "pod" | "node";
}

/** `length` ids from `containerId` up are, outside of the user namespace, those from `hostId` up. */
export interface IdMapping {
  readonly hostId: number;
  readonly containerId: number;
  readonly length: number;
}

/** The maps of a user namespace; the first of each maps id 0. */
export interface IdMaps {
  readonly uids: readonly IdMapping[];
  readonly gids: readonly IdMapping[];
}

export interface PortMapping {
  readonly protocol: "tcp" | "udp" | "sctp";
  readonly containerPort: number;
  /** 0: none. */
  readonly hostPort: number;
  /** Empty: every address of the host. */
  readonly hostIp: string;
}

export interface SandboxDns {
  readonly servers: readonly string[];
  readonly searches: readonly string[];
  readonly options: readonly string[];
}

/** What the caller asks for; converted at the edge from a CRI message or a Pod. */
export interface SandboxConfig {
  readonly owner: Owner;
  readonly metadata: {
    readonly name: string;
    readonly uid: string;
    readonly namespace: string;
    readonly attempt: number;
  };
  /** At most 63 bytes; empty with the host's network. */
  readonly hostname: string;
  readonly domainname?: string | undefined;
  /** Absolute, or empty for no logs. Container log paths are relative to it. */
  readonly logDirectory: string;
  /** `undefined`: as the host. */
  readonly dns?: SandboxDns | undefined;
  readonly hostAliases: readonly { readonly ip: string; readonly hostnames: readonly string[] }[];
  readonly portMappings: readonly PortMapping[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly namespaces: SandboxNamespaces;
  /**
   * A user namespace of the sandbox's own that owns its other namespaces, all of which it must have:
   * with these maps, or with ids that no other sandbox has. `undefined`: the host's.
   */
  readonly userNamespace?: IdMaps | "any" | undefined;
  readonly sysctls: Readonly<Record<string, string>>;
  /** Size of the shared /dev/shm. 0: 64 MiB. */
  readonly shmSizeBytes: number;
  /** Below the cgroup root; empty: `<settings.cgroupRoot>/pods`. */
  readonly cgroupParent: string;
  /** What the caller says that it has written to `cgroupParent`: for the pod, and of it for running it at all. */
  readonly resources?: ContainerResources | undefined;
  readonly overhead?: ContainerResources | undefined;
  readonly runtimeHandler: string;
  /** False: a privileged container in it is refused. `undefined`: as true. */
  readonly allowsPrivileged?: boolean | undefined;
}
