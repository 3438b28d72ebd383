/**
 * Netlink messages as bytes: headers, attributes, answers. Pure; netlink(7).
 *
 * Numbers of a header and of rtnetlink attributes are in the machine's byte order, which is
 * little-endian on every machine that minke is built for (x64, arm64); nftables and conntrack
 * attributes are big-endian.
 */

export const NLM_F_REQUEST = 0x1;
export const NLM_F_ACK = 0x4;
export const NLM_F_DUMP = 0x300;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;

export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;

export const HEADER_BYTES = 16;
const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;
const NLM_F_ACK_TLVS = 0x200;
const NLMSGERR_ATTR_MSG = 1;

/** One message of a batch. Its sequence number is set when the batch is sent. */
export interface NetlinkRequest {
  /** The kernel's name, as errors show it: `RTM_NEWLINK`. */
  readonly name: string;
  readonly bytes: Buffer;
  /** False for the brackets of an nfnetlink batch, which nobody answers. */
  readonly isAnswered: boolean;
}

export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly payload: Buffer;
}

export function u8(value: number): Buffer {
  return Buffer.of(value);
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

export function be16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

/** Negative values as two's complement: nftables priorities and verdicts. */
export function be32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

/** A string as the kernel wants it: with its terminating NUL. */
export function text(value: string): Buffer {
  return Buffer.from(`${value}\0`, "utf8");
}

function aligned(length: number): number {
  return (length + 3) & ~3;
}

/** One attribute, padded to four bytes. */
export function attribute(type: number, value: Buffer): Buffer {
  const bytes = Buffer.alloc(aligned(4 + value.length));
  bytes.writeUInt16LE(4 + value.length, 0);
  bytes.writeUInt16LE(type, 2);
  value.copy(bytes, 4);
  return bytes;
}

export function nested(type: number, attributes: readonly Buffer[]): Buffer {
  return attribute(type | NLA_F_NESTED, Buffer.concat(attributes));
}

/** A request that is acknowledged, or with NLM_F_DUMP answered up to NLMSG_DONE. */
export function request(name: string, type: number, flags: number, parts: readonly Buffer[]): NetlinkRequest {
  const isDump = (flags & NLM_F_DUMP) === NLM_F_DUMP;
  return { name, bytes: message(type, flags | NLM_F_REQUEST | (isDump ? 0 : NLM_F_ACK), parts), isAnswered: true };
}

export function message(type: number, flags: number, parts: readonly Buffer[]): Buffer {
  const payload = Buffer.concat(parts);
  const bytes = Buffer.alloc(aligned(HEADER_BYTES + payload.length));
  bytes.writeUInt32LE(HEADER_BYTES + payload.length, 0);
  bytes.writeUInt16LE(type, 4);
  bytes.writeUInt16LE(flags, 6);
  payload.copy(bytes, HEADER_BYTES);
  return bytes;
}

/** The requests as one buffer, numbered from `firstSequence` on. */
export function batch(requests: readonly NetlinkRequest[], firstSequence: number): Buffer {
  const bytes = Buffer.concat(requests.map(({ bytes }) => bytes));
  let offset = 0;
  requests.forEach((request, index) => {
    bytes.writeUInt32LE((firstSequence + index) >>> 0, offset + 8);
    offset += request.bytes.length;
  });
  return bytes;
}

/** @throws RangeError where a length is impossible: the kernel never sends that */
export function parseMessages(bytes: Buffer): NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  for (let offset = 0; offset + HEADER_BYTES <= bytes.length; ) {
    const length = bytes.readUInt32LE(offset);
    if (length < HEADER_BYTES || offset + length > bytes.length)
      throw new RangeError(`netlink message of ${length} bytes`);
    messages.push({
      type: bytes.readUInt16LE(offset + 4),
      flags: bytes.readUInt16LE(offset + 6),
      sequence: bytes.readUInt32LE(offset + 8),
      payload: bytes.subarray(offset + HEADER_BYTES, offset + length),
    });
    offset += aligned(length);
  }
  return messages;
}

/** Attributes by type; of one that comes twice the last. @param offset where they start: after the family's own header */
export function parseAttributes(bytes: Buffer, offset = 0): Map<number, Buffer> {
  const attributes = new Map<number, Buffer>();
  for (let at = offset; at + 4 <= bytes.length; ) {
    const length = bytes.readUInt16LE(at);
    if (length < 4 || at + length > bytes.length) throw new RangeError(`netlink attribute of ${length} bytes`);
    attributes.set(bytes.readUInt16LE(at + 2) & NLA_TYPE_MASK, bytes.subarray(at + 4, at + length));
    at += aligned(length);
  }
  return attributes;
}

export interface NetlinkAnswer {
  /** Positive; 0: done as asked. */
  readonly errno: number;
  /** The kernel's explanation (NETLINK_EXT_ACK), without a full stop. */
  readonly detail: string | undefined;
}

/** Reads NLMSG_ERROR, which is also the acknowledgement, and NLMSG_DONE. */
export function parseAnswer(answer: NetlinkMessage): NetlinkAnswer {
  const errno = answer.payload.length >= 4 ? 0 - answer.payload.readInt32LE(0) : 0;
  if ((answer.flags & NLM_F_ACK_TLVS) === 0) return { errno, detail: undefined };
  // With NETLINK_CAP_ACK only the header of the request is repeated; NLMSG_DONE repeats nothing.
  const offset = answer.type === NLMSG_ERROR ? 4 + HEADER_BYTES : 4;
  const detail = parseAttributes(answer.payload, offset).get(NLMSGERR_ATTR_MSG);
  return { errno, detail: detail && parseText(detail).replace(/\.$/, "") };
}

/** A string attribute without its NUL. */
export function parseText(value: Buffer): string {
  const end = value.indexOf(0);
  return value.toString("utf8", 0, end < 0 ? value.length : end);
}
