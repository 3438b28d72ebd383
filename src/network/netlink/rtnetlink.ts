/**
 * rtnetlink requests for links, addresses and routes, and reading their dumps. Pure; rtnetlink(7).
 */
import { type Address, addressBytes, formatAddress } from "../address.js";
import {
  attribute,
  HEADER_BYTES,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
  type NetlinkMessage,
  type NetlinkRequest,
  nested,
  parseAttributes,
  parseText,
  request,
  text,
  u8,
  u32,
} from "./message.js";

const AF_INET = 2;
const AF_INET6 = 10;

const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const RTM_GETLINK = 18;
const RTM_SETLINK = 19;
const RTM_NEWADDR = 20;
const RTM_GETADDR = 22;
const RTM_NEWROUTE = 24;
const RTM_GETROUTE = 26;

// linux/if_link.h
const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_LINK = 5;
const IFLA_MASTER = 10;
const IFLA_LINKINFO = 18;
const IFLA_IFALIAS = 20;
const IFLA_GROUP = 27;
const IFLA_NET_NS_FD = 28;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const IFLA_INFO_SLAVE_KIND = 4;
const IFLA_INFO_SLAVE_DATA = 5;
const IFLA_BR_FORWARD_DELAY = 1;
const IFLA_BR_STP_STATE = 5;
const IFLA_BR_MCAST_SNOOPING = 23;
const IFLA_BRPORT_MODE = 4;
const VETH_INFO_PEER = 1;

const IFF_UP = 1;
const IFF_LOOPBACK = 8;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_BROADCAST = 4;
const IFA_FLAGS = 8;
const IFA_F_NODAD = 0x02;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_PRIORITY = 6;
const RT_TABLE_MAIN = 254;
const RT_TABLE_LOCAL = 255;
const RTPROT_STATIC = 4;
const RTN_UNICAST = 1;
const RTN_LOCAL = 2;
/** Behind lo's, which has 0. */
const LOOPBACK_ROUTE_METRIC = 2000;

export const LOOPBACK_INDEX = 1;

function ifinfomsg(fields: { index?: number; up?: boolean } = {}): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeInt32LE(fields.index ?? 0, 4);
  if (fields.up !== undefined) {
    bytes.writeUInt32LE(fields.up ? IFF_UP : 0, 8);
    bytes.writeUInt32LE(IFF_UP, 12);
  }
  return bytes;
}

/** A bridge, still down, that forwards at once: no spanning tree, no forward delay, no snooping (it delays neighbour discovery). */
export function createBridge(bridge: { name: string; mac: Buffer; mtu: number }): NetlinkRequest {
  return request("RTM_NEWLINK", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, [
    ifinfomsg(),
    attribute(IFLA_IFNAME, text(bridge.name)),
    attribute(IFLA_ADDRESS, bridge.mac),
    attribute(IFLA_MTU, u32(bridge.mtu)),
    nested(IFLA_LINKINFO, [
      attribute(IFLA_INFO_KIND, text("bridge")),
      nested(IFLA_INFO_DATA, [
        attribute(IFLA_BR_STP_STATE, u32(0)),
        attribute(IFLA_BR_FORWARD_DELAY, u32(0)),
        attribute(IFLA_BR_MCAST_SNOOPING, u8(0)),
      ]),
    ]),
  ]);
}

export interface VethPair {
  readonly hostName: string;
  /** The bridge that the host's end becomes a port of. */
  readonly bridgeIndex: number;
  /** Where the pod's end is born: never visible in the host. 0 where it is written in later. */
  readonly netnsFd: number;
  readonly podName: string;
  readonly podMac: Buffer;
  readonly mtu: number;
}

/** A request with a number of 32 bits that may be known only when it is sent. */
export interface PlacedRequest extends NetlinkRequest {
  /** Where in its bytes that is. */
  readonly at: number;
}

/**
 * Both ends in one message. The pod's end must be born down: an IFF_UP in VETH_INFO_PEER would
 * open it before it is paired, ENOTCONN (drivers/net/veth.c). Placed is the namespace's descriptor.
 */
export function createVeth(pair: VethPair): PlacedRequest {
  const peer = Buffer.concat([
    ifinfomsg(),
    attribute(IFLA_IFNAME, text(pair.podName)),
    attribute(IFLA_ADDRESS, pair.podMac),
    attribute(IFLA_MTU, u32(pair.mtu)),
    attribute(IFLA_NET_NS_FD, u32(pair.netnsFd)),
  ]);
  const made = request("RTM_NEWLINK", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, [
    ifinfomsg({ up: true }),
    attribute(IFLA_IFNAME, text(pair.hostName)),
    attribute(IFLA_MTU, u32(pair.mtu)),
    attribute(IFLA_MASTER, u32(pair.bridgeIndex)),
    nested(IFLA_LINKINFO, [
      attribute(IFLA_INFO_KIND, text("veth")),
      nested(IFLA_INFO_DATA, [nested(VETH_INFO_PEER, [peer])]),
    ]),
  ]);
  // The last of all attributes.
  return { ...made, at: made.bytes.length - 4 };
}

