/**
 * CRI's LinuxContainerResources, both ways. Pure. Zero and empty mean "not specified" (api.proto).
 */
import type { ContainerResources } from "../../state/container.js";
import type { LinuxContainerResources } from "../generated/runtime/v1/api.js";
import { invalidField, toNumber } from "./fields.js";

const OOM_SCORE_ADJ = 1000;

/** @param path of the message, for refusals: `config.linux.resources` */
export function toResources(resources: LinuxContainerResources | undefined, path: string): ContainerResources {
  if (!resources) return {};
  const positive = (field: keyof LinuxContainerResources, name: string, min = 0): number | undefined => {
    const value = toNumber(resources[field] as bigint, `${path}.${name}`, min);
    return value === 0 ? undefined : value;
  };
  return {
    cpuPeriodUs: positive("cpuPeriod", "cpu_period"),
    // -1: no limit.
    cpuQuotaUs: positive("cpuQuota", "cpu_quota", -1),
    cpuShares: positive("cpuShares", "cpu_shares"),
    memoryLimitBytes: positive("memoryLimitInBytes", "memory_limit_in_bytes", -1),
    memorySwapLimitBytes: positive("memorySwapLimitInBytes", "memory_swap_limit_in_bytes", -1),
    oomScoreAdj: toNumber(resources.oomScoreAdj, `${path}.oom_score_adj`, -OOM_SCORE_ADJ, OOM_SCORE_ADJ),
    cpusetCpus: cpuList(resources.cpusetCpus, `${path}.cpuset_cpus`),
    cpusetMems: cpuList(resources.cpusetMems, `${path}.cpuset_mems`),
    ...(resources.hugepageLimits.length > 0 && {
      hugepageLimits: resources.hugepageLimits.map(({ pageSize, limit }) => ({
        pageSize: hugepageSize(pageSize, `${path}.hugepage_limits.page_size`),
        limitBytes: toNumber(limit, `${path}.hugepage_limits`, 0),
      })),
    }),
    ...(Object.keys(resources.unified).length > 0 && { unified: toUnified(resources.unified, `${path}.unified`) }),
  };
}

/** api.proto, HugepageLimit.page_size: "<unit-prefix>B", unit-prefix K, M or G; it is part of a file's name. */
function hugepageSize(text: string, field: string): string {
  if (!/^[1-9]\d{0,9}[KMG]B$/.test(text)) throw invalidField(field, `"${text}" is not a size such as 2MB`);
  return text;
}

function cpuList(text: string, field: string): string | undefined {
  if (text === "") return undefined;
  if (!/^\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*$/.test(text))
    throw invalidField(field, `"${text}" is not a list such as 0-3,7`);
  return text;
}

function toUnified(unified: Readonly<Record<string, string>>, path: string): Readonly<Record<string, string>> {
  for (const [file, value] of Object.entries(unified)) {
    if (!/^[a-z0-9_]+(\.[a-zA-Z0-9_]+)+$/.test(file)) throw invalidField(path, `"${file}" is not a file of a cgroup`);
    if (value.includes("\0")) throw invalidField(`${path}["${file}"]`, "has a NUL byte");
  }
  return unified;
}

export function toCriResources(resources: ContainerResources): LinuxContainerResources {
  const int64 = (value: number | undefined): bigint => BigInt(value ?? 0);
  return {
    cpuPeriod: int64(resources.cpuPeriodUs),
    cpuQuota: int64(resources.cpuQuotaUs),
    cpuShares: int64(resources.cpuShares),
    memoryLimitInBytes: int64(resources.memoryLimitBytes),
    memorySwapLimitInBytes: int64(resources.memorySwapLimitBytes),
    oomScoreAdj: int64(resources.oomScoreAdj),
    cpusetCpus: resources.cpusetCpus ?? "",
    cpusetMems: resources.cpusetMems ?? "",
    hugepageLimits: (resources.hugepageLimits ?? []).map(({ pageSize, limitBytes }) => ({
      pageSize,
      limit: BigInt(limitBytes),
    })),
    unified: { ...resources.unified },
  };
}
