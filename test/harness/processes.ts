/** Which processes still run. */
import { readdirSync, readFileSync } from "node:fs";

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

/** The living processes, without this one, whose command line holds the text: `PID COMMAND LINE`. */
export function processesNaming(text: string): string[] {
  return readdirSync("/proc").flatMap((name) => {
    const pid = Number(name);
    if (!pid || pid === process.pid || !isAlive(pid)) return [];
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      return command.includes(text) ? [`${pid} ${command}`] : [];
    } catch {
      return []; // ended meanwhile
    }
  });
}
