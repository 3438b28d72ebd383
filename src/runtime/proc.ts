/**
 * Identity of processes that outlive the daemon: a pid alone may name another process later.
 */
import { readFile } from "node:fs/promises";

/**
 * Field 22 of /proc/PID/stat, in clock ticks since boot (proc(5)); empty where no such process runs.
 * Pid and start time together name one process for one boot.
 */
export async function processStartTicks(pid: number): Promise<string> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  // The command, field 2, is in parentheses and may hold anything, parentheses too.
  const afterCommand = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return afterCommand[0] === "Z" ? "" : (afterCommand[19] ?? "");
}
