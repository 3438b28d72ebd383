/**
 * One SPDY/3.1 connection, from the server's side, with the habits of Kubernetes' peers.
 *
 * The peers are Go's spdystream: their streams carry no `:method` or `:path`, they never send
 * WINDOW_UPDATE and ignore ours. So there is no flow control by window when sending: TCP is it. When
 * receiving, a stream that nobody reads stops the whole connection, as it does in Go. All
 * streams come from the client. Called by the sessions of this folder's parent.
 */
import { Duplex } from "node:stream";
import {
  dataHead,
  type Frame,
  FrameReader,
  goAway,
  ping,
  RST_STATUS,
  rstStream,
  synReply,
  windowUpdate,
} from "./frames.js";
import { HeaderDecoder, HeaderEncoder, type Headers, protocolError } from "./header-block.js";

/** Kept of a stream for a slow reader before the connection is no longer read. */
const RECEIVE_BUFFER_BYTES = 256 * 1024;
const MAX_PAYLOAD_BYTES = 32 * 1024;
const MAX_STREAMS = 2048;
/** How long the peer may take to take the last frames and hang up. */
const LINGER_MS = 10_000;

export interface SpdyConnectionOptions {
  /** Called for each stream of the client; one that throws refuses it. */
  readonly onStream: (stream: SpdyStream) => void;
}

export class SpdyConnection {
  readonly #socket: Duplex;
  readonly #onStream: (stream: SpdyStream) => void;
  readonly #streams = new Map<number, SpdyStream>();
  readonly #reader = new FrameReader();
  readonly #decoder = new HeaderDecoder();
  readonly #encoder = new HeaderEncoder();
  #lastStreamId = 0;
  #isClosing = false;
  /** Settles when the connection is gone, for whatever reason. */
  readonly closed: Promise<void>;

  /**
   * @param socket upgraded; taken over
   * @param head what had been read from it beyond the request
   */
  constructor(socket: Duplex, head: Buffer, options: SpdyConnectionOptions) {
    this.#socket = socket;
    this.#onStream = options.onStream;
    socket.on("error", () => undefined);
    this.closed = new Promise((resolve) => {
      socket.once("close", () => {
        this.#tearDown();
        resolve();
      });
    });
    if (head.length > 0) socket.unshift(head);
    void this.#receive();
  }

  get streamCount(): number {
    return this.#streams.size;
  }

