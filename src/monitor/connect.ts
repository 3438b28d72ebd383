/**
 * Making connections to a monitor: from a descriptor, or by path of any length, and the hellos.
 */
import { open } from "node:fs/promises";
import { connect, Socket } from "node:net";
import { basename, dirname } from "node:path";
import { VERSION } from "../settings/version.js";
import { encodeJson, FrameReader } from "./frames.js";
import { monitorUnreachable, MonitorRequestError } from "./monitor-error.js";
import { type MonitorFailure, type MonitorHello, PROTOCOL, type StreamTarget } from "./protocol.js";

const HELLO_DEADLINE_MS = 10_000;
/** `sun_path` holds 108 bytes with the final zero (unix(7)). */
const MAX_SOCKET_PATH_BYTES = 107;

/** A connection whose hellos are exchanged. What came after them waits in `reader`. */
export interface Greeted {
  readonly socket: Socket;
  readonly reader: FrameReader;
  readonly hello: MonitorHello;
}

/** Where a stream was asked for: what it has. */
export interface StreamKind {
  readonly terminal: boolean;
  readonly stdin: boolean;
}

export function socketFromFd(fd: number): Socket {
  return new Socket({ fd, readable: true, writable: true });
}

export async function connectSocket(path: string): Promise<Socket> {
  if (Buffer.byteLength(path) <= MAX_SOCKET_PATH_BYTES) return connectShort(path);
  const directory = await open(dirname(path), "r");
  try {
    return await connectShort(`/proc/self/fd/${directory.fd}/${basename(path)}`);
  } finally {
    await directory.close();
  }
}

function connectShort(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(socket);
    });
    socket.once("error", (err) => reject(monitorUnreachable("nobody answers at its socket", err)));
  });
}

/**
 * Exchanges hellos. On failure the socket is destroyed.
 *
 * @throws RuntimeError `unavailable` MONITOR_UNREACHABLE, `unimplemented` MONITOR_PROTOCOL, and with a
 *   target what the monitor refuses it with: `not-found` CONTAINER_NOT_FOUND, EXEC_NOT_FOUND,
 *   `failed-precondition` EXEC_NOT_ATTACHABLE
 */
export async function greet(socket: Socket): Promise<Greeted>;
export async function greet(socket: Socket, target: StreamTarget): Promise<Greeted & { readonly stream: StreamKind }>;
export async function greet(
  socket: Socket,
  target?: StreamTarget,
): Promise<Greeted & { readonly stream?: StreamKind }> {
  const reader = new FrameReader();
  const frames = new HelloFrames(socket, reader);
  try {
    socket.write(encodeJson({ hello: { protocol: PROTOCOL, version: VERSION, ...(target && { stream: target }) } }));
    const { hello } = (await frames.next()) as { hello?: MonitorHello };
    if (hello === undefined) throw monitorUnreachable("its first frame is no hello");
    if (target === undefined) return { socket, reader, hello };
    const { stream } = (await frames.next()) as { stream?: StreamKind };
    if (stream === undefined) throw monitorUnreachable("it did not open the stream");
    return { socket, reader, hello, stream };
  } catch (err) {
    socket.destroy();
    throw err;
  } finally {
    frames.stop();
  }
}

/** Reads single frames from the socket's beginning; stops without losing what it did not read. */
class HelloFrames {
  readonly #socket: Socket;
  readonly #reader: FrameReader;
  #wake: () => void = () => {};
  #failure: Error | undefined;
  readonly #timer: NodeJS.Timeout;
  readonly #onData = (chunk: Buffer): void => {
    this.#reader.push(chunk);
    this.#wake();
  };
  readonly #onClose = (): void => this.#fail(monitorUnreachable("it closed the connection"));
  readonly #onError = (err: Error): void => this.#fail(monitorUnreachable("the connection broke", err));

  constructor(socket: Socket, reader: FrameReader) {
    this.#socket = socket;
    this.#reader = reader;
    this.#timer = setTimeout(
      () => this.#fail(monitorUnreachable(`no hello within ${HELLO_DEADLINE_MS} ms`)),
      HELLO_DEADLINE_MS,
    );
    socket.on("data", this.#onData);
    socket.on("close", this.#onClose);
    socket.on("error", this.#onError);
  }

  async next(): Promise<unknown> {
    for (;;) {
      const frame = this.#reader.next();
      if (frame !== undefined) {
        const value = JSON.parse(frame.toString("utf8")) as { error?: MonitorFailure };
        if (value.error !== undefined) throw new MonitorRequestError(value.error);
        return value;
      }
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #fail(failure: Error): void {
    this.#failure ??= failure;
    this.#wake();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#socket.pause();
    this.#socket.off("data", this.#onData);
    this.#socket.off("close", this.#onClose);
    this.#socket.off("error", this.#onError);
  }
}
