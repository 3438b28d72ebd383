/**
 * Everything that is counted of a container or a sandbox, for metrics: more than `usage.ts`, and dearer.
 *
 * What the kernel cannot say is `undefined`; without the memory or the io controller the figures are sums
 * over the processes that run now.
 */
import { readFile, statfs } from "node:fs/promises";
import { join } from "node:path";
import type { ContainerId, SandboxId } from "../base/ids.js";
import { cgroupDir } from "./cgroups.js";
import { requireContainer, requireSandbox, type RuntimeContext } from "./context.js";
import { processesBelow } from "./proc.js";
import { openFilesLimit, type ProcessFigures, processFigures } from "./process-usage.js";
import {
  cgroupUsage,
  type CgroupUsage,
  containerUsage,
  type ContainerUsage,
  type InterfaceUsage,
  keyedValue,
  sandboxUsage,
} from "./usage.js";

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
    readonly kernelBytes: bigint | undefined;
    readonly activeFileBytes: bigint | undefined;
    readonly inactiveFileBytes: bigint | undefined;
    readonly limitHits: bigint | undefined;
    readonly oomKills: bigint | undefined;
  };
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
  const [figures, usage, limit, { blocks, bsize, files, ffree }] = await Promise.all([
    cgroupFigures(ctx, record.cgroupPath),
    containerUsage(ctx, id),
    record.pid === undefined ? undefined : openFilesLimit(record.pid),
    statfs(ctx.paths.root, { bigint: true }),
  ]);
  const fileSystem = { sizeBytes: blocks * bsize, inodes: files, freeInodes: ffree };
  return { ...figures, usage, openFilesLimit: limit, fileSystem };
}

/** See `Runtime.sandboxFigures`. */
export async function sandboxFigures(ctx: RuntimeContext, id: SandboxId): Promise<SandboxFigures> {
  const record = requireSandbox(ctx, id);
  const [figures, { interfaces }] = await Promise.all([cgroupFigures(ctx, record.cgroupPath), sandboxUsage(ctx, id)]);
  return { ...figures, interfaces };
}

async function cgroupFigures(ctx: RuntimeContext, cgroup: string): Promise<CgroupFigures> {
  const dir = cgroupDir(ctx.cgroups, cgroup);
  const read = (file: string) => readFile(join(dir, file), "utf8").catch(() => undefined);
  const [usage, pids, cpuStat = "", memoryStat, events = "", peak, ioStat, pidsMax] = await Promise.all([
    cgroupUsage(ctx.cgroups, cgroup),
    processesBelow(dir),
    read("cpu.stat"),
    read("memory.stat"),
    read("memory.events"),
    read("memory.peak"),
    read("io.stat"),
    read("pids.max"),
  ]);
  const processes = await processFigures(pids);
  const memory = (key: string) => (memoryStat === undefined ? undefined : keyedValue(memoryStat, key));
  return {
    usage,
    cpu: {
      userUs: keyedValue(cpuStat, "user_usec"),
      systemUs: keyedValue(cpuStat, "system_usec"),
      periods: keyedValue(cpuStat, "nr_periods"),
      throttledPeriods: keyedValue(cpuStat, "nr_throttled"),
      throttledUs: keyedValue(cpuStat, "throttled_usec"),
    },
    memory: {
      cacheBytes: memory("file") ?? processes.fileBytes,
      swapBytes: usage.memory.swapBytes ?? processes.swapBytes,
      mappedFileBytes: memory("file_mapped") ?? processes.fileBytes,
      // memory.peak is of Linux 5.19.
      peakBytes: peak === undefined ? processes.peakBytes : BigInt(peak.trim()),
      kernelBytes: memory("kernel"),
      activeFileBytes: memory("active_file"),
      inactiveFileBytes: memory("inactive_file"),
      limitHits: keyedValue(events, "max"),
      oomKills: keyedValue(events, "oom_kill"),
    },
    processes,
    threadsMax: pidsMax === undefined || pidsMax.trim() === "max" ? 0n : BigInt(pidsMax.trim()),
    devices: ioStat === undefined ? [deviceOf(processes)] : parseIoStat(ioStat),
  };
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
