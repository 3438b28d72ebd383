/** Whether a process still runs. */
import { readFileSync } from "node:fs";

/** Linux include/linux/sched.h: "Getting shut down". */
const PF_EXITING = 4;

/**
 * False for a zombie too: it has ended, and who has to reap it (pid 1 for an orphan) may take its
 * time. And for one that is ending: the first process of a PID namespace waits until all others
 * are reaped, for ever where their parent died and pid 1 reaps nobody.
 *
 * proc_pid_stat(5): the state follows the command, which may hold anything in its brackets; the
 * flags are the sixth after it.
 */
export function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return !"ZX".includes(fields[0] ?? "Z") && (Number(fields[6]) & PF_EXITING) === 0;
  } catch {
    return false;
  }
}
