/**
 * Identity of processes that outlive the daemon: a pid alone may name another process later.
 */
import { processStat } from "../native/index.js";

/**
 * Field 22 of /proc/PID/stat, in clock ticks since boot (proc(5)); empty where no such process runs.
 * Pid and start time together name one process for one boot.
 */
export function processStartTicks(pid: number): string {
  const stat = processStat(pid);
  // The command, field 2, is in parentheses and may hold anything, parentheses too.
  const afterCommand = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return afterCommand[0] === "Z" ? "" : (afterCommand[19] ?? "");
}
