/**
 * nftables requests: tables, chains, maps, rules and elements. Pure; linux/netfilter/nf_tables.h.
 *
 * Attribute numbers are big-endian; what rules compare with is in the byte order of the thing
 * compared: network order for packets, the machine's for marks, states and types.
 */
import {
  attribute,
  be16,
  be32,
  message,
  NLM_F_CREATE,
  NLM_F_DUMP,
  type NetlinkMessage,
  type NetlinkRequest,
  nested,
  parseAttributes,
  request,
  text,
  u8,
  u32,
} from "./message.js";

export const NFPROTO_INET = 1;
export const NFPROTO_IPV4 = 2;
export const NFPROTO_IPV6 = 10;

const SUBSYSTEM = 10;
const NFNL_MSG_BATCH_BEGIN = 0x10;
const NFNL_MSG_BATCH_END = 0x11;
const MSG = {
  NEWTABLE: 0,
  DELTABLE: 2,
  NEWCHAIN: 3,
  NEWRULE: 6,
  GETRULE: 7,
  NEWSET: 9,
  NEWSETELEM: 12,
  GETSETELEM: 13,
  DELSETELEM: 14,
  GETGEN: 16,
} as const;

const NFGENMSG_BYTES = 4;
const LIST_ELEM = 1;
const NFT_SET_MAP = 8;
const NFT_META = { nfproto: 15, l4proto: 16, iifname: 6, oifname: 7 } as const;
const NFT_CT_STATUS = 2;
const NFT_FIB_RESULT_ADDRTYPE = 3;
const NFTA_FIB_F_DADDR = 2;
const RTN_LOCAL = 2;
const IPS_DST_NAT = 1 << 5;
const NFT_CMP = { "==": 0, "!=": 1 } as const;
const NFT_NAT_DNAT = 1;
const NF_DROP = 0;
const NFT_JUMP = -3;
const NFT_REG_VERDICT = 0;
/** The first 4-byte register; consecutive ones hold a concatenation. It is also where NFT_REG_1 begins. */
const REG = 8;

// nft's own numbers of data types (nftables: include/datatype.h): they let `nft list` print the maps.
const TYPE = { ipv4_addr: 7, ipv6_addr: 8, inet_proto: 12, inet_service: 13 } as const;
const TYPE_BYTES = { ipv4_addr: 4, ipv6_addr: 16, inet_proto: 4, inet_service: 4 } as const;
const TYPE_BITS = 6;

export type FieldType = keyof typeof TYPE;

/** Bytes of one expression of a rule. */
export type Expression = Buffer;

function nfgenmsg(family: number, resourceId = 0): Buffer {
  return Buffer.concat([u8(family), u8(0), be16(resourceId)]);
}

function nftRequest(name: keyof typeof MSG, flags: number, attributes: readonly Buffer[]): NetlinkRequest {
  return request(`NFT_MSG_${name}`, (SUBSYSTEM << 8) | MSG[name], flags, [nfgenmsg(NFPROTO_INET), ...attributes]);
}

/** Brackets requests into one transaction: all of them or none. */
export function transaction(requests: readonly NetlinkRequest[]): NetlinkRequest[] {
  const bracket = (name: string, type: number): NetlinkRequest => ({
    name,
    bytes: message(type, 1, [nfgenmsg(0, SUBSYSTEM)]),
    isAnswered: false,
  });
  return [
    bracket("NFNL_MSG_BATCH_BEGIN", NFNL_MSG_BATCH_BEGIN),
    ...requests,
    bracket("NFNL_MSG_BATCH_END", NFNL_MSG_BATCH_END),
  ];
}

export function addTable(table: string): NetlinkRequest {
  return nftRequest("NEWTABLE", NLM_F_CREATE, [attribute(1, text(table)), attribute(2, be32(0))]);
}

export function deleteTable(table: string): NetlinkRequest {
  return nftRequest("DELTABLE", 0, [attribute(1, text(table))]);
}

export interface BaseChain {
  readonly type: "nat" | "filter";
  readonly hook: "prerouting" | "output" | "postrouting" | "forward";
  readonly priority: number;
}

const NF_HOOK = { prerouting: 0, forward: 2, output: 3, postrouting: 4 } as const;

/** Without `base` a chain that others jump to. */
export function addChain(table: string, chain: string, base?: BaseChain): NetlinkRequest {
  const attributes = [attribute(1, text(table)), attribute(3, text(chain))];
  if (base) {
    const hook = nested(4, [attribute(1, be32(NF_HOOK[base.hook])), attribute(2, be32(base.priority))]);
    attributes.push(hook, attribute(7, text(base.type)));
  }
  return nftRequest("NEWCHAIN", NLM_F_CREATE, attributes);
}

