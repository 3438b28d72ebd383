/**
 * Figures of containers and sandboxes.
 */
import type { Runtime } from "../runtime/runtime.js";
import type {
  CgroupUsage,
  ContainerUsage,
  InterfaceUsage,
  Pressure,
  PressureLine,
  SandboxUsage,
} from "../runtime/usage.js";
import type { ContainerStatus } from "../state/container.js";
import type { SandboxStatus } from "../state/sandbox.js";
import { inBatches } from "./batches.js";
import type {
  ContainerStats,
  ContainerStatsFilter,
  CpuUsage,
  IoUsage,
  MemoryUsage,
  NetworkInterfaceUsage,
  PodSandboxStats,
  PodSandboxStatsFilter,
  PsiData,
  PsiStats,
  UInt64Value,
} from "./generated/runtime/v1/api.js";
import { hasLabels, requireContainer, requireSandbox } from "./lookup.js";
import type { Verbs } from "./verbs.js";

export function statsVerbs(runtime: Runtime): Verbs {
  const rates = new CpuRates();
  const ofContainer = async (container: ContainerStatus) =>
    toContainerStats(container, await runtime.containerUsage(container.id), rates);
  const ofSandbox = async (sandbox: SandboxStatus): Promise<PodSandboxStats> => {
    const running = runtime.listContainers("cri", sandbox.id).filter(({ state }) => state === "running");
    const [usage, containers] = await Promise.all([
      runtime.sandboxUsage(sandbox.id),
      settled(running.map(ofContainer)),
    ]);
    return toSandboxStats(sandbox, usage, containers, rates);
  };
  const containers = async (filter: ContainerStatsFilter | undefined) =>
    settled(
      runtime
        .listContainers("cri")
        .filter((container) => matchesContainer(container, filter))
        .map(ofContainer),
    );
  const sandboxes = async (filter: PodSandboxStatsFilter | undefined) =>
    settled(
      runtime
        .listSandboxes("cri")
        .filter((sandbox) => sandbox.state === "ready" && matchesSandbox(sandbox, filter))
        .map(ofSandbox),
    );
  return {
    containerStats: async ({ containerId }) => ({ stats: await ofContainer(requireContainer(runtime, containerId)) }),
    listContainerStats: async ({ filter }) => ({ stats: await containers(filter) }),
    streamContainerStats: async function* ({ filter }) {
      for (const containerStats of inBatches(await containers(filter))) yield { containerStats };
    },
    podSandboxStats: async ({ podSandboxId }) => ({ stats: await ofSandbox(requireSandbox(runtime, podSandboxId)) }),
    listPodSandboxStats: async ({ filter }) => ({ stats: await sandboxes(filter) }),
    streamPodSandboxStats: async function* ({ filter }) {
      for (const podSandboxStats of inBatches(await sandboxes(filter))) yield { podSandboxStats };
    },
  };
}

/** What can be told; an object that went away meanwhile is left out. */
async function settled<T>(parts: readonly Promise<T>[]): Promise<T[]> {
  const outcomes = await Promise.allSettled(parts);
  return outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
}

/** CPU use per second between two readings of one cgroup. */
export class CpuRates {
  readonly #last = new Map<
    string,
    { readonly atNs: bigint; readonly cpuNs: bigint; readonly nanoCores: bigint | undefined }
  >();

