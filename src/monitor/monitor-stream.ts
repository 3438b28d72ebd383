/**
 * The streams of one container or exec, over a connection of their own.
 *
 * Back-pressure goes both ways: a reader that stops reading stops the socket, and `stdin.write`
 * calls back when the socket has taken the bytes.
 */
import type { Socket } from "node:net";
import { PassThrough, type Readable, Writable } from "node:stream";
import { RuntimeError } from "../base/errors.js";
import type { Greeted, StreamKind } from "./connect.js";
import { CHANNEL, encodeChannel, type FrameReader, MAX_STREAM_PAYLOAD_BYTES } from "./frames.js";
import { monitorUnreachable, MonitorRequestError } from "./monitor-error.js";
import type { MonitorFailure } from "./protocol.js";

/** Has the shape of the runtime's ExecSession. */
export interface MonitorStream {
  /**
   * `undefined` where the process has none. Ending it closes the process's stdin: of an exec
   * without a terminal, and of a container with stdinOnce.
   */
  readonly stdin: Writable | undefined;
  readonly stdout: Readable;
  /** `undefined` with a terminal. */
  readonly stderr: Readable | undefined;
  resize(columns: number, rows: number): void;
  /**
   * Settles with the last frame: the process has ended and all output is in `stdout` and `stderr`.
   * Rejects with `unavailable` MONITOR_UNREACHABLE, `aborted` STREAM_TOO_SLOW, or `cancelled` CANCELLED after `close()`.
   */
  readonly exited: Promise<{ readonly exitCode: number }>;
  /** Takes this client away, which kills an exec with all that it started. */
  close(): void;
}

export function openMonitorStream(greeted: Greeted & { readonly stream: StreamKind }): MonitorStream {
  return new SocketStream(greeted);
}

class SocketStream implements MonitorStream {
  readonly stdin: Writable | undefined;
  readonly stdout = new PassThrough();
  readonly stderr: PassThrough | undefined;
  readonly exited: Promise<{ readonly exitCode: number }>;
  readonly #socket: Socket;
  readonly #reader: FrameReader;
  #resolve!: (exit: { readonly exitCode: number }) => void;
  #reject!: (err: Error) => void;
  #isOver = false;
  #waitsFor = 0;

  constructor({ socket, reader, stream }: Greeted & { readonly stream: StreamKind }) {
    this.#socket = socket;
    this.#reader = reader;
    this.exited = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // A caller may look at the exit late, or never.
    this.exited.catch(() => {});
    if (stream.stdin) this.stdin = this.#createStdin();
    if (!stream.terminal) this.stderr = new PassThrough();
    socket.on("data", (chunk: Buffer) => {
      reader.push(chunk);
      this.#takeFrames();
    });
    socket.on("error", (err) => this.#fail(monitorUnreachable("the stream broke", err)));
    socket.on("close", () => this.#fail(monitorUnreachable("it closed the stream")));
    setImmediate(() => {
      this.#takeFrames();
      if (this.#waitsFor === 0) socket.resume();
    });
  }

  resize(columns: number, rows: number): void {
    this.#send(CHANNEL.resize, Buffer.from(JSON.stringify({ Width: columns, Height: rows })));
  }

  close(): void {
    this.#fail(new RuntimeError("read a stream: it was closed here", { kind: "cancelled", code: "CANCELLED" }));
  }

  #createStdin(): Writable {
    return new Writable({
      write: (chunk: Buffer, _encoding, done) => this.#writeStdin(chunk, done),
      final: (done) => {
        this.#send(CHANNEL.close, Buffer.of(CHANNEL.stdin));
        done();
      },
    });
  }

  #writeStdin(chunk: Buffer, done: () => void): void {
    if (this.#isOver || this.#socket.destroyed) {
      done();
      return;
    }
    for (let at = 0; at + MAX_STREAM_PAYLOAD_BYTES < chunk.length; at += MAX_STREAM_PAYLOAD_BYTES) {
      this.#send(CHANNEL.stdin, chunk.subarray(at, at + MAX_STREAM_PAYLOAD_BYTES));
    }
    const last = Math.floor(Math.max(chunk.length - 1, 0) / MAX_STREAM_PAYLOAD_BYTES) * MAX_STREAM_PAYLOAD_BYTES;
    // A stream that has ended takes no more input; that is no fault of the writer, and `exited` tells.
    this.#socket.write(encodeChannel(CHANNEL.stdin, chunk.subarray(last)), () => done());
  }

  #send(channel: number, payload: Uint8Array): void {
    if (!this.#isOver && !this.#socket.destroyed) this.#socket.write(encodeChannel(channel, payload));
  }

  #takeFrames(): void {
    try {
      while (!this.#isOver && this.#waitsFor === 0) {
        const frame = this.#reader.next();
        if (frame === undefined) return;
        this.#takeFrame(frame[0] ?? -1, frame.subarray(1));
      }
    } catch (err) {
      this.#fail(monitorUnreachable("it sent what is no frame", err));
    }
  }

  #takeFrame(channel: number, payload: Buffer): void {
    if (channel === CHANNEL.stdout || channel === CHANNEL.stderr) {
      const output = channel === CHANNEL.stdout ? this.stdout : this.stderr;
      if (output !== undefined && !output.write(payload)) this.#waitFor(output);
    } else if (channel === CHANNEL.status) {
      const status = JSON.parse(payload.toString("utf8")) as { exitCode?: number; error?: MonitorFailure };
      if (status.error !== undefined) this.#fail(new MonitorRequestError(status.error));
      else this.#finish(status.exitCode ?? 255);
    }
  }

  #waitFor(output: PassThrough): void {
    this.#waitsFor += 1;
    this.#socket.pause();
    output.once("drain", () => {
      this.#waitsFor -= 1;
      this.#takeFrames();
      if (this.#waitsFor === 0) this.#socket.resume();
    });
  }

  #finish(exitCode: number): void {
    this.#end();
    this.#resolve({ exitCode });
  }

  #fail(reason: Error): void {
    if (this.#isOver) return;
    // Frames that wait for a slow reader are still whole and in order: the socket's end is not theirs.
    if (this.#waitsFor > 0 && reason instanceof RuntimeError && reason.code === "MONITOR_UNREACHABLE") {
      this.stdout.once("drain", () => this.#afterLastFrames(reason));
      this.stderr?.once("drain", () => this.#afterLastFrames(reason));
      return;
    }
    this.#end();
    this.#reject(reason);
  }

  #afterLastFrames(reason: Error): void {
    this.#takeFrames();
    if (this.#waitsFor === 0) this.#fail(reason);
  }

  #end(): void {
    this.#isOver = true;
    this.#socket.destroy();
    this.stdout.end();
    this.stderr?.end();
  }
}