  /** Ends it once everything written has been sent; what the peer still sends is dropped. */
  close(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    if (!this.#socket.destroyed) this.#socket.end(goAway(this.#lastStreamId, 0));
    for (const stream of this.#streams.values()) stream.forgetPeer();
    const timer = setTimeout(() => this.#socket.destroy(), LINGER_MS);
    void this.closed.then(() => clearTimeout(timer));
  }

  /** Cuts it off. */
  destroy(): void {
    this.#socket.destroy();
  }

  #tearDown(): void {
    this.#decoder.close();
    for (const stream of this.#streams.values()) stream.forgetPeer();
    this.#streams.clear();
  }

  async #receive(): Promise<void> {
    try {
      for await (const chunk of this.#socket) {
        for (const frame of this.#reader.push(chunk as Buffer)) await this.#take(frame);
      }
    } catch {
      // A broken connection, or a peer that does not speak SPDY: nothing can be said to it any more.
    }
    this.#socket.destroy();
  }

  async #take(frame: Frame): Promise<void> {
    switch (frame.type) {
      case "data":
        return this.#takeData(frame.streamId, frame.payload, frame.isLast);
      case "syn-stream":
        return this.#takeStream(frame.streamId, await this.#decoder.decode(frame.block), frame.isLast);
      case "syn-reply":
      case "headers":
        // Nothing of ours is replied to; the block must still pass through the decompressor.
        await this.#decoder.decode(frame.block);
        return;
      case "rst-stream":
        this.#streams.get(frame.streamId)?.resetByPeer();
        return;
      case "ping":
        // Odd ones are the client's (draft 3.1, 2.6.5); ours do not exist.
        if (frame.id % 2 === 1) this.#socket.write(ping(frame.id));
        return;
      case "go-away":
      case "window-update":
      case "ignored":
        return;
    }
  }

  #takeStream(id: number, headers: Headers, isLast: boolean): void {
    if (this.#isClosing) return;
    if (id % 2 === 0 || id <= this.#lastStreamId)
      throw protocolError(`stream ${id} after stream ${this.#lastStreamId}`);
    this.#lastStreamId = id;
    if (this.#streams.size >= MAX_STREAMS) {
      this.#socket.write(rstStream(id, RST_STATUS.refusedStream));
      return;
    }
    const stream = new SpdyStream(id, headers, {
      send: (payload, isFinal, done) => this.#send(id, payload, isFinal, done),
      reset: (status) => void this.#socket.write(rstStream(id, status)),
      forget: () => void this.#streams.delete(id),
    });
    this.#streams.set(id, stream);
    try {
      this.#onStream(stream);
    } catch {
      this.#streams.delete(id);
      this.#socket.write(rstStream(id, RST_STATUS.refusedStream));
      return;
    }
    this.#socket.write(synReply(id, false, this.#encoder.encode(new Map())));
    if (isLast) stream.endByPeer();
  }

  async #takeData(id: number, payload: Buffer, isLast: boolean): Promise<void> {
    if (payload.length > 0) {
      const stream = this.#streams.get(id);
      await stream?.receive(payload);
      if (!this.#isClosing && !this.#socket.destroyed) {
        this.#socket.write(Buffer.concat([windowUpdate(id, payload.length), windowUpdate(0, payload.length)]));
      }
    }
    if (isLast) this.#streams.get(id)?.endByPeer();
  }

  #send(id: number, payload: Buffer, isFinal: boolean, done: (err?: Error | null) => void): void {
    if (this.#socket.destroyed || this.#isClosing) {
      done(new Error("the connection is closed"));
      return;
    }
    this.#socket.cork();
    for (let at = 0; at + MAX_PAYLOAD_BYTES < payload.length; at += MAX_PAYLOAD_BYTES) {
      const piece = payload.subarray(at, at + MAX_PAYLOAD_BYTES);
      this.#socket.write(dataHead(id, false, piece.length));
      this.#socket.write(piece);
    }
    const sent = payload.length === 0 ? 0 : Math.floor((payload.length - 1) / MAX_PAYLOAD_BYTES) * MAX_PAYLOAD_BYTES;
    const last = payload.subarray(sent);
    this.#socket.write(dataHead(id, isFinal, last.length));
    this.#socket.write(last, done);
    this.#socket.uncork();
  }
}

interface StreamPeer {
  send(payload: Buffer, isFinal: boolean, done: (err?: Error | null) => void): void;
  reset(status: number): void;
  forget(): void;
}

/** One stream of the client. Its two directions end apart; destroying it resets what is open. */
export class SpdyStream extends Duplex {
  readonly id: number;
  readonly headers: Headers;
  readonly #peer: StreamPeer;
  /** Resolves the wait of the connection for this stream's reader. */
  #resume: (() => void) | undefined;
  #isPeerGone = false;
  #hasPeerEnded = false;

  constructor(id: number, headers: Headers, peer: StreamPeer) {
    super({
      allowHalfOpen: true,
      readableHighWaterMark: RECEIVE_BUFFER_BYTES,
      writableHighWaterMark: MAX_PAYLOAD_BYTES,
    });
    this.id = id;
    this.headers = headers;
    this.#peer = peer;
    // A session may have let go of a stream that the client then resets.
    this.on("error", () => undefined);
  }

  /** Settles when there is room for more. For the connection. */
  receive(payload: Buffer): Promise<void> | undefined {
    if (this.destroyed || this.#hasPeerEnded || this.push(payload)) return undefined;
    return new Promise((resolve) => {
      this.#resume = resolve;
    });
  }

  /** The client sends no more on it. For the connection. */
  endByPeer(): void {
    if (this.#hasPeerEnded) return;
    this.#hasPeerEnded = true;
    this.push(null);
  }

  /** For the connection. */
  resetByPeer(): void {
    this.#isPeerGone = true;
    this.destroy();
  }

  /** The connection is gone or going. For the connection. */
  forgetPeer(): void {
    this.resetByPeer();
  }

  override _read(): void {
    this.#resume?.();
    this.#resume = undefined;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (err?: Error | null) => void): void {
    this.#peer.send(chunk, false, done);
  }

  override _final(done: (err?: Error | null) => void): void {
    this.#peer.send(Buffer.alloc(0), true, done);
  }

  override _destroy(err: Error | null, done: (err?: Error | null) => void): void {
    this.#resume?.();
    this.#resume = undefined;
    this.#peer.forget();
    const isComplete = this.#hasPeerEnded && this.writableFinished;
    if (!this.#isPeerGone && !isComplete) this.#peer.reset(RST_STATUS.cancel);
    done(err);
  }
}
