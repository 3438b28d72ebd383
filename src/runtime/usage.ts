/**
 * What containers and sandboxes use: figures of their cgroups, and where a controller is missing, of
 * the processes in them. Never a made-up zero: what cannot be known is `undefined`.
 */
import { join } from "node:path";
import { nowNs } from "../base/clock.js";
import { hasErrno } from "../base/errors.js";
import type { ContainerId, SandboxId } from "../base/ids.js";
import { parseProcessStat } from "../base/process-stat.js";
import { netDevicesOf, processesBelow, readKernelFile } from "../native/index.js";
import { type CgroupLayout, cgroupDir } from "./cgroups.js";
import { containersOf, monitorFdPath, requireContainer, requireSandbox, type RuntimeContext } from "./context.js";
import type { SandboxRecord } from "../state/sandbox.js";
import { type WritableLayerUsage, writableLayerUsage } from "./writable-layers.js";

const PAGE_BYTES = 4096;

/** One line of a pressure file (kernel psi.rst): shares of time in percent, total in microseconds. */
export interface PressureLine {
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
  readonly totalUs: bigint;
}

export interface Pressure {
  readonly some: PressureLine;
  readonly full: PressureLine;
}

export interface CgroupUsage {
  /** Unix ns: when these were read. */
  readonly atNs: bigint;
  readonly cpuNs: bigint;
  readonly cpuPressure: Pressure | undefined;
  readonly memory: {
    readonly usageBytes: bigint;
    /** Usage without the page cache that could go at once. */
    readonly workingSetBytes: bigint;
    readonly rssBytes: bigint;
    readonly pageFaults: bigint;
    readonly majorPageFaults: bigint;
    /** `undefined`: none. */
    readonly limitBytes: bigint | undefined;
    readonly swapBytes: bigint | undefined;
    readonly swapLimitBytes: bigint | undefined;
  };
  readonly memoryPressure: Pressure | undefined;
  readonly ioPressure: Pressure | undefined;
  readonly processCount: bigint;
}

export interface ContainerUsage extends CgroupUsage {
  readonly layer: WritableLayerUsage;
}

export interface InterfaceUsage {
  readonly name: string;
  readonly rxBytes: bigint;
  readonly rxErrors: bigint;
  readonly rxPackets: bigint;
  readonly rxDropped: bigint;
  readonly txBytes: bigint;
  readonly txErrors: bigint;
  readonly txPackets: bigint;
  readonly txDropped: bigint;
}

export interface SandboxUsage extends CgroupUsage {
  /** Of the pod's own network; none with the host's. The first is the default one. */
  readonly interfaces: readonly InterfaceUsage[];
}

/** See `Runtime.containerUsage`. */
export async function containerUsage(ctx: RuntimeContext, id: ContainerId): Promise<ContainerUsage> {
  const record = requireContainer(ctx, id);
  const [usage, layer] = await Promise.all([cgroupUsage(ctx.cgroups, record.cgroupPath), writableLayerUsage(ctx, id)]);
  return { ...usage, layer };
}

/** See `Runtime.sandboxUsage`. */
export async function sandboxUsage(ctx: RuntimeContext, id: SandboxId): Promise<SandboxUsage> {
  const record = requireSandbox(ctx, id);
  const [usage, interfaces] = await Promise.all([
    cgroupUsage(ctx.cgroups, record.cgroupPath),
    interfaceUsage(ctx, record),
  ]);
  return { ...usage, interfaces };
}

/** Of the pod's own network, its default one first; none once the pod has been stopped. */
export async function interfaceUsage(ctx: RuntimeContext, record: SandboxRecord): Promise<InterfaceUsage[]> {
  if (record.config.namespaces.network !== "pod") return [];
  // The process of a shared PID namespace does not say: it stays in the host's network.
  const running = containersOf(ctx, record.id).find(({ pid, state }) => state === "running" && pid !== undefined);
  const text = running?.pid === undefined ? await heldNetDevices(record) : await netDevices(running.pid);
  const interfaces = parseNetDev(text).filter(({ name }) => name !== "lo");
  // A kernel may give every namespace links of its own, such as ifb0.
  const own = record.network?.interface;
  return interfaces.sort((a, b) => Number(b.name === own) - Number(a.name === own));
}

/** @param cgroup below the mount */
export async function cgroupUsage(layout: CgroupLayout, cgroup: string): Promise<CgroupUsage> {
  const dir = cgroupDir(layout, cgroup);
  const read = (file: string) => readKernelFile(join(dir, file));
  const [cpuStat = "", cpuPressure, memoryPressure, ioPressure, processes] = await Promise.all([
    read("cpu.stat"),
    read("cpu.pressure"),
    read("memory.pressure"),
    read("io.pressure"),
    processesBelow(dir),
  ]);
  const memory = (await controllerMemory(read)) ?? (await processMemory(processes));
  return {
    atNs: nowNs(),
    cpuNs: (keyedValue(cpuStat, "usage_usec") ?? 0n) * 1000n,
    cpuPressure: parsePressure(cpuPressure),
    memory,
    memoryPressure: parsePressure(memoryPressure),
    ioPressure: parsePressure(ioPressure),
    processCount: BigInt(processes.length),
  };
}

