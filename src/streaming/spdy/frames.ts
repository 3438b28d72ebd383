/**
 * Frames of SPDY/3.1 as bytes (draft 3.1, section 2.2 and 2.6). Header blocks stay compressed.
 *
 *   control:  1|version 15|type 16|flags 8|length 24|payload        data:  0|stream 31|flags 8|length 24|payload
 */
import { protocolError } from "./header-block.js";

export const FRAME_TYPE = {
  synStream: 1,
  synReply: 2,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  headers: 8,
  windowUpdate: 9,
} as const;
export const FLAG_FIN = 0x01;
export const RST_STATUS = {
  protocolError: 1,
  invalidStream: 2,
  refusedStream: 3,
  cancel: 5,
  internalError: 6,
  streamInUse: 8,
  streamAlreadyClosed: 9,
} as const;

const VERSION = 3;
const HEAD_BYTES = 8;
/** Go's peers send 32 KiB; the length field would allow 16 MiB. */
const MAX_DATA_BYTES = 1024 * 1024;
const MAX_CONTROL_BYTES = 64 * 1024;

export type Frame =
  | { readonly type: "data"; readonly streamId: number; readonly isLast: boolean; readonly payload: Buffer }
  | {
      readonly type: "syn-stream";
      readonly streamId: number;
      readonly isLast: boolean;
      readonly isUnidirectional: boolean;
      readonly block: Buffer;
    }
  | {
      readonly type: "syn-reply" | "headers";
      readonly streamId: number;
      readonly isLast: boolean;
      readonly block: Buffer;
    }
  | { readonly type: "rst-stream"; readonly streamId: number; readonly status: number }
  | { readonly type: "ping"; readonly id: number }
  | { readonly type: "go-away"; readonly lastStreamId: number }
  | { readonly type: "window-update"; readonly streamId: number; readonly delta: number }
  | { readonly type: "ignored" };

/** Cuts a stream of bytes into frames. */
export class FrameReader {
  #chunks: Buffer[] = [];
  #length = 0;
  /** Of the frame that has begun, head included, once its head is there. */
  #wanted = HEAD_BYTES;

  /** @throws RuntimeError `invalid-argument` SPDY_PROTOCOL; nothing can be read after that */
  push(chunk: Buffer): Frame[] {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    const frames: Frame[] = [];
    while (this.#length >= this.#wanted) {
      const bytes = this.#joined();
      const length = bytes.readUInt32BE(4) & 0xffffff;
      const isControl = (bytes.readUInt8(0) & 0x80) !== 0;
      if (length > (isControl ? MAX_CONTROL_BYTES : MAX_DATA_BYTES)) throw protocolError(`a frame of ${length} bytes`);
      this.#wanted = HEAD_BYTES + length;
      if (bytes.length < this.#wanted) break;
      frames.push(parseFrame(bytes.subarray(0, HEAD_BYTES), bytes.subarray(HEAD_BYTES, this.#wanted), isControl));
      this.#chunks = [bytes.subarray(this.#wanted)];
      this.#length -= this.#wanted;
      this.#wanted = HEAD_BYTES;
    }
    return frames;
  }

  #joined(): Buffer {
    const [first, ...more] = this.#chunks;
    const bytes = first && more.length === 0 ? first : Buffer.concat(this.#chunks);
    this.#chunks = [bytes];
    return bytes;
  }
}

function parseFrame(head: Buffer, payload: Buffer, isControl: boolean): Frame {
  const flags = head.readUInt8(4);
  const isLast = (flags & FLAG_FIN) !== 0;
  if (!isControl) return { type: "data", streamId: head.readUInt32BE(0) & 0x7fffffff, isLast, payload };
  const version = head.readUInt16BE(0) & 0x7fff;
  if (version !== VERSION) throw protocolError(`version ${version} of a frame`);
  const type = head.readUInt16BE(2);
  const number = (at: number): number => {
    if (payload.length < at + 4) throw protocolError(`a frame of type ${type} with ${payload.length} bytes`);
    return payload.readUInt32BE(at);
  };
  const streamId = () => number(0) & 0x7fffffff;
  switch (type) {
    case FRAME_TYPE.synStream:
      number(6);
      return {
        type: "syn-stream",
        streamId: streamId(),
        isLast,
        isUnidirectional: (flags & 0x02) !== 0,
        block: payload.subarray(10),
      };
    case FRAME_TYPE.synReply:
      return { type: "syn-reply", streamId: streamId(), isLast, block: payload.subarray(4) };
    case FRAME_TYPE.headers:
      return { type: "headers", streamId: streamId(), isLast, block: payload.subarray(4) };
    case FRAME_TYPE.rstStream:
      return { type: "rst-stream", streamId: streamId(), status: number(4) };
    case FRAME_TYPE.ping:
      return { type: "ping", id: number(0) };
    case FRAME_TYPE.goAway:
      return { type: "go-away", lastStreamId: streamId() };
    case FRAME_TYPE.windowUpdate:
      return { type: "window-update", streamId: streamId(), delta: number(4) & 0x7fffffff };
    default:
      // SETTINGS, and what a later draft may add: "unknown control frames must be ignored".
      return { type: "ignored" };
  }
}

function controlFrame(type: number, flags: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt16BE(0x8000 | VERSION, 0);
  head.writeUInt16BE(type, 2);
  head.writeUInt32BE(((flags << 24) | payload.length) >>> 0, 4);
  return Buffer.concat([head, payload]);
}

function numbers(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [index, value] of values.entries()) bytes.writeUInt32BE(value >>> 0, index * 4);
  return bytes;
}

/** Only the head: the payload is written as it is, without a copy. */
export function dataHead(streamId: number, isLast: boolean, length: number): Buffer {
  return numbers(streamId, (((isLast ? FLAG_FIN : 0) << 24) | length) >>> 0);
}

/** @param priority 0, the highest, to 7 */
export function synStream(streamId: number, isLast: boolean, block: Buffer, priority = 0): Buffer {
  const head = Buffer.concat([numbers(streamId, 0), Buffer.from([priority << 5, 0])]);
  return controlFrame(FRAME_TYPE.synStream, isLast ? FLAG_FIN : 0, Buffer.concat([head, block]));
}

export function synReply(streamId: number, isLast: boolean, block: Buffer): Buffer {
  return controlFrame(FRAME_TYPE.synReply, isLast ? FLAG_FIN : 0, Buffer.concat([numbers(streamId), block]));
}

export function rstStream(streamId: number, status: number): Buffer {
  return controlFrame(FRAME_TYPE.rstStream, 0, numbers(streamId, status));
}

export function ping(id: number): Buffer {
  return controlFrame(FRAME_TYPE.ping, 0, numbers(id));
}

/** @param status 0: all is well */
export function goAway(lastStreamId: number, status: number): Buffer {
  return controlFrame(FRAME_TYPE.goAway, 0, numbers(lastStreamId, status));
}

export function windowUpdate(streamId: number, delta: number): Buffer {
  return controlFrame(FRAME_TYPE.windowUpdate, 0, numbers(streamId, delta));
}
