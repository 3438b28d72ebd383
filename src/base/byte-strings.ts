/**
 * Byte strings: any bytes as a JavaScript string that JSON can hold, and back, exactly.
 *
 * UTF-8 is decoded as usual; a byte that belongs to no UTF-8 sequence becomes the lone surrogate
 * U+DC80 to U+DCFF (Python's PEP 383), which no decoded text contains. Environment values are such bytes:
 * the kernel knows no encoding.
 */

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The bytes as a byte string. */
export function toByteString(bytes: Uint8Array): string {
  try {
    return decoder.decode(bytes);
  } catch {
    return decodePiecewise(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  }
}

function decodePiecewise(bytes: Buffer): string {
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const length = sequenceLength(bytes, at);
    text += length === 0 ? String.fromCharCode(0xdc00 + bytes.readUInt8(at)) : bytes.toString("utf8", at, at + length);
    at += length || 1;
  }
  return text;
}

/** Bytes of the UTF-8 sequence that begins here; 0 where none does. */
function sequenceLength(bytes: Buffer, at: number): number {
  const first = bytes.readUInt8(at);
  const length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  if (length < 2) return length;
  try {
    decoder.decode(bytes.subarray(at, at + length));
    return at + length <= bytes.length ? length : 0;
  } catch {
    return 0;
  }
}

const ESCAPED_BYTE = /[\udc80-\udcff]/;

/** The bytes of a byte string; of ordinary text, its UTF-8. */
export function fromByteString(text: string): Buffer {
  if (!ESCAPED_BYTE.test(text)) return Buffer.from(text, "utf8");
  const parts: Buffer[] = [];
  let pending = "";
  for (const character of text) {
    const code = character.charCodeAt(0);
    if (character.length === 1 && code >= 0xdc80 && code <= 0xdcff) {
      parts.push(Buffer.from(pending, "utf8"), Buffer.from([code - 0xdc00]));
      pending = "";
    } else {
      pending += character;
    }
  }
  return Buffer.concat([...parts, Buffer.from(pending, "utf8")]);
}

/**
 * JSON with the bytes themselves where strings are byte strings: what a reader gets that treats JSON
 * strings as bytes, as the native core does.
 *
 * @param json as JSON.stringify writes it: lone surrogates are `\udcXX` there
 */
export function jsonToBytes(json: string): Buffer {
  if (!json.includes("\\udc")) return Buffer.from(json, "utf8");
  // Whole escapes are matched, so that `\\udcff`, a backslash and text, stays what it is.
  const raw = json.replace(/\\(u[0-9a-f]{4}|.)/g, (escape: string, name: string) =>
    /^udc[89a-f][0-9a-f]$/.test(name) ? String.fromCharCode(Number.parseInt(name.slice(1), 16)) : escape,
  );
  return fromByteString(raw);
}
