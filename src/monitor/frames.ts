/**
 * The byte format of the monitor's protocol: a 32-bit little-endian length, then that many bytes.
 *
 * Knows nothing of JSON, requests or channels. native/monitor/PROTOCOL.md is the description.
 */
import { jsonToBytes } from "../base/byte-strings.js";
import { specToJson } from "../oci/json.js";

/** The most that a monitor answers in one frame: two captured streams of 16 MiB as base64. */
const MAX_FRAME_BYTES = 64 * 1024 * 1024;

/** Bytes of one stdin frame; a monitor refuses longer ones. */
export const MAX_STREAM_PAYLOAD_BYTES = 64 * 1024;

export const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, status: 3, resize: 4, close: 255 } as const;

export function encodeFrame(payload: Buffer): Buffer {
  const frame = Buffer.allocUnsafe(4 + payload.length);
  frame.writeUInt32LE(payload.length, 0);
  payload.copy(frame, 4);
  return frame;
}

export function encodeJson(value: object): Buffer {
  return encodeFrame(jsonToBytes(specToJson(value)));
}

export function encodeChannel(channel: number, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(5 + payload.length);
  frame.writeUInt32LE(payload.length + 1, 0);
  frame.writeUInt8(channel, 4);
  frame.set(payload, 5);
  return frame;
}

/** Cuts a byte stream into frames. */
export class FrameReader {
  #chunks: Buffer[] = [];
  #bufferedBytes = 0;

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#bufferedBytes += chunk.length;
  }

  /**
   * The next whole frame, or `undefined` until more bytes came.
   *
   * @throws RangeError where the length is beyond what a monitor sends: the stream is not one
   */
  next(): Buffer | undefined {
    if (this.#bufferedBytes < 4) return undefined;
    const size = this.#peekLength();
    if (size > MAX_FRAME_BYTES) throw new RangeError(`a frame of ${size} bytes is longer than ${MAX_FRAME_BYTES}`);
    if (this.#bufferedBytes < 4 + size) return undefined;
    const joined = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks);
    const rest = joined.subarray(4 + size);
    this.#chunks = rest.length > 0 ? [rest] : [];
    this.#bufferedBytes = rest.length;
    return joined.subarray(4, 4 + size);
  }

  #peekLength(): number {
    const first = this.#chunks[0] as Buffer;
    if (first.length >= 4) return first.readUInt32LE(0);
    this.#chunks = [Buffer.concat(this.#chunks)];
    return (this.#chunks[0] as Buffer).readUInt32LE(0);
  }
}
