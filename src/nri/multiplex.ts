/**
 * Several connections over one socket, as NRI has them: each frame is a connection's number and a length,
 * both 32-bit big-endian, then the payload (pkg/net/multiplex of the NRI module).
 *
 * Knows no ttrpc. A peer that sends what cannot be a frame is disconnected: the framing has no mark by
 * which to find the next one.
 */
import type { Socket } from "node:net";
import { RuntimeError } from "../base/errors.js";

const HEADER_BYTES = 8;
/** A ttrpc header and the largest ttrpc message. */
export const MAX_PAYLOAD_BYTES = 10 + 4 * 1024 * 1024;
/**
 * Go's plugins read each connection through a buffer of 4096 bytes, and a frame that does not fit into what
 * they read into is an error there: the first frame of a message is at most so long.
 */
const FIRST_FRAME_BYTES = 4096;
/** What may wait for a plugin that does not read. */
const MAX_UNREAD_BYTES = 16 * 1024 * 1024;

export interface MultiplexEvents {
  onPayload(connection: number, payload: Buffer): void;
  /** Once. @param reason `undefined` where the peer closed between two frames, or `close` was called */
  onClose(reason: RuntimeError | undefined): void;
}

export class Multiplex {
  readonly #socket: Socket;
  readonly #events: MultiplexEvents;
  readonly #frames = new ByteQueue();
  #header: { readonly connection: number; readonly length: number } | undefined;
  #isClosed = false;

  constructor(socket: Socket, events: MultiplexEvents) {
    this.#socket = socket;
    this.#events = events;
    socket.on("data", (chunk) => this.#take(chunk));
    socket.on("error", (err) => this.close(protocolError(err.message, err)));
    socket.on("close", () =>
      this.close(this.#frames.length > 0 ? protocolError("it closed in the middle of a frame") : undefined),
    );
    // Then it says so no more.
    if (socket.destroyed) queueMicrotask(() => this.close());
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Sends one message: its own frames, so that no frame holds parts of two. */
  send(connection: number, message: Buffer): void {
    if (this.#isClosed) return;
    this.#socket.cork();
    for (let from = 0, end = Math.min(FIRST_FRAME_BYTES, message.length); from < message.length; ) {
      const header = Buffer.allocUnsafe(HEADER_BYTES);
      header.writeUInt32BE(connection, 0);
      header.writeUInt32BE(end - from, 4);
      this.#socket.write(header);
      this.#socket.write(message.subarray(from, end));
      [from, end] = [end, message.length];
    }
    this.#socket.uncork();
    if (this.#socket.writableLength > MAX_UNREAD_BYTES) this.close(protocolError("it does not read what it is sent"));
  }

  close(reason?: RuntimeError): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#socket.destroy();
    this.#events.onClose(reason);
  }

  #take(chunk: Buffer): void {
    this.#frames.push(chunk);
    while (!this.#isClosed) {
      this.#header ??= this.#readHeader();
      if (!this.#header) return;
      const { connection, length } = this.#header;
      if (length > MAX_PAYLOAD_BYTES) {
        this.close(protocolError(`a frame of ${length} bytes, and ${MAX_PAYLOAD_BYTES} is the most`));
        return;
      }
      const payload = this.#frames.take(length);
      if (!payload) return;
      this.#header = undefined;
      this.#events.onPayload(connection, payload);
    }
  }

  #readHeader(): { connection: number; length: number } | undefined {
    const bytes = this.#frames.take(HEADER_BYTES);
    return bytes && { connection: bytes.readUInt32BE(0), length: bytes.readUInt32BE(4) };
  }
}

/** Bytes as they arrive, taken in pieces of given lengths; each byte is copied at most once. */
export class ByteQueue {
  #chunks: Buffer[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  /** `undefined` where there are not as many yet. */
  take(count: number): Buffer | undefined {
    if (this.#length < count) return undefined;
    const whole = this.#chunks.length === 1 ? (this.#chunks[0] ?? Buffer.alloc(0)) : Buffer.concat(this.#chunks);
    this.#length -= count;
    this.#chunks = this.#length === 0 ? [] : [whole.subarray(count)];
    return whole.subarray(0, count);
  }
}

/** `unavailable` NRI_PLUGIN_FAILED: what a plugin's connection died of. */
export function protocolError(why: string, cause?: unknown): RuntimeError {
  return new RuntimeError(why, { kind: "unavailable", code: "NRI_PLUGIN_FAILED", cause });
}
