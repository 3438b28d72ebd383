/**
 * A record as bytes: `{version, sha256, body}`, the hash over the body's bytes as written.
 */
import { hash } from "node:crypto";

const MAX_RECORD_BYTES = 16 * 1024 * 1024;
const HEADER = /^\{"version":(\d{1,9}),"sha256":"([0-9a-f]{64})","body":/;

export function encodeRecord(body: unknown, version: number): Buffer {
  const text = JSON.stringify(body);
  const sha256 = hash("sha256", text);
  return Buffer.from(`{"version":${version},"sha256":"${sha256}","body":${text}}\n`);
}

/** @throws Error what is wrong with the bytes, or what `parse` throws */
export function decodeRecord<T>(
  bytes: Buffer,
  options: {
    readonly version: number;
    readonly parse?: (body: unknown, version: number) => T;
  },
): T {
  if (bytes.length > MAX_RECORD_BYTES) throw new Error(`larger than ${MAX_RECORD_BYTES} bytes`);
  const text = bytes.toString("utf8");
  const header = HEADER.exec(text);
  if (!header) throw new Error("not a record: no version, checksum and body");
  const version = Number(header[1]);
  if (version > options.version) throw new Error(`version ${version} is newer than this program's ${options.version}`);
  const bodyText = text.slice(header[0].length, text.lastIndexOf("}"));
  const sha256 = hash("sha256", bodyText);
  if (sha256 !== header[2]) throw new Error("the checksum does not match the body");
  const body: unknown = JSON.parse(bodyText);
  return options.parse ? options.parse(body, version) : (body as T);
}
