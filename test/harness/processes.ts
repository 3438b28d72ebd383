/** Which processes still run. */
import { readdirSync, readFileSync } from "node:fs";
import { hasEnded, parseProcessStat } from "../../src/base/process-stat.js";

/**
 * False for a zombie too: it has ended, and who has to reap it (pid 1 for an orphan) may take its
 * time. And for one that is ending: the first process of a PID namespace waits until all others
 * are reaped, for ever where their parent died and pid 1 reaps nobody.
 */
export function isAlive(pid: number): boolean {
  try {
    const stat = parseProcessStat(readFileSync(`/proc/${pid}/stat`, "utf8"));
    return stat !== undefined && !hasEnded(stat) && !stat.isExiting;
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
