/**
 * /proc/PID/stat: who reads it differs (the addon where the daemon must not wait for a disk, files elsewhere),
 * what it says does not.
 */

export interface ProcessStat {
  /** Of at most 15 bytes; it may hold anything, blanks and brackets too. */
  readonly name: string;
  /** `R`, `S`, `D`, `T`, `Z`, …: ps(1). */
  readonly state: string;
  readonly parent: number;
  /** It is on its way to its end, in whatever state. */
  readonly isExiting: boolean;
  /** Without and with a disk. */
  readonly minorFaults: number;
  readonly majorFaults: number;
  /** In clock ticks since boot: with its pid it names one process for one boot. */
  readonly startTicks: string;
}

/** Linux include/linux/sched.h: "Getting shut down". */
const PF_EXITING = 4;

/** Of a text as in proc_pid_stat(5), whose fields count from 1; `undefined` of an empty one, where no such process is. */
export function parseProcessStat(text: string): ProcessStat | undefined {
  const end = text.lastIndexOf(")");
  if (end < 0) return undefined;
  // From field 3 on.
  const fields = text.slice(end + 2).split(" ");
  const field = (n: number) => fields[n - 3] ?? "";
  return {
    name: text.slice(text.indexOf("(") + 1, end),
    state: field(3),
    parent: Number(field(4)),
    isExiting: (Number(field(9)) & PF_EXITING) !== 0,
    minorFaults: Number(field(10)),
    majorFaults: Number(field(12)),
    startTicks: field(22),
  };
}

/** True for one that has ended, reaped or not: who has to reap it (pid 1 for an orphan) may take its time. */
export function hasEnded(stat: ProcessStat | undefined): boolean {
  return stat === undefined || "ZX".includes(stat.state);
}
