/**
 * Conntrack entries: dumping and deleting them. Pure; linux/netfilter/nfnetlink_conntrack.h.
 */
import {
  attribute,
  NLM_F_DUMP,
  type NetlinkMessage,
  type NetlinkRequest,
  nested,
  parseAttributes,
  request,
} from "./message.js";

const SUBSYSTEM = 1;
const IPCTNL_MSG_CT_GET = 1;
const IPCTNL_MSG_CT_DELETE = 2;
const CTA_TUPLE_ORIG = 1;
const CTA_ID = 12;
const CTA_TUPLE_IP = 1;
const CTA_TUPLE_PROTO = 2;
const CTA_IP_V4_DST = 2;
const CTA_IP_V6_DST = 4;
const CTA_PROTO_NUM = 1;
const CTA_PROTO_DST_PORT = 3;
const AF_INET = 2;
const AF_INET6 = 10;

export interface ConntrackEntry {
  readonly family: 4 | 6;
  /** IPPROTO_*. */
  readonly protocol: number;
  /** Where the first packet was addressed to, before any rewriting. */
  readonly destination: Buffer;
  /** 0 for protocols without ports. */
  readonly destinationPort: number;
  /** CTA_TUPLE_ORIG and CTA_ID as dumped: they name the entry in a delete. */
  readonly tuple: Buffer;
  readonly id: Buffer | undefined;
}

function header(family: 4 | 6): Buffer {
  return Buffer.of(family === 4 ? AF_INET : AF_INET6, 0, 0, 0);
}

export function dumpConntrack(family: 4 | 6): NetlinkRequest {
  return request("IPCTNL_MSG_CT_GET", (SUBSYSTEM << 8) | IPCTNL_MSG_CT_GET, NLM_F_DUMP, [header(family)]);
}

/** `undefined` where the message is no entry. */
export function parseConntrack(message: NetlinkMessage): ConntrackEntry | undefined {
  const attributes = parseAttributes(message.payload, 4);
  const tuple = attributes.get(CTA_TUPLE_ORIG);
  if (!tuple) return undefined;
  const parts = parseAttributes(tuple);
  const ip = parseAttributes(parts.get(CTA_TUPLE_IP) ?? Buffer.alloc(0));
  const protocol = parseAttributes(parts.get(CTA_TUPLE_PROTO) ?? Buffer.alloc(0));
  const family = message.payload.readUInt8(0) === AF_INET ? 4 : 6;
  const destination = ip.get(family === 4 ? CTA_IP_V4_DST : CTA_IP_V6_DST);
  if (!destination) return undefined;
  return {
    family,
    protocol: protocol.get(CTA_PROTO_NUM)?.readUInt8(0) ?? 0,
    destination,
    destinationPort: protocol.get(CTA_PROTO_DST_PORT)?.readUInt16BE(0) ?? 0,
    tuple,
    id: attributes.get(CTA_ID),
  };
}

/** ENOENT: it is gone already. */
export function deleteConntrack(entry: ConntrackEntry): NetlinkRequest {
  const parts = [header(entry.family), nested(CTA_TUPLE_ORIG, [entry.tuple])];
  if (entry.id) parts.push(attribute(CTA_ID, entry.id));
  return request("IPCTNL_MSG_CT_DELETE", (SUBSYSTEM << 8) | IPCTNL_MSG_CT_DELETE, 0, parts);
}