export interface MapShape {
  readonly name: string;
  readonly key: readonly FieldType[];
  readonly value: readonly FieldType[];
}

function concatenation(fields: readonly FieldType[]): { type: number; bytes: number } {
  return {
    type: fields.reduce((type, field) => (type << TYPE_BITS) | TYPE[field], 0),
    bytes: fields.reduce((bytes, field) => bytes + TYPE_BYTES[field], 0),
  };
}

/** @param id distinct within one transaction */
export function addMap(table: string, shape: MapShape, id: number): NetlinkRequest {
  const key = concatenation(shape.key);
  const value = concatenation(shape.value);
  return nftRequest("NEWSET", NLM_F_CREATE, [
    attribute(1, text(table)),
    attribute(2, text(shape.name)),
    attribute(3, be32(NFT_SET_MAP)),
    attribute(4, be32(key.type)),
    attribute(5, be32(key.bytes)),
    attribute(6, be32(value.type)),
    attribute(7, be32(value.bytes)),
    attribute(10, be32(id)),
  ]);
}

/** Fields in the map's order, each in network byte order; shorter ones are padded to four bytes. */
export interface MapElement {
  readonly key: readonly Buffer[];
  readonly value: readonly Buffer[];
}

function padded(fields: readonly Buffer[]): Buffer {
  return Buffer.concat(fields.flatMap((field) => [field, Buffer.alloc(-field.length & 3)]));
}

function elementList(table: string, map: string, elements: readonly Buffer[][]): Buffer[] {
  return [
    attribute(1, text(table)),
    attribute(2, text(map)),
    nested(
      3,
      elements.map((element) => nested(LIST_ELEM, element)),
    ),
  ];
}

const keyAttribute = (element: MapElement): Buffer => nested(1, [attribute(1, padded(element.key))]);

/** Adding an element that is there with the same value succeeds; with another value: EEXIST. */
export function addElements(table: string, map: string, elements: readonly MapElement[]): NetlinkRequest {
  const encoded = elements.map((element) => [keyAttribute(element), nested(2, [attribute(1, padded(element.value))])]);
  return nftRequest("NEWSETELEM", NLM_F_CREATE, elementList(table, map, encoded));
}

/** ENOENT where one is not there; then none of the transaction is removed. */
export function deleteElements(table: string, map: string, elements: readonly MapElement[]): NetlinkRequest {
  return nftRequest(
    "DELSETELEM",
    0,
    elementList(
      table,
      map,
      elements.map((element) => [keyAttribute(element)]),
    ),
  );
}

/** Appends a rule. */
export function addRule(table: string, chain: string, expressions: readonly Expression[]): NetlinkRequest {
  const NLM_F_APPEND = 0x800;
  return nftRequest("NEWRULE", NLM_F_CREATE | NLM_F_APPEND, [
    attribute(1, text(table)),
    attribute(2, text(chain)),
    nested(4, expressions),
  ]);
}

/** Asks how often any ruleset of the network namespace has been changed. */
export function getGeneration(): NetlinkRequest {
  return nftRequest("GETGEN", 0, []);
}

/** `undefined` where the message is no answer to `getGeneration`. */
export function parseGeneration(message: NetlinkMessage | undefined): number | undefined {
  return message && parseAttributes(message.payload, NFGENMSG_BYTES).get(1)?.readUInt32BE(0);
}

/** One message a rule; none where the table is missing. */
export function dumpRules(table: string): NetlinkRequest {
  return nftRequest("GETRULE", NLM_F_DUMP, [attribute(1, text(table))]);
}

/** ENOENT where the table or the map is missing. */
export function dumpElements(table: string, map: string): NetlinkRequest {
  return nftRequest("GETSETELEM", NLM_F_DUMP, [attribute(1, text(table)), attribute(2, text(map))]);
}

/** Of one message of a dump of elements. */
export function elementCount(message: NetlinkMessage): number {
  const list = parseAttributes(message.payload, NFGENMSG_BYTES).get(3) ?? Buffer.alloc(0);
  let count = 0;
  for (let at = 0; at + 4 <= list.length; at += Math.max(4, (list.readUInt16LE(at) + 3) & ~3)) count++;
  return count;
}

function expression(name: string, attributes: readonly Buffer[]): Expression {
  return nested(LIST_ELEM, [attribute(1, text(name)), nested(2, attributes)]);
}

function loadMeta(key: keyof typeof NFT_META, register: number): Expression {
  return expression("meta", [attribute(2, be32(NFT_META[key])), attribute(1, be32(register))]);
}

function loadPayload(base: "network" | "transport", offset: number, bytes: number, register: number): Expression {
  return expression("payload", [
    attribute(1, be32(register)),
    attribute(2, be32(base === "network" ? 1 : 2)),
    attribute(3, be32(offset)),
    attribute(4, be32(bytes)),
  ]);
}

