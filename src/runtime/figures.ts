/**
 * Everything that is counted of a container or a sandbox, for metrics: more than `usage.ts`, and dearer.
 *
 * What the kernel cannot say is `undefined`; without a controller the figures are sums over the processes that
 * run now, or those of the cgroup v1 groups that govern them: `figure-sources.ts` says which.
 */
import { statfs } from "node:fs/promises";
import { join } from "node:path";
import type { ContainerId, SandboxId } from "../base/ids.js";
import { processesBelow, readKernelFile } from "../native/index.js";
import { cgroupDir } from "./cgroups.js";
import { requireContainer, requireSandbox, type RuntimeContext } from "./context.js";
import type { FigureSources } from "./figure-sources.js";
import { openFilesLimit, type ProcessFigures, processFigures } from "./process-usage.js";
import {
  cgroupUsage,
  type CgroupUsage,
  type ContainerUsage,
  type InterfaceUsage,
  interfaceUsage,
  keyedValue,
} from "./usage.js";
import type { V1Dirs } from "./v1-groups.js";
import { writableLayerUsage } from "./writable-layers.js";

export interface DeviceFigures {
  /** `253:0`; empty: all devices together, as processes count them. */
  readonly device: string;
  readonly readBytes: bigint;
  readonly writtenBytes: bigint;
  readonly reads: bigint | undefined;
  readonly writes: bigint | undefined;
}

export interface CgroupFigures {
  readonly usage: CgroupUsage;
  readonly cpu: {
    readonly userUs: bigint | undefined;
    readonly systemUs: bigint | undefined;
    readonly periods: bigint | undefined;
    readonly throttledPeriods: bigint | undefined;
    readonly throttledUs: bigint | undefined;
  };
  readonly memory: {
    readonly cacheBytes: bigint;
    readonly swapBytes: bigint;
    readonly mappedFileBytes: bigint;
    readonly peakBytes: bigint;
    /** All of it, or where the memory controller is missing, the page tables. */
    readonly kernelBytes: bigint | undefined;
    readonly activeFileBytes: bigint | undefined;
    readonly inactiveFileBytes: bigint | undefined;
    readonly limitHits: bigint | undefined;
    readonly oomKills: bigint | undefined;
  };
  /** By page size: `2MB`. */
  readonly hugePages: readonly { readonly pageSize: string; readonly usageBytes: bigint }[];
  readonly processes: ProcessFigures;
  /** 0: none. */
  readonly threadsMax: bigint;
  readonly devices: readonly DeviceFigures[];
}

export interface ContainerFigures extends CgroupFigures {
  readonly usage: ContainerUsage;
  readonly openFilesLimit: bigint | undefined;
  /** Of the file system that the writable layer is on. */
  readonly fileSystem: { readonly sizeBytes: bigint; readonly inodes: bigint; readonly freeInodes: bigint };
}

export interface SandboxFigures extends CgroupFigures {
  readonly interfaces: readonly InterfaceUsage[];
}

/** See `Runtime.containerFigures`. */
export async function containerFigures(ctx: RuntimeContext, id: ContainerId): Promise<ContainerFigures> {
  const record = requireContainer(ctx, id);
  const [figures, layer, limit, { blocks, bsize, files, ffree }] = await Promise.all([
    cgroupFigures(ctx.figureSources, record.cgroupPath),
    writableLayerUsage(ctx, id),
    record.pid === undefined ? undefined : openFilesLimit(record.pid),
    statfs(ctx.paths.root, { bigint: true }),
  ]);
  const fileSystem = { sizeBytes: blocks * bsize, inodes: files, freeInodes: ffree };
  return { ...figures, usage: { ...figures.usage, layer }, openFilesLimit: limit, fileSystem };
}

/** See `Runtime.sandboxFigures`. */
export async function sandboxFigures(ctx: RuntimeContext, id: SandboxId): Promise<SandboxFigures> {
  const record = requireSandbox(ctx, id);
  const [figures, interfaces] = await Promise.all([
    cgroupFigures(ctx.figureSources, record.cgroupPath),
    interfaceUsage(ctx, record),
  ]);
  return { ...figures, interfaces };
}