/** `undefined` where the memory controller is not there. */
async function controllerMemory(
  read: (file: string) => Promise<string | undefined>,
): Promise<CgroupUsage["memory"] | undefined> {
  const [current, stat = "", max, swap, swapMax] = await Promise.all(
    ["memory.current", "memory.stat", "memory.max", "memory.swap.current", "memory.swap.max"].map(read),
  );
  if (current === undefined) return undefined;
  const usageBytes = BigInt(current.trim());
  const inactive = keyedValue(stat, "inactive_file") ?? 0n;
  return {
    usageBytes,
    workingSetBytes: usageBytes > inactive ? usageBytes - inactive : 0n,
    rssBytes: keyedValue(stat, "anon") ?? 0n,
    pageFaults: keyedValue(stat, "pgfault") ?? 0n,
    majorPageFaults: keyedValue(stat, "pgmajfault") ?? 0n,
    limitBytes: limitOf(max),
    swapBytes: swap === undefined ? undefined : BigInt(swap.trim()),
    swapLimitBytes: limitOf(swapMax),
  };
}

/** Sums over the processes: pages that several share count several times. */
async function processMemory(pids: readonly number[]): Promise<CgroupUsage["memory"]> {
  let [resident, anonymous, faults, majorFaults, swapped] = [0n, 0n, 0n, 0n, 0n];
  await Promise.all(
    pids.map(async (pid) => {
      const [statm, stat, status = ""] = await Promise.all(
        ["statm", "stat", "status"].map((file) => readKernelFile(`/proc/${pid}/${file}`)),
      );
      const [, pages = 0, shared = 0] = (statm ?? "").split(" ").map(Number);
      resident += BigInt(pages * PAGE_BYTES);
      anonymous += BigInt((pages - shared) * PAGE_BYTES);
      const counts = parseProcessStat(stat ?? "");
      faults += BigInt(counts?.minorFaults ?? 0);
      majorFaults += BigInt(counts?.majorFaults ?? 0);
      swapped += BigInt(/^VmSwap:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024n;
    }),
  );
  return {
    usageBytes: resident,
    workingSetBytes: resident,
    rssBytes: anonymous,
    pageFaults: faults,
    majorPageFaults: majorFaults,
    limitBytes: undefined,
    swapBytes: swapped,
    swapLimitBytes: undefined,
  };
}

/** Of a flat keyed file (cgroup-v2.rst, "Format"). */
export function keyedValue(text: string, key: string): bigint | undefined {
  const match = new RegExp(`^${key} (\\d+)$`, "m").exec(text);
  return match?.[1] === undefined ? undefined : BigInt(match[1]);
}

function limitOf(text: string | undefined): bigint | undefined {
  const word = text?.trim();
  return word === undefined || word === "max" ? undefined : BigInt(word);
}

/** `undefined` where the kernel accounts no pressure. */
export function parsePressure(text: string | undefined): Pressure | undefined {
  const line = (kind: string): PressureLine | undefined => {
    const match = new RegExp(`^${kind} avg10=([\\d.]+) avg60=([\\d.]+) avg300=([\\d.]+) total=(\\d+)$`, "m").exec(
      text ?? "",
    );
    if (!match) return undefined;
    return {
      avg10: Number(match[1]),
      avg60: Number(match[2]),
      avg300: Number(match[3]),
      totalUs: BigInt(match[4] ?? 0),
    };
  };
  const [some, full] = [line("some"), line("full")];
  return some && full && { some, full };
}

/** Of the network namespace that a process is in; empty where that has ended. */
async function netDevices(pid: number): Promise<string> {
  return (await readKernelFile(`/proc/${pid}/net/dev`)) ?? "";
}

/** Of the one that the monitor holds, between two containers, say: dearer, as a thread has to go there. */
async function heldNetDevices(record: SandboxRecord): Promise<string> {
  const netns = record.state === "ready" ? monitorFdPath(record, record.monitor?.netFd) : undefined;
  if (netns === undefined) return "";
  try {
    return await netDevicesOf(netns);
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return "";
    throw err;
  }
}

/** /proc/net/dev (proc(5)). */
export function parseNetDev(text: string): InterfaceUsage[] {
  return text.split("\n").flatMap((line) => {
    const [name, rest] = line.split(":");
    const numbers = rest?.trim().split(/\s+/);
    if (!name || !numbers || numbers.length < 16) return [];
    const at = (index: number) => BigInt(numbers[index] ?? 0);
    return [
      {
        name: name.trim(),
        rxBytes: at(0),
        rxPackets: at(1),
        rxErrors: at(2),
        rxDropped: at(3),
        txBytes: at(8),
        txPackets: at(9),
        txErrors: at(10),
        txDropped: at(11),
      },
    ];
  });
}
