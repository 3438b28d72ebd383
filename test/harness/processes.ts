/** Whether a process still runs. */
import { readFileSync } from "node:fs";

/**
 * False for a zombie too: it has ended, and who has to reap it (pid 1 for an orphan) may take its
 * time. proc_pid_stat(5): the state follows the command, which may hold anything in its brackets.
 */
export function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return !"ZX".includes(stat.slice(stat.lastIndexOf(")") + 2)[0] ?? "Z");
  } catch {
    return false;
  }
}
