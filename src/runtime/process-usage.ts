/**
 * What the processes of a cgroup use, as proc(5) says: for figures that the kernel keeps per process only,
 * and in place of a controller that is not there. Sums end with the processes that they are of.
 */
import { countDescriptors, readKernelFile } from "../native/index.js";

export interface ProcessFigures {
  readonly threads: bigint;
  readonly fileDescriptors: bigint;
  readonly sockets: bigint;
  /** By the words that cAdvisor has for them. */
  readonly states: Readonly<Record<TaskState, bigint>>;
  /** Resident pages of files; pages that several share count several times. */
  readonly fileBytes: bigint;
  readonly swapBytes: bigint;
  readonly pageTableBytes: bigint;
  /** The most that each had resident at once, summed. */
  readonly peakBytes: bigint;
  readonly readBytes: bigint;
  readonly writtenBytes: bigint;
}

export type TaskState = "sleeping" | "running" | "stopped" | "uninterruptible" | "iowaiting";

const STATES: Readonly<Record<string, TaskState>> = {
  R: "running",
  S: "sleeping",
  I: "sleeping",
  D: "uninterruptible",
  T: "stopped",
  t: "stopped",
};

/** Of processes that may end while they are read: what is gone counts nothing. */
export async function processFigures(pids: readonly number[]): Promise<ProcessFigures> {
  const sums = { threads: 0n, fileDescriptors: 0n, sockets: 0n };
  const memory = { fileBytes: 0n, swapBytes: 0n, pageTableBytes: 0n, peakBytes: 0n };
  const io = { readBytes: 0n, writtenBytes: 0n };
  const states = { sleeping: 0n, running: 0n, stopped: 0n, uninterruptible: 0n, iowaiting: 0n };
  await Promise.all(
    pids.map(async (pid) => {
      const [status = "", ioText = "", descriptors] = await Promise.all([
        readKernelFile(`/proc/${pid}/status`),
        readKernelFile(`/proc/${pid}/io`),
        countDescriptors(pid),
      ]);
      const kib = (key: string) => field(status, key) * 1024n;
      sums.threads += field(status, "Threads");
      memory.fileBytes += kib("RssFile") + kib("RssShmem");
      memory.swapBytes += kib("VmSwap");
      memory.pageTableBytes += kib("VmPTE");
      memory.peakBytes += kib("VmHWM");
      sums.fileDescriptors += BigInt(descriptors.all);
      sums.sockets += BigInt(descriptors.sockets);
      io.readBytes += field(ioText, "read_bytes");
      io.writtenBytes += field(ioText, "write_bytes");
      const state = STATES[/^State:\s+(\S)/m.exec(status)?.[1] ?? ""];
      if (state) states[state]++;
    }),
  );
  return { ...sums, ...memory, ...io, states };
}

/** Soft limit of open files; `undefined` for none, and where it cannot be read. */
export async function openFilesLimit(pid: number): Promise<bigint | undefined> {
  const limits = (await readKernelFile(`/proc/${pid}/limits`)) ?? "";
  const soft = /^Max open files\s+(\d+)\s/m.exec(limits)?.[1];
  return soft === undefined ? undefined : BigInt(soft);
}

function field(text: string, key: string): bigint {
  return BigInt(new RegExp(`^${key}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
}
