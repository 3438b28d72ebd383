/**
 * Identity of processes that outlive the daemon: a pid alone may name another process later.
 */
import { hasEnded, parseProcessStat } from "../base/process-stat.js";
import { processesBelow, processStat, readKernelFile } from "../native/index.js";

/** As many as a sentence holds. */
const MAX_NAMED = 5;

/** In clock ticks since boot; empty where no such process runs. Pid and start time together name one process for one boot. */
export function processStartTicks(pid: number): string {
  const stat = parseProcessStat(processStat(pid));
  return stat === undefined || hasEnded(stat) ? "" : stat.startTicks;
}

/**
 * What is left in a cgroup whose processes were killed, in words: `pid 7 "dd" is in state D, waiting in
 * percpu_rwsem_wait`. A process in state D takes no signal until what it waits for has come (ps(1)).
 *
 * @param dir of the cgroup, absolute
 */
export async function survivorsInWords(dir: string): Promise<string> {
  const pids = await processesBelow(dir);
  const texts = await Promise.all(pids.slice(0, MAX_NAMED).map(survivorInWords));
  const more = pids.length > MAX_NAMED ? [`${pids.length - MAX_NAMED} more`] : [];
  return [...texts, ...more].join("; ") || "none is left by now";
}

async function survivorInWords(pid: number): Promise<string> {
  const { name = "", state = "gone" } = parseProcessStat(processStat(pid)) ?? {};
  // The kernel's function that it sleeps in; "0" where that is not told.
  const waiting = ((await readKernelFile(`/proc/${pid}/wchan`)) ?? "0").trim();
  return `pid ${pid} ${JSON.stringify(name)} is in state ${state}${waiting === "0" || waiting === "" ? "" : `, waiting in ${waiting}`}`;
}
