/**
 * CRI's resources -> the OCI spec's, and what to do about a controller that the host lacks.
 */
import { RuntimeError } from "../base/errors.js";
import type { LinuxResources } from "../oci/index.js";
import type { ContainerResources } from "./container-config.js";

/** cgroup v2 controllers by their names in cgroup.controllers. */
export type Controllers = ReadonlySet<string>;

export interface ResourcesOutcome {
  readonly resources: LinuxResources;
  /** One sentence for each limit that is not in force. Empty unless missing controllers are tolerated. */
  readonly warnings: readonly string[];
}

/**
 * Zero and `undefined` mean "not specified" (CRI api.proto, LinuxContainerResources).
 *
 * @param tolerateMissing a limit whose controller is missing becomes a warning instead of an error
 * @throws RuntimeError `failed-precondition` CONTROLLER_MISSING naming limit and controller
 */
export function toOciResources(
  wanted: ContainerResources,
  controllers: Controllers,
  tolerateMissing: boolean,
): ResourcesOutcome {
  const warnings: string[] = [];
  const has = (controller: string, limit: string): boolean => {
    if (controllers.has(controller)) return true;
    const problem = `${limit} needs the cgroup v2 controller "${controller}", which this host does not offer`;
    if (!tolerateMissing) {
      throw new RuntimeError(
        `${problem}; remove the limit, boot with cgroup v2 only, or set \`tolerate-missing-controllers = true\` to run without it`,
        { kind: "failed-precondition", code: "CONTROLLER_MISSING" },
      );
    }
    warnings.push(`${problem}: not in force`);
    return false;
  };

  const hasCpu = Boolean(wanted.cpuShares || wanted.cpuQuotaUs || wanted.cpuPeriodUs) && has("cpu", "a cpu limit");
  const hasCpuset = Boolean(wanted.cpusetCpus || wanted.cpusetMems) && has("cpuset", "a cpuset");
  const hasMemory = Boolean(wanted.memoryLimitBytes || wanted.memorySwapLimitBytes) && has("memory", "a memory limit");
  const hasPids = Boolean(wanted.pidsLimit) && has("pids", "a pids limit");
  const hugepages = wanted.hugepageLimits?.length && has("hugetlb", "a hugepage limit") ? wanted.hugepageLimits : [];
  const unified = Object.entries(wanted.unified ?? {}).filter(([file]) => {
    const controller = file.split(".", 1)[0] ?? "";
    return controller === "cgroup" || has(controller, `"${file}"`);
  });
  return {
    resources: {
      ...((hasCpu || hasCpuset) && {
        cpu: {
          ...(hasCpu && wanted.cpuShares && { shares: wanted.cpuShares }),
          ...(hasCpu && wanted.cpuQuotaUs && { quota: wanted.cpuQuotaUs }),
          ...(hasCpu && wanted.cpuPeriodUs && { period: wanted.cpuPeriodUs }),
          ...(hasCpuset && wanted.cpusetCpus && { cpus: wanted.cpusetCpus }),
          ...(hasCpuset && wanted.cpusetMems && { mems: wanted.cpusetMems }),
        },
      }),
      ...(hasMemory && {
        memory: {
          ...(wanted.memoryLimitBytes && { limit: wanted.memoryLimitBytes }),
          ...(wanted.memorySwapLimitBytes && { swap: wanted.memorySwapLimitBytes }),
        },
      }),
      ...(hasPids && wanted.pidsLimit && { pids: { limit: wanted.pidsLimit } }),
      ...(hugepages.length > 0 && {
        hugepageLimits: hugepages.map(({ pageSize, limitBytes }) => ({ pageSize, limit: limitBytes })),
      }),
      ...(unified.length > 0 && { unified: Object.fromEntries(unified) }),
    },
    warnings,
  };
}
