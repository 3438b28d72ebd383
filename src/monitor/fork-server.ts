/**
 * The daemon's side of its fork server, which makes monitors at a tenth of what an execve costs each.
 *
 * Started with the daemon and gone with it; one that was killed is started again for the next monitor.
 * A monitor is a child of the daemon all the same.
 */
import type { Socket } from "node:net";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";
import {
  type Fd,
  forkMonitor,
  type MonitorFork,
  pidfdOpen,
  pidfdSendSignal,
  reapChild,
  type SpawnedMonitor,
  spawnMonitor,
  syscallError,
  waitForProcess,
} from "../native/index.js";
import type { LinuxDeviceCgroup } from "../oci/index.js";
import { socketFromFd } from "./connect.js";
import { childrenInCgroups } from "./unanswered.js";

/** native/sys/fork_request.h, ForkAnswer: sequence, pid, errno. */
const ANSWER_BYTES = 12;
const END_DEADLINE_MS = 1_000;

/** A monitor that has been forked. The caller reaps it (`reapChild`). */
export type ForkedMonitor = SpawnedMonitor & { readonly control: Fd };

export class ForkServer {
  readonly #executable: Fd;
  readonly #args: readonly string[];
  #opening: Promise<Connection> | undefined;

  /**
   * @param executable from `sealedExecutable`: taken, and closed by `close`
   * @param devices rules that most containers have: their policy is loaded once, for all of them
   */
  constructor(executable: Fd, devices: readonly LinuxDeviceCgroup[]) {
    this.#executable = executable;
    // What ps shows of a monitor is written over these.
    this.#args = ["minke-fork", JSON.stringify({ devices })];
  }

  /** Starts it ahead of the first monitor. */
  async start(): Promise<void> {
    await this.#connected();
  }

  /**
   * Makes a monitor.
   *
   * @throws RuntimeError whose syscall is `clone3` (the cgroup refused it); `unavailable`
   *   MONITOR_UNREACHABLE where the fork server died meanwhile
   */
  async fork(request: MonitorFork): Promise<ForkedMonitor> {
    const connection = await this.#connected();
    try {
      return await connection.fork(request);
    } catch (err) {
      // Killed, and not yet noticed: it was asked for nothing.
      if (!hasErrno(err, "EPIPE")) throw err;
      await connection.close();
      return (await this.#connected()).fork(request);
    }
  }

  /** Monitors go on. */
  async close(): Promise<void> {
    const connection = await this.#opening?.catch(() => undefined);
    this.#opening = undefined;
    await connection?.close();
    this.#executable.close();
  }

  #connected(): Promise<Connection> {
    if (this.#opening) return this.#opening;
    const opening = Connection.open(this.#executable, this.#args, () => {
      if (this.#opening === opening) this.#opening = undefined;
    });
    this.#opening = opening;
    opening.catch(() => {
      if (this.#opening === opening) this.#opening = undefined;
    });
    return opening;
  }
}

interface Waiting {
  readonly sandboxId: string;
  readonly resolve: (pid: number) => void;
  readonly reject: (err: Error) => void;
}

class Connection {
  readonly #socket: Socket;
  /** The socket's own, valid until it is closed. */
  readonly #number: number;
  readonly #pidfd: Fd;
  readonly #waiting = new Map<number, Waiting>();
  readonly #ended: Promise<void>;
  #sequence = 0;
  #unread: Buffer = Buffer.alloc(0);

  private constructor(number: number, pidfd: Fd, onEnd: () => void) {
    this.#number = number;
    this.#pidfd = pidfd;
    this.#socket = socketFromFd(number);
    this.#socket.on("data", (chunk: Buffer) => this.#take(chunk));
    // ECONNRESET where it was killed with requests unread; `close` follows.
    this.#socket.on("error", () => undefined);
    // Not events.once, which an error would end ahead of the close.
    this.#ended = new Promise<void>((resolve) => this.#socket.once("close", () => resolve())).then(() => {
      onEnd();
      return this.#end();
    });
    // Who closes it hears of a failure; where it ended by itself nobody waits.
    this.#ended.catch(() => undefined);
    // It does not keep a daemon alive that has nothing else to do.
    this.#socket.unref();
  }

  static async open(executable: Fd, args: readonly string[], onEnd: () => void): Promise<Connection> {
    const { control, pidfd } = await spawnMonitor({ executable, args, fds: {} }).catch((err: unknown) => {
      throw withContext(err, "start the fork server");
    });
    if (!control) throw new Error("a fork server without a connection");
    return new Connection(control.take(), pidfd, onEnd);
  }

  async fork(request: MonitorFork): Promise<ForkedMonitor> {
    if (this.#socket.destroyed) throw gone();
    const sequence = (this.#sequence = (this.#sequence + 1) >>> 0);
    const control = forkMonitor(this.#number, sequence, request);
    try {
      const { sandboxId } = request;
      const pid = await new Promise<number>((resolve, reject) =>
        this.#waiting.set(sequence, { sandboxId, resolve, reject }),
      );
      return { pid, pidfd: pidfdOpen(pid), control };
    } catch (err) {
      control.close();
      throw err;
    }
  }

  async close(): Promise<void> {
    this.#socket.destroy();
    await this.#ended;
  }

  #take(chunk: Buffer): void {
    this.#unread = this.#unread.length === 0 ? chunk : Buffer.concat([this.#unread, chunk]);
    for (; this.#unread.length >= ANSWER_BYTES; this.#unread = this.#unread.subarray(ANSWER_BYTES)) {
      const sequence = this.#unread.readUInt32LE(0);
      const [pid, errno] = [this.#unread.readInt32LE(4), this.#unread.readInt32LE(8)];
      const waiting = this.#waiting.get(sequence);
      this.#waiting.delete(sequence);
      if (pid > 0) waiting?.resolve(pid);
      else waiting?.reject(syscallError("start monitor", "clone3", errno));
    }
  }

  async #end(): Promise<void> {
    const unanswered = [...this.#waiting.values()];
    this.#waiting.clear();
    let unknown: Fd[] = [];
    try {
      // It reads that we are gone; one that is stopped does not.
      await ended(this.#pidfd);
      // It forks no more: what it had forked without saying so is our child, and nobody else knows of it.
      unknown = await childrenInCgroups(unanswered.map(({ sandboxId }) => sandboxId));
      for (const pidfd of unknown) pidfdSendSignal(pidfd, "SIGKILL");
    } finally {
      for (const { reject } of unanswered) reject(gone());
    }
    await Promise.all(unknown.map(ended));
  }
}

/** Waits for a child of ours, killing it where it does not end by itself, and reaps it. */
async function ended(pidfd: Fd): Promise<void> {
  try {
    while (!(await waitForProcess(pidfd, END_DEADLINE_MS))) pidfdSendSignal(pidfd, "SIGKILL");
    reapChild(pidfd);
  } finally {
    pidfd.close();
  }
}

function gone(): RuntimeError {
  return new RuntimeError("the fork server died before it had made the monitor", {
    kind: "unavailable",
    code: "MONITOR_UNREACHABLE",
  });
}
