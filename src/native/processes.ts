/**
 * Monitors and pidfds. A pid may be reused; a pidfd names one process for ever.
 */
import { constants } from "node:os";
import { call, callAsync } from "./addon.js";
import { Fd } from "./fd.js";

export interface MonitorSpawn {
  /** From `sealedExecutable`. */
  readonly executable: Fd;
  /** argv, `minke-monitor` first. */
  readonly args: readonly string[];
  /** From `openDirectory`: the monitor is born in it. */
  readonly cgroup?: Fd | undefined;
  /** Its standard error; else /dev/null. Standard input and output are always /dev/null. */
  readonly log?: Fd | undefined;
  /**
   * Borrowed; found by the monitor at 3 control, 4 net, 5 ipc, 6 uts, 7 shm, 8 user. Without `control`
   * a socket pair is made and our end returned.
   */
  readonly fds: {
    readonly control?: Fd | undefined;
    readonly net?: Fd | undefined;
    readonly ipc?: Fd | undefined;
    readonly uts?: Fd | undefined;
    readonly shm?: Fd | undefined;
    readonly user?: Fd | undefined;
  };
}

export interface SpawnedMonitor {
  readonly pid: number;
  readonly pidfd: Fd;
  /** Our end of the control connection; absent where `fds.control` was given. */
  readonly control: Fd | undefined;
}

/** The descriptor numbers inside a monitor: `/proc/<pid>/fd/<n>`. */
export const MONITOR_FD = { control: 3, net: 4, ipc: 5, uts: 6, shm: 7, user: 8 } as const;

/**
 * Starts a monitor, or the fork server. Settles after its execve, with the environment empty and in a session of
 * its own. The caller reaps it (`reapChild`) once it has ended.
 *
 * @throws RuntimeError whose syscall is `clone3` (the cgroup refused it) or `execveat`
 */
export async function spawnMonitor(spawn: MonitorSpawn): Promise<SpawnedMonitor> {
  const { fds } = spawn;
  const numberOf = (fd: Fd | undefined): number => fd?.number ?? -1;
  const [pid, pidfd, control] = await callAsync("start monitor", (native) =>
    native.spawnMonitor(
      spawn.executable.number,
      numberOf(spawn.cgroup),
      numberOf(spawn.log),
      numberOf(fds.control),
      numberOf(fds.net),
      numberOf(fds.ipc),
      numberOf(fds.uts),
      numberOf(fds.shm),
      numberOf(fds.user),
      ...spawn.args,
    ),
  );
  return {
    pid,
    pidfd: new Fd(pidfd, "pidfd of a monitor"),
    control: control >= 0 ? new Fd(control, "control of a monitor") : undefined,
  };
}

export interface MonitorFork {
  readonly sandboxId: string;
  /** Where it is to listen; of any length. */
  readonly socketPath: string;
  /** From `openDirectory`: the monitor is born in it. */
  readonly cgroup?: Fd | undefined;
  /** Its standard error; else /dev/null. */
  readonly log?: Fd | undefined;
  /** Borrowed; found by the monitor at the numbers of MONITOR_FD. */
  readonly fds: Omit<MonitorSpawn["fds"], "control">;
}

/**
 * Asks a fork server for a monitor, without waiting for it (native/sys/fork_request.h has what goes
 * over the socket).
 *
 * @param server a connected socket of the fork server
 * @param sequence 32 bits, repeated in the answer
 * @returns our end of the new monitor's control connection
 * @throws RuntimeError whose syscall is `sendmsg`: EPIPE, the fork server is gone
 */
export function forkMonitor(server: number, sequence: number, fork: MonitorFork): Fd {
  const { fds } = fork;
  const numberOf = (fd: Fd | undefined): number => fd?.number ?? -1;
  const control = call("ask for a monitor", (native) =>
    native.forkMonitor(
      server,
      sequence,
      fork.sandboxId,
      fork.socketPath,
      numberOf(fork.cgroup),
      numberOf(fork.log),
      numberOf(fds.net),
      numberOf(fds.ipc),
      numberOf(fds.uts),
      numberOf(fds.shm),
      numberOf(fds.user),
    ),
  );
  return new Fd(control, "control of a monitor");
}

