/**
 * The `linux` section of `config.json`: OCI runtime-spec 1.3, config-linux.md.
 *
 * Types only. Names of kernel files in the comments are those of cgroup v2 where both exist.
 */
import type { IdMapping } from "./runtime-spec.js";
import type { LinuxSeccomp } from "./seccomp.js";

export interface Linux {
  /** No duplicate types. A namespace that is not listed is the runtime's own. */
  namespaces?: LinuxNamespace[] | undefined;
  uidMappings?: IdMapping[] | undefined;
  gidMappings?: IdMapping[] | undefined;
  /** Offsets of clocks in a time namespace; keys `monotonic`, `boottime`. */
  timeOffsets?: Record<string, LinuxTimeOffset> | undefined;
  /** Devices that the container must have; the default ones of the specification come on top. */
  devices?: LinuxDevice[] | undefined;
  /** Network devices moved from the runtime's namespace into the container's, by their name there. */
  netDevices?: Record<string, LinuxNetDevice> | undefined;
  /** Absolute: below the cgroup mount; relative: where the runtime decides. Or `slice:prefix:name` with systemd. */
  cgroupsPath?: string | undefined;
  resources?: LinuxResources | undefined;
  intelRdt?: LinuxIntelRdt | undefined;
  memoryPolicy?: LinuxMemoryPolicy | undefined;
  /** Kernel parameters, by their sysctl(8) name. */
  sysctl?: Record<string, string> | undefined;
  seccomp?: LinuxSeccomp | undefined;
  /** Propagation of the root mount. */
  rootfsPropagation?: RootfsPropagation | undefined;
  /** Absolute paths inside the container that must not be readable. */
  maskedPaths?: string[] | undefined;
  /** Absolute paths inside the container that must be read-only. */
  readonlyPaths?: string[] | undefined;
  /** SELinux context of the mounts. */
  mountLabel?: string | undefined;
  personality?: LinuxPersonality | undefined;
}

export type RootfsPropagation = "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "unbindable";

export type LinuxNamespaceType = "pid" | "network" | "mount" | "ipc" | "uts" | "user" | "cgroup" | "time";

export interface LinuxNamespace {
  type: LinuxNamespaceType;
  /** Absolute, in the runtime's mount namespace: join that one. `undefined`: make a new one. */
  path?: string | undefined;
}

export interface LinuxTimeOffset {
  secs?: number | undefined;
  nanosecs?: number | undefined;
}

export interface LinuxDevice {
  /** `c` and `u` are character devices, `u` unbuffered; `b` block device; `p` FIFO. */
  type: "c" | "b" | "u" | "p";
  /** Absolute, inside the container. */
  path: string;
  /** Required but for `p`. */
  major?: number | undefined;
  /** Required but for `p`. */
  minor?: number | undefined;
  /** File mode, permission bits. */
  fileMode?: number | undefined;
  uid?: number | undefined;
  gid?: number | undefined;
}

export interface LinuxNetDevice {
  /** Name inside the container; `undefined`: as on the host. */
  name?: string | undefined;
}

/** Limits and knobs of the container's cgroup. */
export interface LinuxResources {
  /** Device allow and deny list, in order, on top of the default of the runtime. */
  devices?: LinuxDeviceCgroup[] | undefined;
  memory?: LinuxMemory | undefined;
  cpu?: LinuxCpu | undefined;
  blockIO?: LinuxBlockIo | undefined;
  hugepageLimits?: LinuxHugepageLimit[] | undefined;
  network?: LinuxNetwork | undefined;
  pids?: LinuxPids | undefined;
  /** Keys are device names. */
  rdma?: Record<string, LinuxRdma> | undefined;
  /** cgroup v2 files and their values, written as they are: `{"memory.high": "1073741824"}`. */
  unified?: Record<string, string> | undefined;
}

export interface LinuxDeviceCgroup {
  allow: boolean;
  /** `a` is all. Default: `a`. */
  type?: "a" | "c" | "b" | undefined;
  /** `undefined`: all. */
  major?: number | undefined;
  /** `undefined`: all. */
  minor?: number | undefined;
  /** Composed of `r` read, `w` write, `m` mknod. */
  access?: string | undefined;
}

