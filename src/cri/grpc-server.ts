/**
 * gRPC's connections on a unix socket: moves bytes between sockets and their sessions (src/native/grpc-session.ts),
 * and hands each call on. Knows neither CRI nor protobuf. Called by server.ts; dispatch.ts answers the calls.
 */
import { createServer, type Server, type Socket } from "node:net";
import { RuntimeError } from "../base/errors.js";
import { createGrpcSession, type GrpcEvents, type GrpcSession } from "../native/index.js";

/** Idle connections of short-lived clients are dropped, or each would stay in memory. */
const MAX_IDLE_MS = 10 * 60_000;
const IDLE_CHECK_MS = 60_000;
/** So much of a stream's answers waits at most for a peer that reads slowly. */
const MAX_QUEUED_BYTES = 256 * 1024;

export type OnCall = (call: Call) => void;

/** A call, to be answered once: by `answer` or `fail`, or as a stream by `write`s and then `end` or `fail`. */
export class Call {
  /** `/runtime.v1.RuntimeService/Version` */
  readonly path: string;
  readonly message: Uint8Array;
  /** Until its caller gives up; infinite where it does not. */
  readonly timeoutMs: number;
  readonly #connection: Connection;
  readonly #stream: number;
  #onCancel: (() => void) | undefined;
  #isCancelled = false;

  constructor(connection: Connection, stream: number, path: string, timeoutMs: number, message: Uint8Array) {
    this.#connection = connection;
    this.#stream = stream;
    this.path = path;
    this.timeoutMs = timeoutMs;
    this.message = message;
  }

  answer(message: Uint8Array): void {
    this.#connection.session.answer(this.#stream, message);
    this.#connection.settle(this.#stream);
  }

  /** @param status gRPC's number @param code minke's own name of the error, for its trailer */
  fail(status: number, message: string, code: string): void {
    this.#connection.session.fail(this.#stream, status, message, code);
    this.#connection.settle(this.#stream);
  }

  /** Settles once the peer takes more, or has gone. */
  async write(message: Uint8Array): Promise<void> {
    if (this.#isCancelled) return;
    this.#connection.session.write(this.#stream, message);
    await this.#connection.sent(this.#stream);
  }

  end(): void {
    this.#connection.session.end(this.#stream);
    this.#connection.settle(this.#stream);
  }

  /** Called once if the caller gives up, or its connection ends, before it has been answered. */
  onCancel(told: () => void): void {
    this.#onCancel = told;
    if (this.#isCancelled) told();
  }

  /** For its connection. */
  cancel(): void {
    this.#isCancelled = true;
    this.#onCancel?.();
  }
}

class Connection {
  readonly session: GrpcSession;
  readonly #socket: Socket;
  readonly #onCall: OnCall;
  readonly #calls = new Map<number, Call>();
  /** Writers of streams that wait for their peer. */
  readonly #waiting = new Map<number, () => void>();
  #isBlocked = false;
  #idleSinceMs = performance.now();

  constructor(socket: Socket, maxMessageBytes: number, onCall: OnCall) {
    this.session = createGrpcSession(maxMessageBytes);
    this.#socket = socket;
    this.#onCall = onCall;
    socket.on("data", (bytes) => this.#receive(bytes));
    socket.on("drain", () => {
      this.#isBlocked = false;
      this.#flush();
    });
    // Whatever ends a connection ends its calls; the peer needs no other word.
    socket.on("error", () => undefined);
    socket.once("close", () => this.#close());
    this.#flush();
  }

  /** A call has its answer. */
  settle(stream: number): void {
    this.#calls.delete(stream);
    this.#idleSinceMs = performance.now();
    this.#flush();
  }

  /** Once few enough of a stream's answers wait. */
  async sent(stream: number): Promise<void> {
    this.#flush();
    while (this.#calls.has(stream) && this.session.queued(stream) > MAX_QUEUED_BYTES)
      await new Promise<void>((resolve) => this.#waiting.set(stream, resolve));
  }

  goAway(): void {
    this.session.goAway();
    this.#flush();
  }

  goAwayIfIdle(): void {
    if (this.#calls.size === 0 && performance.now() - this.#idleSinceMs > MAX_IDLE_MS) this.goAway();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #receive(bytes: Buffer): void {
    const events = this.session.receive(bytes);
    if (events) this.#hear(events);
    this.#flush();
    if (events === false) this.#socket.destroySoon();
  }

  #hear(events: GrpcEvents): void {
    for (let at = 0; at < events.length; at += 4) {
      const stream = events[at] as number;
      const path = events[at + 1] as string | undefined;
      if (path === undefined) {
        this.#cancel(stream);
        continue;
      }
      const timeoutMs = events[at + 2] as number;
      const message = events[at + 3] as Uint8Array;
      const call = new Call(this, stream, path, timeoutMs < 0 ? Number.POSITIVE_INFINITY : timeoutMs, message);
      this.#calls.set(stream, call);
      this.#onCall(call);
    }
  }

  #flush(): void {
    while (!this.#isBlocked && !this.#socket.destroyed) {
      const bytes = this.session.take();
      if (!bytes) break;
      this.#isBlocked = !this.#socket.write(bytes);
    }
    for (const [stream, resume] of this.#waiting) {
      if (this.session.queued(stream) > MAX_QUEUED_BYTES) continue;
      this.#waiting.delete(stream);
      resume();
    }
    if (!this.#isBlocked && this.session.isOver()) this.#socket.end();
  }

  #cancel(stream: number): void {
    const call = this.#calls.get(stream);
    this.#calls.delete(stream);
    this.#idleSinceMs = performance.now();
    call?.cancel();
  }

  #close(): void {
    for (const stream of [...this.#calls.keys()]) this.#cancel(stream);
    for (const resume of this.#waiting.values()) resume();
    this.#waiting.clear();
    this.session.close();
  }
}

export interface GrpcServer {
  /**
   * Takes no more calls and lets those under way end.
   *
   * @param graceMs after which what is still under way is cut off
   */
  close(graceMs: number): Promise<void>;
}

/** @throws RuntimeError `failed-precondition` SOCKET_UNUSABLE */
export async function serveGrpc(path: string, maxMessageBytes: number, onCall: OnCall): Promise<GrpcServer> {
  const connections = new Set<Connection>();
  const server = createServer((socket) => {
    const connection = new Connection(socket, maxMessageBytes, onCall);
    connections.add(connection);
    socket.once("close", () => connections.delete(connection));
  });
  await listen(server, path);
  const idleCheck = setInterval(() => {
    for (const connection of connections) connection.goAwayIfIdle();
  }, IDLE_CHECK_MS).unref();
  return {
    close: (graceMs) =>
      new Promise((resolve) => {
        clearInterval(idleCheck);
        const cutOff = setTimeout(() => {
          for (const connection of connections) connection.destroy();
        }, graceMs);
        server.close(() => {
          clearTimeout(cutOff);
          resolve();
        });
        for (const connection of connections) connection.goAway();
      }),
  };
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    // Later errors are of one connection that could not be accepted, EMFILE: its peer finds it closed.
    server.on("error", (cause) =>
      reject(new RuntimeError(cause.message, { kind: "failed-precondition", code: "SOCKET_UNUSABLE", cause })),
    );
    server.listen(path, resolve);
  });
}