function compare(register: number, operator: keyof typeof NFT_CMP, value: Buffer): Expression {
  return expression("cmp", [
    attribute(1, be32(register)),
    attribute(2, be32(NFT_CMP[operator])),
    nested(3, [attribute(1, value)]),
  ]);
}

function mask(register: number, bits: Buffer): Expression {
  const value = (type: number, bytes: Buffer): Buffer => nested(type, [attribute(1, bytes)]);
  return expression("bitwise", [
    attribute(1, be32(register)),
    attribute(2, be32(register)),
    attribute(3, be32(bits.length)),
    value(4, bits),
    value(5, Buffer.alloc(bits.length)),
  ]);
}

/** `meta nfproto ipv4` */
export function matchFamily(family: 4 | 6): Expression[] {
  return [loadMeta("nfproto", REG), compare(REG, "==", u8(family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6))];
}

/** `iifname "x"`, `oifname != "x"`. @param name at most 15 bytes */
export function matchLink(key: "iifname" | "oifname", operator: "==" | "!=", name: string): Expression[] {
  const bytes = Buffer.alloc(16);
  bytes.write(name, "utf8");
  return [loadMeta(key, REG), compare(REG, operator, bytes)];
}

/** `ip saddr 10.88.0.0/16`. @param netmask as long as the address */
export function matchAddress(
  field: "saddr" | "daddr",
  operator: "==" | "!=",
  network: Buffer,
  netmask: Buffer,
): Expression[] {
  const offset = network.length === 4 ? { saddr: 12, daddr: 16 } : { saddr: 8, daddr: 24 };
  return [
    loadPayload("network", offset[field], network.length, REG),
    mask(REG, netmask),
    compare(REG, operator, network),
  ];
}

/** `ct status dnat`: a connection whose destination some rule has rewritten. */
export function matchDnatted(): Expression[] {
  const load = expression("ct", [attribute(2, be32(NFT_CT_STATUS)), attribute(1, be32(REG))]);
  return [load, mask(REG, u32(IPS_DST_NAT)), compare(REG, "!=", u32(0))];
}

/** `ct status != dnat` */
export function matchNotDnatted(): Expression[] {
  const load = expression("ct", [attribute(2, be32(NFT_CT_STATUS)), attribute(1, be32(REG))]);
  return [load, mask(REG, u32(IPS_DST_NAT)), compare(REG, "==", u32(0))];
}

/** `fib daddr type local`: addressed to the host itself. */
export function matchLocalDestination(): Expression[] {
  const load = expression("fib", [
    attribute(1, be32(REG)),
    attribute(2, be32(NFT_FIB_RESULT_ADDRTYPE)),
    attribute(3, be32(NFTA_FIB_F_DADDR)),
  ]);
  return [load, compare(REG, "==", u32(RTN_LOCAL))];
}

/** `ip6 daddr != ::1` and the like: exactly this address, or any but it. */
export function matchExactly(field: "saddr" | "daddr", operator: "==" | "!=", address: Buffer): Expression[] {
  return matchAddress(field, operator, address, Buffer.alloc(address.length, 0xff));
}

export function drop(): Expression[] {
  return [verdict([attribute(1, be32(NF_DROP))])];
}

export function jump(chain: string): Expression[] {
  return [verdict([attribute(1, be32(NFT_JUMP)), attribute(2, text(chain))])];
}

function verdict(attributes: readonly Buffer[]): Expression {
  return expression("immediate", [attribute(1, be32(NFT_REG_VERDICT)), nested(2, [nested(2, attributes)])]);
}

export function masquerade(): Expression[] {
  return [expression("masq", [])];
}

/**
 * `dnat to [ip daddr .] meta l4proto . th dport map @name`: looks the destination up and
 * rewrites address and port; no element, no match.
 */
export function dnatByMap(map: string, family: 4 | 6, withDestination: boolean): Expression[] {
  const addressBytes = family === 4 ? 4 : 16;
  const words = withDestination ? addressBytes / 4 : 0;
  const destination = withDestination ? [loadPayload("network", family === 4 ? 16 : 24, addressBytes, REG)] : [];
  const lookup = expression("lookup", [attribute(2, be32(REG)), attribute(1, text(map)), attribute(3, be32(REG))]);
  const nat = expression("nat", [
    attribute(1, be32(NFT_NAT_DNAT)),
    attribute(2, be32(family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6)),
    attribute(3, be32(REG)),
    attribute(5, be32(REG + addressBytes / 4)),
  ]);
  return [
    ...destination,
    loadMeta("l4proto", REG + words),
    loadPayload("transport", 2, 2, REG + words + 1),
    lookup,
    nat,
  ];
}
