/**
 * A SPDY/3.1 client with the habits of Go's spdystream, for tests: streams without `:method`, no
 * WINDOW_UPDATE, one zlib context for all header blocks.
 */
import { request } from "node:http";
import { request as tlsRequest, type RequestOptions } from "node:https";
import type { Socket } from "node:net";
import { constants, createDeflate } from "node:zlib";
import { DICTIONARY } from "../../src/streaming/spdy/dictionary.js";
import { dataHead, FrameReader, goAway, synStream } from "../../src/streaming/spdy/frames.js";

export interface ClientStream {
  readonly id: number;
  /** All that came, once the peer has ended the stream. */
  readonly ended: Promise<Buffer>;
  /** What has come so far. */
  received(): Buffer;
  write(bytes: Buffer | string, isLast?: boolean): void;
}

export class SpdyClient {
  readonly protocol: string;
  readonly #socket: Socket;
  readonly #deflate = createDeflate({ dictionary: DICTIONARY });
  readonly #streams = new Map<number, { parts: Buffer[]; end: () => void; fail: (err: Error) => void }>();
  readonly closed: Promise<void>;
  #nextId = 1;

  private constructor(socket: Socket, head: Buffer, protocol: string) {
    this.#socket = socket;
    this.protocol = protocol;
    const reader = new FrameReader();
    const take = (chunk: Buffer) => {
      for (const frame of reader.push(chunk)) {
        if (frame.type === "data") {
          this.#streams.get(frame.streamId)?.parts.push(frame.payload);
          if (frame.isLast) this.#streams.get(frame.streamId)?.end();
        } else if (frame.type === "rst-stream") {
          this.#streams.get(frame.streamId)?.fail(new Error(`reset with status ${frame.status}`));
        }
      }
    };
    socket.on("data", take);
    socket.on("error", () => undefined);
    this.closed = new Promise((resolve) => {
      socket.once("close", () => {
        for (const stream of this.#streams.values()) stream.fail(new Error("connection closed"));
        resolve();
      });
    });
    if (head.length > 0) take(head);
  }

  /** Rejects with `status text` where the upgrade is refused. */
  static connect(url: string, protocols: readonly string[], tls: RequestOptions = {}): Promise<SpdyClient> {
    return new Promise((resolve, reject) => {
      const headers = { connection: "Upgrade", upgrade: "SPDY/3.1", "x-stream-protocol-version": [...protocols] };
      const call = (url.startsWith("https") ? tlsRequest : request)(url, { ...tls, method: "POST", headers });
      call.on("upgrade", (response, socket, head) =>
        resolve(new SpdyClient(socket, head, String(response.headers["x-stream-protocol-version"]))),
      );
      call.on("response", (response) => {
        response.setEncoding("utf8");
        let text = "";
        response.on("data", (part: string) => {
          text += part;
        });
        response.on("end", () => reject(new Error(`${response.statusCode} ${text.trim()}`)));
      });
      call.on("error", reject);
      call.end();
    });
  }

  async open(headers: Readonly<Record<string, string>>): Promise<ClientStream> {
    const id = this.#nextId;
    this.#nextId += 2;
    const parts: Buffer[] = [];
    const ended = new Promise<Buffer>((resolve, fail) => {
      this.#streams.set(id, { parts, end: () => resolve(Buffer.concat(parts)), fail });
    });
    ended.catch(() => undefined);
    this.#socket.write(synStream(id, false, await this.#compress(headers)));
    return {
      id,
      ended,
      received: () => Buffer.concat(parts),
      write: (bytes, isLast = false) => {
        const payload = Buffer.from(bytes);
        this.#socket.write(Buffer.concat([dataHead(id, isLast, payload.length), payload]));
      },
    };
  }

  #compress(headers: Readonly<Record<string, string>>): Promise<Buffer> {
    const number = (value: number) => {
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32BE(value);
      return bytes;
    };
    const text = (word: string) => [number(word.length), Buffer.from(word)];
    const entries = Object.entries(headers);
    const block = Buffer.concat([
      number(entries.length),
      ...entries.flatMap(([name, value]) => [...text(name.toLowerCase()), ...text(value)]),
    ]);
    return new Promise((resolve) => {
      this.#deflate.write(block);
      this.#deflate.flush(constants.Z_SYNC_FLUSH, () =>
        resolve((this.#deflate.read() as Buffer | null) ?? Buffer.alloc(0)),
      );
    });
  }

  close(): void {
    this.#socket.end(goAway(0, 0));
  }

  destroy(): void {
    this.#socket.destroy();
  }
}
