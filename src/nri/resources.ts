/**
 * Resources of a container as NRI says them, both ways.
 */
import type { ContainerResources } from "../spec/container-config.js";
import { LinuxResources } from "./generated/nri/v1alpha1/nri.js";
import type { Owners } from "./owners.js";

export function toNriResources(resources: ContainerResources): LinuxResources {
  const number = (value: number | undefined) =>
    value === undefined || value === 0 ? undefined : { value: BigInt(Math.trunc(value)) };
  return LinuxResources.fromPartial({
    memory: { limit: number(resources.memoryLimitBytes), swap: number(resources.memorySwapLimitBytes) },
    cpu: {
      shares: number(resources.cpuShares),
      quota: number(resources.cpuQuotaUs),
      period: number(resources.cpuPeriodUs),
      cpus: resources.cpusetCpus ?? "",
      mems: resources.cpusetMems ?? "",
    },
    hugepageLimits: (resources.hugepageLimits ?? []).map(({ pageSize, limitBytes }) => ({
      pageSize,
      limit: BigInt(limitBytes),
    })),
    unified: { ...resources.unified },
    ...(resources.pidsLimit !== undefined && { pids: { limit: BigInt(resources.pidsLimit) } }),
  });
}

/** What cgroup v2 has no counterpart of, or what needs a driver that minke has not. */
const WITHOUT_EFFECT = {
  kernel: "memory.kernel is of cgroup v1",
  kernelTcp: "memory.kernel_tcp is of cgroup v1",
  swappiness: "memory.swappiness is of cgroup v1",
  disableOomKiller: "memory.disable_oom_killer is of cgroup v1",
  useHierarchy: "memory.use_hierarchy is of cgroup v1",
  realtimeRuntime: "cpu.realtime_runtime is of cgroup v1",
  realtimePeriod: "cpu.realtime_period is of cgroup v1",
  blockioClass: "no block I/O classes are configured",
  rdtClass: "no RDT classes are configured",
} as const;

export interface ResourceAdjustment {
  readonly resources: ContainerResources;
  /** What was asked for and is not in force, a sentence each. */
  readonly warnings: readonly string[];
}

/**
 * What a plugin wants over what is there; all claimed for it.
 * @throws RuntimeError `aborted` NRI_CONFLICT
 */
export function adjustResources(
  base: ContainerResources,
  wanted: LinuxResources | undefined,
  claims: { readonly owners: Owners; readonly containerId: string; readonly plugin: string },
): ResourceAdjustment {
  if (!wanted) return { resources: base, warnings: [] };
  const claim = (field: Parameters<Owners["claim"]>[1], key = "") =>
    claims.owners.claim(claims.containerId, field, key, claims.plugin);
  const changes: { -readonly [K in keyof ContainerResources]: ContainerResources[K] } = {};
  const take = <K extends NumberField>(
    name: K,
    field: Parameters<Owners["claim"]>[1],
    value: { value: bigint } | undefined,
  ) => {
    if (!value) return;
    claim(field);
    changes[name] = Number(value.value);
  };
  const { memory, cpu } = wanted;
  take("memoryLimitBytes", "MemLimit", memory?.limit);
  take("memorySwapLimitBytes", "MemSwapLimit", memory?.swap);
  take("cpuShares", "CPUShares", cpu?.shares);
  take("cpuQuotaUs", "CPUQuota", cpu?.quota);
  take("cpuPeriodUs", "CPUPeriod", cpu?.period);
  take("pidsLimit", "PidsLimit", wanted.pids && { value: wanted.pids.limit });
  if (cpu?.cpus) {
    claim("CPUSetCPUs");
    changes.cpusetCpus = cpu.cpus;
  }
  if (cpu?.mems) {
    claim("CPUSetMems");
    changes.cpusetMems = cpu.mems;
  }
  const unified: Record<string, string> = { ...base.unified };
  if (memory?.reservation) {
    claim("MemReservation");
    // runtime-spec, config-linux.md, "Memory": the reservation is v2's memory.low.
    unified["memory.low"] = String(memory.reservation.value);
  }
  for (const [file, value] of Object.entries(wanted.unified)) {
    claim("CgroupsUnified", file);
    unified[file] = value;
  }
  if (Object.keys(unified).length > 0) changes.unified = unified;
  const hugepages = new Map((base.hugepageLimits ?? []).map(({ pageSize, limitBytes }) => [pageSize, limitBytes]));
  for (const { pageSize, limit } of wanted.hugepageLimits) {
    claim("HugepageLimits", pageSize);
    hugepages.set(pageSize, Number(limit));
  }
  if (hugepages.size > 0) {
    changes.hugepageLimits = [...hugepages].map(([pageSize, limitBytes]) => ({ pageSize, limitBytes }));
  }
  return { resources: { ...base, ...changes }, warnings: withoutEffect(wanted, claims.plugin) };
}

type NumberField =
  | "memoryLimitBytes"
  | "memorySwapLimitBytes"
  | "cpuShares"
  | "cpuQuotaUs"
  | "cpuPeriodUs"
  | "pidsLimit";

function withoutEffect({ memory, cpu, blockioClass, rdtClass }: LinuxResources, plugin: string): string[] {
  const set: Readonly<Record<string, unknown>> = { ...memory, ...cpu, blockioClass, rdtClass };
  return Object.entries(WITHOUT_EFFECT).flatMap(([field, why]) =>
    set[field] === undefined ? [] : [`NRI plugin "${plugin}": ${why}: not in force`],
  );
}
