/**
 * The host's end of the agent's port: commands go in, their results come out, side by side.
 * guest/agent.cc holds the other end and says what the lines are.
 */
import { connect, type Socket } from "node:net";

export interface RunResult {
  /** Exit code; 128 and the signal's number where one ended it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Its time was up, so it was killed with its whole session. */
  readonly timedOut: boolean;
  /** How long it took, by the guest's clock. */
  readonly durationMs: number;
}

interface Answer {
  readonly id: number;
  readonly code: number;
  readonly timedOut: boolean;
  readonly ms: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface Pending {
  readonly resolve: (result: RunResult) => void;
  readonly reject: (error: Error) => void;
}

/** What an answer may take longer than its command: the guest is slow, and shares two cores. */
const ANSWER_GRACE_MS = 20_000;

export class Channel {
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  /** Ids differ between the channels of one VM, so a late answer to a former one is known. */
  #lastId = Math.floor(Math.random() * 1_000_000) * 1000;
  #rest = "";
  #closed: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("utf8");
    socket.on("data", (text: string) => this.#receive(text));
    socket.on("error", (error) => this.close(error));
    socket.on("close", () => this.close(new Error("the VM has ended")));
  }

  /** @param path QEMU's socket of the agent's port; it serves one client at a time */
  static async open(path: string): Promise<Channel> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    return new Channel(socket);
  }

  /** Runs a bash script in the guest; its working directory is the checkout. */
  async run(script: string, timeoutMs: number): Promise<RunResult> {
    if (this.#closed) throw this.#closed;
    const id = ++this.#lastId;
    const result = new Promise<RunResult>((resolve, reject) => this.#pending.set(id, { resolve, reject }));
    const timer = setTimeout(() => {
      this.#pending.get(id)?.reject(new Error(`no answer from the VM ${ANSWER_GRACE_MS} ms after its time: ${script}`));
    }, timeoutMs + ANSWER_GRACE_MS);
    this.#socket.write(`${id} ${Math.ceil(timeoutMs)} ${Buffer.from(script).toString("base64")}\n`);
    try {
      return await result;
    } finally {
      clearTimeout(timer);
      this.#pending.delete(id);
    }
  }

  /** Fails what is under way. */
  close(reason = new Error("the connection to the VM was closed")): void {
    this.#closed ??= reason;
    for (const { reject } of this.#pending.values()) reject(this.#closed);
    this.#socket.destroy();
  }

  #receive(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      const answer = parse(line);
      if (!answer) continue;
      const { id, code, timedOut, ms: durationMs } = answer;
      const [stdout, stderr] = [decode(answer.stdout), decode(answer.stderr)];
      this.#pending.get(id)?.resolve({ code, timedOut, durationMs, stdout, stderr });
    }
  }
}

function decode(base64: string): string {
  return Buffer.from(base64, "base64").toString("utf8");
}

/** A line cut by a former client's end is no answer to anybody. */
function parse(line: string): Answer | undefined {
  try {
    return JSON.parse(line) as Answer;
  } catch {
    return undefined;
  }
}