/** -1 means unlimited where a limit is a number. */
export interface LinuxMemory {
  /** Bytes: `memory.max`. */
  limit?: number | undefined;
  /** Bytes: `memory.low`. */
  reservation?: number | undefined;
  /** Bytes of memory and swap together; v2's `memory.swap.max` is this less `limit`. */
  swap?: number | undefined;
  /** Bytes; v1 only, deprecated. */
  kernel?: number | undefined;
  /** Bytes; v1 only, deprecated. */
  kernelTCP?: number | undefined;
  /** 0 to 100; v1 only. */
  swappiness?: number | undefined;
  /** v1 only. */
  disableOOMKiller?: boolean | undefined;
  /** v1 only. */
  useHierarchy?: boolean | undefined;
  /** Refuse an update that would set the limit below the usage. */
  checkBeforeUpdate?: boolean | undefined;
}

export interface LinuxCpu {
  /** v1's relative weight, 2 to 262144; v2's `cpu.weight` is converted from it. */
  shares?: number | undefined;
  /** Microseconds per period; `cpu.max`. */
  quota?: number | undefined;
  /** Microseconds; `cpu.max.burst`. */
  burst?: number | undefined;
  /** Microseconds; `cpu.max`. */
  period?: number | undefined;
  /** Microseconds; v1 only. */
  realtimeRuntime?: number | undefined;
  /** Microseconds; v1 only. */
  realtimePeriod?: number | undefined;
  /** CPU list; `cpuset.cpus`. */
  cpus?: string | undefined;
  /** Memory node list; `cpuset.mems`. */
  mems?: string | undefined;
  /** 1: SCHED_IDLE for the group; `cpu.idle`. */
  idle?: number | undefined;
}

export interface LinuxBlockIo {
  /** 10 to 1000; `io.weight` or `io.bfq.weight`. */
  weight?: number | undefined;
  /** 10 to 1000; v1 only. */
  leafWeight?: number | undefined;
  weightDevice?: LinuxWeightDevice[] | undefined;
  /** Bytes per second. */
  throttleReadBpsDevice?: LinuxThrottleDevice[] | undefined;
  /** Bytes per second. */
  throttleWriteBpsDevice?: LinuxThrottleDevice[] | undefined;
  /** Operations per second. */
  throttleReadIOPSDevice?: LinuxThrottleDevice[] | undefined;
  /** Operations per second. */
  throttleWriteIOPSDevice?: LinuxThrottleDevice[] | undefined;
}

export interface LinuxWeightDevice {
  major: number;
  minor: number;
  weight?: number | undefined;
  leafWeight?: number | undefined;
}

export interface LinuxThrottleDevice {
  major: number;
  minor: number;
  rate: number;
}

export interface LinuxHugepageLimit {
  /** `64KB`, `2MB`, `1GB`: as in the name of the kernel's file. */
  pageSize: string;
  /** Bytes. */
  limit: number;
}

export interface LinuxNetwork {
  /** v1 only. */
  classID?: number | undefined;
  /** v1 only. */
  priorities?: { name: string; priority: number }[] | undefined;
}

export interface LinuxPids {
  /** `pids.max`; 0 or below: unlimited. */
  limit?: number | undefined;
}

export interface LinuxRdma {
  hcaHandles?: number | undefined;
  hcaObjects?: number | undefined;
}

/** Cache allocation and monitoring, resctrl. */
export interface LinuxIntelRdt {
  closID?: string | undefined;
  /** Lines for the `schemata` file; written after l3CacheSchema and memBwSchema. */
  schemata?: string[] | undefined;
  l3CacheSchema?: string | undefined;
  memBwSchema?: string | undefined;
  /** Make a monitoring group of the container's own. */
  enableMonitoring?: boolean | undefined;
  /** Deprecated by enableMonitoring. */
  enableCMT?: boolean | undefined;
  /** Deprecated by enableMonitoring. */
  enableMBM?: boolean | undefined;
}

/** set_mempolicy(2). */
export interface LinuxMemoryPolicy {
  mode:
    | "MPOL_DEFAULT"
    | "MPOL_BIND"
    | "MPOL_INTERLEAVE"
    | "MPOL_WEIGHTED_INTERLEAVE"
    | "MPOL_PREFERRED"
    | "MPOL_PREFERRED_MANY"
    | "MPOL_LOCAL";
  /** Node list, `0-3,7`. */
  nodes: string;
  flags?: ("MPOL_F_NUMA_BALANCING" | "MPOL_F_RELATIVE_NODES" | "MPOL_F_STATIC_NODES")[] | undefined;
}

/** personality(2). */
export interface LinuxPersonality {
  domain: "LINUX" | "LINUX32";
  flags?: string[] | undefined;
}