/** @param cgroup below the mount */
export async function cgroupFigures(sources: FigureSources, cgroup: string): Promise<CgroupFigures> {
  const { cgroups } = sources;
  const dir = cgroupDir(cgroups, cgroup);
  const hasMemory = cgroups.controllers.has("memory");
  const read = (file: string) => readKernelFile(join(dir, file));
  const ofMemory = (file: string) => (hasMemory ? read(file) : undefined);
  const [usage, pids, cpuStat = "", memoryStat, peak, ioStat, pidsMax, hugePages] = await Promise.all([
    cgroupUsage(cgroups, cgroup),
    processesBelow(dir),
    read("cpu.stat"),
    ofMemory("memory.stat"),
    ofMemory("memory.peak"),
    read("io.stat"),
    read("pids.max"),
    hugePagesOf(sources, read),
  ]);
  const [processes, v1Dirs] = await Promise.all([processFigures(pids), v1DirsOf(sources, pids)]);
  const [throttling, limits] = await Promise.all([
    cgroups.controllers.has("cpu") ? throttlingIn(cpuStat) : v1Throttling(sources, v1Dirs),
    hasMemory ? limitsIn(await read("memory.events")) : v1Limits(sources, v1Dirs),
  ]);
  const memory = (key: string) => (memoryStat === undefined ? undefined : keyedValue(memoryStat, key));
  return {
    usage,
    cpu: {
      userUs: keyedValue(cpuStat, "user_usec"),
      systemUs: keyedValue(cpuStat, "system_usec"),
      ...throttling,
    },
    memory: {
      cacheBytes: memory("file") ?? processes.fileBytes,
      swapBytes: usage.memory.swapBytes ?? processes.swapBytes,
      mappedFileBytes: memory("file_mapped") ?? processes.fileBytes,
      // memory.peak is of Linux 5.19.
      peakBytes: peak === undefined ? processes.peakBytes : BigInt(peak.trim()),
      kernelBytes: hasMemory ? memory("kernel") : processes.pageTableBytes,
      activeFileBytes: memory("active_file"),
      inactiveFileBytes: memory("inactive_file"),
      ...limits,
    },
    hugePages,
    processes,
    threadsMax: pidsMax === undefined || pidsMax.trim() === "max" ? 0n : BigInt(pidsMax.trim()),
    devices: ioStat === undefined ? [deviceOf(processes)] : parseIoStat(ioStat),
  };
}

type Throttling = Pick<CgroupFigures["cpu"], "periods" | "throttledPeriods" | "throttledUs">;
type Limits = Pick<CgroupFigures["memory"], "limitHits" | "oomKills">;

function throttlingIn(cpuStat: string): Throttling {
  return {
    periods: keyedValue(cpuStat, "nr_periods"),
    throttledPeriods: keyedValue(cpuStat, "nr_throttled"),
    throttledUs: keyedValue(cpuStat, "throttled_usec"),
  };
}

function limitsIn(events = ""): Limits {
  return { limitHits: keyedValue(events, "max"), oomKills: keyedValue(events, "oom_kill") };
}

/** Of the first process: a pod's are all in the groups of the daemon that started them. */
async function v1DirsOf({ cgroups, v1Groups }: FigureSources, [pid]: readonly number[]): Promise<V1Dirs> {
  const isNeeded = (["cpu", "memory"] as const).some((name) => !cgroups.controllers.has(name) && v1Groups.has(name));
  return isNeeded && pid !== undefined ? v1Groups.dirsOf(pid) : {};
}

/** cpu.stat of v1 counts in nanoseconds (kernel sched-bwc.rst, "Statistics"). */
async function v1Throttling({ v1Groups }: FigureSources, { cpu }: V1Dirs): Promise<Throttling> {
  const stat = (cpu === undefined ? undefined : await v1Groups.read(cpu, "cpu.stat")) ?? "";
  const throttledNs = keyedValue(stat, "throttled_time");
  return {
    periods: keyedValue(stat, "nr_periods"),
    throttledPeriods: keyedValue(stat, "nr_throttled"),
    throttledUs: throttledNs === undefined ? undefined : throttledNs / 1000n,
  };
}

/** Kernel cgroup-v1/memory.rst: "failcnt", and "oom_kill" of memory.oom_control. */
async function v1Limits({ v1Groups }: FigureSources, { memory }: V1Dirs): Promise<Limits> {
  if (memory === undefined) return { limitHits: undefined, oomKills: undefined };
  const [hits, control = ""] = await Promise.all(
    ["memory.failcnt", "memory.oom_control"].map((file) => v1Groups.read(memory, file)),
  );
  return { limitHits: hits === undefined ? undefined : BigInt(hits.trim()), oomKills: keyedValue(control, "oom_kill") };
}

async function hugePagesOf(
  { hugePageSizes }: FigureSources,
  read: (file: string) => Promise<string | undefined>,
): Promise<CgroupFigures["hugePages"]> {
  const texts = await Promise.all(hugePageSizes.map((pageSize) => read(`hugetlb.${pageSize}.current`)));
  return texts.flatMap((text, at) => {
    const pageSize = hugePageSizes[at];
    return text === undefined || pageSize === undefined ? [] : [{ pageSize, usageBytes: BigInt(text.trim()) }];
  });
}

function deviceOf({ readBytes, writtenBytes }: ProcessFigures): DeviceFigures {
  return { device: "", readBytes, writtenBytes, reads: undefined, writes: undefined };
}

/** `253:0 rbytes=1 wbytes=2 rios=3 wios=4 …`, a line each (cgroup-v2.rst, "io.stat"). */
export function parseIoStat(text: string): DeviceFigures[] {
  return text.split("\n").flatMap((line) => {
    const [device, ...pairs] = line.split(" ");
    const values = new Map(pairs.map((pair) => pair.split("=") as [string, string | undefined]));
    if (!device || !values.has("rbytes")) return [];
    const at = (key: string) => BigInt(values.get(key) ?? 0);
    return [{ device, readBytes: at("rbytes"), writtenBytes: at("wbytes"), reads: at("rios"), writes: at("wios") }];
  });
}