/** Makes a link a port of a bridge. A port's own settings need a message after this one: EOPNOTSUPP. */
export function setMaster(name: string, bridgeIndex: number): NetlinkRequest {
  return request("RTM_SETLINK", RTM_SETLINK, 0, [
    ifinfomsg({ up: true }),
    attribute(IFLA_IFNAME, text(name)),
    attribute(IFLA_MASTER, u32(bridgeIndex)),
  ]);
}

/**
 * Marks a port as ours and lets a frame go back out of the port it came in by: with br_netfilter
 * a pod's connection to its own host port is bridged, not routed.
 */
export function configurePort(name: string, alias: string): NetlinkRequest {
  return request("RTM_NEWLINK", RTM_NEWLINK, 0, [
    ifinfomsg(),
    attribute(IFLA_IFNAME, text(name)),
    attribute(IFLA_IFALIAS, text(alias)),
    nested(IFLA_LINKINFO, [
      attribute(IFLA_INFO_SLAVE_KIND, text("bridge")),
      nested(IFLA_INFO_SLAVE_DATA, [attribute(IFLA_BRPORT_MODE, u8(1))]),
    ]),
  ]);
}

export function setAlias(name: string, alias: string): NetlinkRequest {
  return request("RTM_SETLINK", RTM_SETLINK, 0, [
    ifinfomsg(),
    attribute(IFLA_IFNAME, text(name)),
    attribute(IFLA_IFALIAS, text(alias)),
  ]);
}

/** By name; answers one link (`parseLink`). */
export function getLink(name: string): NetlinkRequest {
  return request("RTM_GETLINK", RTM_GETLINK, 0, [ifinfomsg(), attribute(IFLA_IFNAME, text(name))]);
}

/** Placed is the index, here and in the next two. */
export function setLinkUp(index: number): PlacedRequest {
  return { ...request("RTM_SETLINK", RTM_SETLINK, 0, [ifinfomsg({ index, up: true })]), at: HEADER_BYTES + 4 };
}

/** Down, off its bridge and in the group that the reaper deletes: 0.1 ms, where deleting takes 40. */
export function retireLink(name: string, group: number): NetlinkRequest {
  return request("RTM_SETLINK", RTM_SETLINK, 0, [
    ifinfomsg({ up: false }),
    attribute(IFLA_IFNAME, text(name)),
    attribute(IFLA_GROUP, u32(group)),
    attribute(IFLA_MASTER, u32(0)),
  ]);
}

/** Every link of a group in one go. Blocks for about 40 ms; ENODEV: there is none. */
export function deleteLinkGroup(group: number): NetlinkRequest {
  return request("RTM_DELLINK", RTM_DELLINK, 0, [ifinfomsg(), attribute(IFLA_GROUP, u32(group))]);
}

export function deleteLink(name: string): NetlinkRequest {
  return request("RTM_DELLINK", RTM_DELLINK, 0, [ifinfomsg(), attribute(IFLA_IFNAME, text(name))]);
}

/** Usable at once: IPv6 without duplicate address detection. */
export function addAddress(index: number, address: Address, prefixLength: number): PlacedRequest {
  const bytes = addressBytes(address);
  const header = Buffer.alloc(8);
  header.writeUInt8(address.family === 4 ? AF_INET : AF_INET6, 0);
  header.writeUInt8(prefixLength, 1);
  header.writeUInt32LE(index, 4);
  const parts = [header, attribute(IFA_LOCAL, bytes), attribute(IFA_ADDRESS, bytes)];
  if (address.family === 4) {
    const hostBits = (1n << BigInt(32 - prefixLength)) - 1n;
    parts.push(attribute(IFA_BROADCAST, addressBytes({ family: 4, value: address.value | hostBits })));
  } else {
    parts.push(attribute(IFA_FLAGS, u32(IFA_F_NODAD)));
  }
  return { ...request("RTM_NEWADDR", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, parts), at: HEADER_BYTES + 4 };
}

export function addDefaultRoute(index: number, gateway: Address): PlacedRequest {
  const header = Buffer.alloc(12);
  header.writeUInt8(gateway.family === 4 ? AF_INET : AF_INET6, 0);
  header.writeUInt8(RT_TABLE_MAIN, 4);
  header.writeUInt8(RTPROT_STATIC, 5);
  header.writeUInt8(RTN_UNICAST, 7);
  const made = request("RTM_NEWROUTE", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, [
    header,
    attribute(RTA_GATEWAY, addressBytes(gateway)),
    attribute(RTA_OIF, u32(index)),
  ]);
  return { ...made, at: made.bytes.length - 4 };
}