/** @throws RuntimeError with errno ESRCH: no such process */
export function pidfdOpen(pid: number): Fd {
  return new Fd(
    call(`open pidfd of ${pid}`, (native) => native.pidfdOpen(pid)),
    `pidfd of ${pid}`,
  );
}

/** @param signal a number, or 0 to ask whether it still exists. @throws RuntimeError with errno ESRCH: it is gone */
export function pidfdSendSignal(pidfd: Fd, signal: number | NodeJS.Signals): void {
  const number = typeof signal === "number" ? signal : constants.signals[signal];
  call(`send signal ${signal}`, (native) => native.pidfdSendSignal(pidfd.number, number));
}

/** True once the process has ended, reaped or not, whoever its parent is. */
export function pidfdHasExited(pidfd: Fd): boolean {
  return call("ask whether a process has ended", (native) => native.pidfdHasExited(pidfd.number));
}

/**
 * Waits for the end of a process, whoever its parent is; the descriptor stays open meanwhile.
 *
 * @returns false where it still runs after `timeoutMs`
 */
export function waitForProcess(pidfd: Fd, timeoutMs: number): Promise<boolean> {
  return callAsync("wait for a process", (native) => native.waitForProcess(pidfd.number, timeoutMs));
}

/** /proc/PID/stat, empty where no such process is (proc_pid_stat(5)). */
export function processStat(pid: number): string {
  return call(`read the status of process ${pid}`, (native) => native.processStat(pid));
}

export interface ChildExit {
  readonly exitCode: number;
  /** 0: it exited by itself. */
  readonly signal: number;
}

/** Reaps a child of the daemon if it has ended; `undefined` while it runs. @throws RuntimeError with errno ECHILD: not a child of ours */
export function reapChild(pidfd: Fd): ChildExit | undefined {
  const status = call("wait for child", (native) => native.reapChild(pidfd.number));
  return status && { exitCode: status[0], signal: status[1] };
}

export interface SpawnedProgram {
  readonly pidfd: Fd;
  /** Connected to its standard input; absent where it has none. */
  readonly input: Fd | undefined;
  /** Connected to its standard output, and to its standard error where that has none of its own. */
  readonly output: Fd;
  readonly errors: Fd | undefined;
}

/**
 * Starts a program of ours without the event loop standing still for it; environment empty. Ended and reaped
 * by the caller (`reapChild`).
 *
 * @throws RuntimeError whose syscall is `posix_spawn`
 */
export async function spawnProgram(
  path: string,
  args: readonly string[],
  { hasInput, hasErrors = false }: { readonly hasInput: boolean; readonly hasErrors?: boolean | undefined },
): Promise<SpawnedProgram> {
  const [pidfd, input, output, errors] = await callAsync(`start "${path}"`, (native) =>
    native.spawnProgram(hasInput, hasErrors, path, ...args),
  );
  return {
    pidfd: new Fd(pidfd, "pidfd of a program"),
    input: input >= 0 ? new Fd(input, "input of a program") : undefined,
    output: new Fd(output, "output of a program"),
    errors: errors >= 0 ? new Fd(errors, "errors of a program") : undefined,
  };
}

/** A program file in a sealed memfd: no container can write to what starts it. @param name shows in /proc/PID/exe */
export async function sealedExecutable(path: string, name = "minke"): Promise<Fd> {
  const number = await callAsync(`seal "${path}"`, (native) => native.sealedExecutable(path, name));
  return new Fd(number, `sealed ${name}`);
}

/** Gives the kernel what malloc(3) keeps of what this process has freed. 1 to 2 ms. */
export function giveBackMemory(): void {
  call("give back memory", (native) => native.giveBackMemory());
}
