/**
 * Name/value header blocks of SPDY/3 (draft 3.1, section 2.6.10) and their compression: one zlib
 * stream per direction for the life of a connection.
 *
 * What we send is tiny and rare, so it goes out as stored blocks of deflate (RFC 1951, 3.2.4): a
 * valid zlib stream without the quarter megabyte that a compressor keeps for each connection.
 */
import { constants, createInflate, type Inflate, type ZlibOptions } from "node:zlib";
import { RuntimeError } from "../../base/errors.js";
import { DICTIONARY, DICTIONARY_ID } from "./dictionary.js";

/** Names in lower case. Values of one name that were sent apart are joined by NUL. */
export type Headers = ReadonlyMap<string, string>;

/** Of a decompressed block: far above what Kubernetes sends, far below what a bomb would. */
const MAX_BLOCK_BYTES = 64 * 1024;
const MAX_PAIRS = 128;
const MAX_STORED_BYTES = 0xffff;

export class HeaderEncoder {
  #isStarted = false;

  /** The compressed block; blocks must be sent in the order in which they were encoded. */
  encode(headers: Headers): Buffer {
    const parts: Buffer[] = [];
    if (!this.#isStarted) {
      // RFC 1950: deflate with a 32 KiB window; FDICT, check bits; then the dictionary's id.
      const start = Buffer.from([0x78, 0xbb, 0, 0, 0, 0]);
      start.writeUInt32BE(DICTIONARY_ID, 2);
      parts.push(start);
      this.#isStarted = true;
    }
    const block = encodePairs(headers);
    for (let at = 0; at < block.length; at += MAX_STORED_BYTES) {
      const piece = block.subarray(at, at + MAX_STORED_BYTES);
      const head = Buffer.alloc(5);
      head.writeUInt16LE(piece.length, 1);
      head.writeUInt16LE(~piece.length & 0xffff, 3);
      parts.push(head, piece);
    }
    // What zlib's Z_SYNC_FLUSH ends with: Go's reader hands out stored bytes only when it sees an empty block.
    parts.push(Buffer.from([0, 0, 0, 0xff, 0xff]));
    return Buffer.concat(parts);
  }
}

/** Blocks must be decoded one after another, in the order of their arrival. */
export class HeaderDecoder {
  // A Transform takes highWaterMark too; the types of zlib do not say so.
  readonly #inflate: Inflate = createInflate({
    dictionary: DICTIONARY,
    flush: constants.Z_SYNC_FLUSH,
    chunkSize: 4096,
    highWaterMark: MAX_BLOCK_BYTES,
  } as ZlibOptions);

  /** @throws RuntimeError `invalid-argument` SPDY_PROTOCOL */
  decode(compressed: Buffer): Promise<Headers> {
    const inflate = this.#inflate;
    return new Promise((resolve, reject) => {
      const settle = (err?: Error | null) => {
        inflate.off("error", settle);
        inflate.off("readable", checkSize);
        if (err) return reject(protocolError(`a header block that cannot be decompressed: ${err.message}`));
        try {
          resolve(decodePairs((inflate.read() as Buffer | null) ?? Buffer.alloc(0)));
        } catch (failure) {
          reject(failure);
        }
      };
      // At the high-water mark zlib stops and the write would never be called back.
      const checkSize = () => {
        if (inflate.readableLength >= MAX_BLOCK_BYTES)
          inflate.destroy(new Error(`larger than ${MAX_BLOCK_BYTES} bytes`));
      };
      inflate.once("error", settle);
      inflate.on("readable", checkSize);
      inflate.write(compressed, settle);
    });
  }

  /** Gives the decompressor's memory back. */
  close(): void {
    this.#inflate.on("error", () => undefined);
    this.#inflate.destroy();
  }
}

export function protocolError(message: string): RuntimeError {
  return new RuntimeError(`SPDY: ${message}`, { kind: "invalid-argument", code: "SPDY_PROTOCOL" });
}

function encodePairs(headers: Headers): Buffer {
  const parts: Buffer[] = [];
  const number = (value: number) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value);
    parts.push(bytes);
  };
  number(headers.size);
  for (const text of [...headers].flat()) {
    const bytes = Buffer.from(text, "utf8");
    number(bytes.length);
    parts.push(bytes);
  }
  return Buffer.concat(parts);
}

function decodePairs(block: Buffer): Headers {
  let at = 0;
  const number = (): number => {
    if (at + 4 > block.length) throw protocolError("a header block ends within a number");
    at += 4;
    return block.readUInt32BE(at - 4);
  };
  const text = (): string => {
    const length = number();
    if (length > block.length - at) throw protocolError("a header block ends within a text");
    at += length;
    return block.toString("utf8", at - length, at);
  };
  const count = number();
  if (count > MAX_PAIRS) throw protocolError(`${count} headers in one block`);
  const headers = new Map<string, string>();
  for (let i = 0; i < count; i++) {
    const name = text().toLowerCase();
    headers.set(name, text());
  }
  if (at !== block.length) throw protocolError("bytes after the last header of a block");
  return headers;
}