/**
 * `local ::1 dev <bridge> table local`, behind lo's own. IPv6 takes an answer that conntrack has
 * turned back to ::1 only where a route to ::1 is on the link that it came in by
 * (rt6_need_strict of net/ipv6/route.c); it is IPv6's stand-in for route_localnet.
 */
export function addLoopbackRoute(index: number): NetlinkRequest {
  const header = Buffer.alloc(12);
  header.writeUInt8(AF_INET6, 0);
  header.writeUInt8(128, 1);
  header.writeUInt8(RT_TABLE_LOCAL, 4);
  header.writeUInt8(RTPROT_STATIC, 5);
  header.writeUInt8(RTN_LOCAL, 7);
  return request("RTM_NEWROUTE", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, [
    header,
    attribute(RTA_DST, addressBytes({ family: 6, value: 1n })),
    attribute(RTA_OIF, u32(index)),
    attribute(RTA_PRIORITY, u32(LOOPBACK_ROUTE_METRIC)),
  ]);
}

export function dumpLinks(): NetlinkRequest {
  return request("RTM_GETLINK", RTM_GETLINK, NLM_F_DUMP, [ifinfomsg()]);
}

export function dumpAddresses(): NetlinkRequest {
  return request("RTM_GETADDR", RTM_GETADDR, NLM_F_DUMP, [Buffer.alloc(8)]);
}

export function dumpRoutes(): NetlinkRequest {
  return request("RTM_GETROUTE", RTM_GETROUTE, NLM_F_DUMP, [Buffer.alloc(12)]);
}

export interface Link {
  readonly index: number;
  readonly name: string;
  readonly isUp: boolean;
  readonly isLoopback: boolean;
  readonly alias: string;
  /** Index of the bridge it is a port of; 0: none. */
  readonly master: number;
  readonly group: number;
  readonly mtu: number;
  /** `bridge`, `veth`, …; empty: a physical one. */
  readonly kind: string;
  /** Index of a veth's other end, in that end's namespace; 0: none. */
  readonly peerIndex: number;
}

export function parseLink(message: NetlinkMessage): Link {
  const attributes = parseAttributes(message.payload, 16);
  const number = (type: number): number => attributes.get(type)?.readUInt32LE(0) ?? 0;
  const string = (value: Buffer | undefined): string => (value ? parseText(value) : "");
  const info = attributes.get(IFLA_LINKINFO);
  return {
    index: message.payload.readInt32LE(4),
    name: string(attributes.get(IFLA_IFNAME)),
    isUp: (message.payload.readUInt32LE(8) & IFF_UP) !== 0,
    isLoopback: (message.payload.readUInt32LE(8) & IFF_LOOPBACK) !== 0,
    alias: string(attributes.get(IFLA_IFALIAS)),
    master: number(IFLA_MASTER),
    group: number(IFLA_GROUP),
    mtu: number(IFLA_MTU),
    kind: string(info && parseAttributes(info).get(IFLA_INFO_KIND)),
    peerIndex: number(IFLA_LINK),
  };
}

/** A network that something of the host claims: by an address or by a route. */
export interface ClaimedNetwork {
  readonly index: number;
  readonly address: Address;
  readonly prefixLength: number;
}

function parseClaim(
  family: number,
  bytes: Buffer | undefined,
  prefixLength: number,
  index: number,
): ClaimedNetwork | undefined {
  if (!bytes || (family !== AF_INET && family !== AF_INET6)) return undefined;
  const value = BigInt(`0x${bytes.toString("hex")}`);
  return { index, prefixLength, address: { family: family === AF_INET ? 4 : 6, value } };
}

export function parseAddressClaim({ payload }: NetlinkMessage): ClaimedNetwork | undefined {
  const attributes = parseAttributes(payload, 8);
  const bytes = attributes.get(IFA_LOCAL) ?? attributes.get(IFA_ADDRESS);
  return parseClaim(payload.readUInt8(0), bytes, payload.readUInt8(1), payload.readUInt32LE(4));
}

/** `undefined` for default routes and for the kernel's own local table. */
export function parseRouteClaim({ payload }: NetlinkMessage): ClaimedNetwork | undefined {
  const prefixLength = payload.readUInt8(1);
  if (prefixLength === 0 || payload.readUInt8(4) === RT_TABLE_LOCAL) return undefined;
  const attributes = parseAttributes(payload, 12);
  const index = attributes.get(RTA_OIF)?.readUInt32LE(0) ?? 0;
  return parseClaim(payload.readUInt8(0), attributes.get(RTA_DST), prefixLength, index);
}

/** For messages: `10.88.0.0/16`. */
export function claimText(claim: ClaimedNetwork): string {
  return `${formatAddress(claim.address)}/${claim.prefixLength}`;
}