  /**
   * Readings within 100 ms give the rate before them.
   *
   * @param sinceNs when it began to use anything: the first reading's rate is from then on; `undefined`: it has none
   */
  nanoCores(id: string, { atNs, cpuNs }: Pick<CgroupUsage, "atNs" | "cpuNs">, sinceNs?: bigint): bigint | undefined {
    const last =
      this.#last.get(id) ??
      (sinceNs !== undefined && sinceNs < atNs ? { atNs: sinceNs, cpuNs: 0n, nanoCores: undefined } : undefined);
    if (last && atNs - last.atNs < 100_000_000n) return last.nanoCores;
    const nanoCores =
      last && cpuNs >= last.cpuNs ? ((cpuNs - last.cpuNs) * 1_000_000_000n) / (atNs - last.atNs) : undefined;
    this.#last.delete(id);
    this.#last.set(id, { atNs, cpuNs, nanoCores });
    // Ids of removed objects are never asked for again: the oldest go.
    if (this.#last.size > MAX_RATES)
      for (const oldest of this.#last.keys()) return (this.#last.delete(oldest), nanoCores);
    return nanoCores;
  }
}

const MAX_RATES = 4096;

function matchesContainer(container: ContainerStatus, filter: ContainerStatsFilter | undefined): boolean {
  if (container.state !== "running" && container.state !== "created") return false;
  if (!filter) return true;
  if (filter.id !== "" && !container.id.startsWith(filter.id)) return false;
  if (filter.podSandboxId !== "" && !container.sandboxId.startsWith(filter.podSandboxId)) return false;
  return hasLabels(container.config.labels, filter.labelSelector);
}

function matchesSandbox(sandbox: SandboxStatus, filter: PodSandboxStatsFilter | undefined): boolean {
  if (!filter) return true;
  return (
    (filter.id === "" || sandbox.id.startsWith(filter.id)) && hasLabels(sandbox.config.labels, filter.labelSelector)
  );
}

export function toContainerStats(container: ContainerStatus, usage: ContainerUsage, rates: CpuRates): ContainerStats {
  const { memory, layer } = usage;
  return {
    attributes: {
      id: container.id,
      metadata: { ...container.config.metadata },
      labels: { ...container.config.labels },
      annotations: { ...container.config.annotations },
    },
    cpu: toCpu(container, container.startedAtNs, usage, rates),
    memory: toMemory(usage),
    writableLayer: {
      timestamp: layer.atNs,
      fsId: { mountpoint: layer.path },
      usedBytes: { value: layer.usedBytes },
      inodesUsed: { value: layer.usedInodes },
    },
    swap:
      memory.swapBytes === undefined
        ? undefined
        : {
            timestamp: usage.atNs,
            swapAvailableBytes: some(
              memory.swapLimitBytes === undefined ? undefined : memory.swapLimitBytes - memory.swapBytes,
            ),
            swapUsageBytes: { value: memory.swapBytes },
          },
    io: toIo(usage),
  };
}

function toSandboxStats(
  sandbox: SandboxStatus,
  usage: SandboxUsage,
  containers: ContainerStats[],
  rates: CpuRates,
): PodSandboxStats {
  const { config } = sandbox;
  const [first, ...more] = usage.interfaces.map(toInterface);
  return {
    attributes: {
      id: sandbox.id,
      metadata: { ...config.metadata },
      labels: { ...config.labels },
      annotations: { ...config.annotations },
    },
    linux: {
      cpu: toCpu(sandbox, sandbox.createdAtNs, usage, rates),
      memory: toMemory(usage),
      network: first && { timestamp: usage.atNs, defaultInterface: first, interfaces: more },
      process: { timestamp: usage.atNs, processCount: { value: usage.processCount } },
      containers,
      io: toIo(usage),
    },
    windows: undefined,
  };
}

function some(value: bigint | undefined): UInt64Value | undefined {
  return value === undefined ? undefined : { value: value < 0n ? 0n : value };
}

function toCpu(
  { id }: { readonly id: string },
  sinceNs: string | undefined,
  usage: CgroupUsage,
  rates: CpuRates,
): CpuUsage {
  return {
    timestamp: usage.atNs,
    usageCoreNanoSeconds: { value: usage.cpuNs },
    usageNanoCores: some(rates.nanoCores(id, usage, sinceNs === undefined ? undefined : BigInt(sinceNs))),
    psi: toPsi(usage.cpuPressure),
  };
}

function toMemory({ atNs, memory, memoryPressure }: CgroupUsage): MemoryUsage {
  return {
    timestamp: atNs,
    workingSetBytes: { value: memory.workingSetBytes },
    availableBytes: some(memory.limitBytes === undefined ? undefined : memory.limitBytes - memory.workingSetBytes),
    usageBytes: { value: memory.usageBytes },
    rssBytes: { value: memory.rssBytes },
    pageFaults: { value: memory.pageFaults },
    majorPageFaults: { value: memory.majorPageFaults },
    psi: toPsi(memoryPressure),
  };
}

function toIo({ atNs, ioPressure }: CgroupUsage): IoUsage | undefined {
  return ioPressure && { timestamp: atNs, psi: toPsi(ioPressure) };
}

function toPsi(pressure: Pressure | undefined): PsiStats | undefined {
  return pressure && { Full: toPsiData(pressure.full), Some: toPsiData(pressure.some) };
}

/** The kernel counts microseconds, CRI nanoseconds (kubelet, "PSIData"). */
function toPsiData({ totalUs, avg10, avg60, avg300 }: PressureLine): PsiData {
  return { Total: totalUs * 1000n, Avg10: avg10, Avg60: avg60, Avg300: avg300 };
}

function toInterface({ name, rxBytes, rxErrors, txBytes, txErrors }: InterfaceUsage): NetworkInterfaceUsage {
  return {
    name,
    rxBytes: { value: rxBytes },
    rxErrors: { value: rxErrors },
    txBytes: { value: txBytes },
    txErrors: { value: txErrors },
  };
}
