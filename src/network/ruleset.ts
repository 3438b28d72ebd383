/**
 * The one nftables table of a daemon: what it holds and how a pod's host ports are entered. Pure.
 *
 *   table inet minke_<bridge>
 *     map ports4, ports6        protocol . port -> pod address . port
 *     map ports4_at, ports6_at  host address . protocol . port -> pod address . port
 *     protect      prerouting, before conntrack: nothing from a pod reaches the host's 127/8 and
 *                  ::1, which route_localnet on the bridge and the route to ::1 would otherwise allow
 *     from_outside prerouting  } what is addressed to the host itself goes through `ports`
 *     from_host    output      }
 *     ports        the four maps, the ones with a host address first
 *     isolate      forward: nothing between pods and the links of `network.isolate-from`
 *     leaving      postrouting: masquerade what leaves the pod subnet, and what was sent from
 *                  loopback or from a pod to a host port, so that answers come back through here
 *
 * No table of anybody else is read or changed.
 */
import type { PortMapping } from "../state/sandbox.js";
import { addressBytes, maskBytes, parseAddress, type Subnet } from "./address.js";
import { be16, type NetlinkRequest, u8 } from "./netlink/message.js";
import * as nft from "./netlink/nftables.js";

export type HostPort = Pick<PortMapping, "protocol" | "hostIp" | "hostPort" | "containerPort">;

/** netinet/in.h */
export const IP_PROTOCOL = { tcp: 6, udp: 17, sctp: 132 } as const;

export const MAPS: readonly nft.MapShape[] = [
  { name: "ports4", key: ["inet_proto", "inet_service"], value: ["ipv4_addr", "inet_service"] },
  { name: "ports6", key: ["inet_proto", "inet_service"], value: ["ipv6_addr", "inet_service"] },
  { name: "ports4_at", key: ["ipv4_addr", "inet_proto", "inet_service"], value: ["ipv4_addr", "inet_service"] },
  { name: "ports6_at", key: ["ipv6_addr", "inet_proto", "inet_service"], value: ["ipv6_addr", "inet_service"] },
];

// linux/netfilter_ipv4.h: raw, dstnat, filter, srcnat
const PRIORITY = { raw: -300, dstnat: -100, filter: 0, srcnat: 100 } as const;
const LOOPBACK6 = Buffer.from("00000000000000000000000000000001", "hex");
const LOOPBACK4 = { network: Buffer.of(127, 0, 0, 0), netmask: Buffer.of(255, 0, 0, 0) };

/** Of a bridge name, which a link of one network namespace has alone. */
export function tableName(bridge: string): string {
  return `minke_${bridge}`;
}

export interface MapEntry {
  readonly map: string;
  readonly element: nft.MapElement;
}

/**
 * The elements of a pod's host ports. An empty hostIp, `0.0.0.0` and `::` mean every address of
 * the host, the latter two of one family.
 *
 * @param ips of the pod
 */
export function portEntries(ports: readonly HostPort[], ips: readonly string[]): MapEntry[] {
  const entries: MapEntry[] = [];
  for (const ip of ips) {
    const pod = parseAddress(ip);
    if (!pod) continue;
    for (const port of ports) {
      const host = port.hostIp === "" ? undefined : parseAddress(port.hostIp);
      if (port.hostPort === 0 || (host && host.family !== pod.family)) continue;
      const isWildcard = !host || host.value === 0n;
      const key = [u8(IP_PROTOCOL[port.protocol]), be16(port.hostPort)];
      entries.push({
        map: `ports${pod.family}${isWildcard ? "" : "_at"}`,
        element: {
          key: isWildcard ? key : [addressBytes(host), ...key],
          value: [addressBytes(pod), be16(port.containerPort)],
        },
      });
    }
  }
  return entries;
}

export function addEntries(table: string, entries: readonly MapEntry[]): NetlinkRequest[] {
  return entries.map(({ map, element }) => nft.addElements(table, map, [element]));
}

export function deleteEntries(table: string, entries: readonly MapEntry[]): NetlinkRequest[] {
  return entries.map(({ map, element }) => nft.deleteElements(table, map, [element]));
}

/** @param hasLoopback6 false: ::1 is left alone, so that a client is refused there and goes on to 127.0.0.1 */
function portRules(table: string, hasLoopback6: boolean): NetlinkRequest[] {
  const rules: NetlinkRequest[] = [];
  for (const family of [4, 6] as const) {
    for (const withDestination of [true, false]) {
      const map = `ports${family}${withDestination ? "_at" : ""}`;
      const match = [
        ...nft.matchFamily(family),
        ...(family === 6 && !hasLoopback6 ? nft.matchExactly("daddr", "!=", LOOPBACK6) : []),
      ];
      rules.push(nft.addRule(table, "ports", [...match, ...nft.dnatByMap(map, family, withDestination)]));
    }
  }
  return rules;
}

function leavingRules(table: string, bridge: string, subnets: readonly Subnet[]): NetlinkRequest[] {
  const toBridge = [...nft.matchLink("oifname", "==", bridge), ...nft.matchDnatted()];
  const rules = [
    nft.addRule(table, "leaving", [
      ...nft.matchFamily(4),
      ...toBridge,
      ...nft.matchAddress("saddr", "==", LOOPBACK4.network, LOOPBACK4.netmask),
      ...nft.masquerade(),
    ]),
    nft.addRule(table, "leaving", [
      ...nft.matchFamily(6),
      ...toBridge,
      ...nft.matchExactly("saddr", "==", LOOPBACK6),
      ...nft.masquerade(),
    ]),
  ];
  for (const subnet of subnets) {
    const network = addressBytes({ family: subnet.family, value: subnet.base });
    const netmask = maskBytes(subnet);
    const fromPod = [...nft.matchFamily(subnet.family), ...nft.matchAddress("saddr", "==", network, netmask)];
    rules.push(
      nft.addRule(table, "leaving", [...fromPod, ...toBridge, ...nft.masquerade()]),
      nft.addRule(table, "leaving", [
        ...fromPod,
        ...nft.matchAddress("daddr", "!=", network, netmask),
        ...nft.matchLink("oifname", "!=", bridge),
        ...nft.masquerade(),
      ]),
    );
  }
  return rules;
}

/** What is as long as the daemon runs. */
export interface TableShape {
  readonly bridge: string;
  readonly subnets: readonly Subnet[];
  readonly isolateFrom: readonly string[];
}

/** Both ways, but for what was addressed to a host port, and answers. */
function isolationRules(table: string, { bridge, isolateFrom }: TableShape): NetlinkRequest[] {
  return isolateFrom.flatMap((other) =>
    [
      [bridge, other],
      [other, bridge],
    ].map(([from = "", to = ""]) =>
      nft.addRule(table, "isolate", [
        ...nft.matchLink("iifname", "==", from),
        ...nft.matchLink("oifname", "==", to),
        ...nft.matchNotDnatted(),
        ...nft.drop(),
      ]),
    ),
  );
}

/**
 * Replaces the table by one with these entries, in one transaction: connections under way go on,
 * and no packet meets half a table.
 */
export function replaceTable(shape: TableShape, entries: readonly MapEntry[], hasLoopback6: boolean): NetlinkRequest[] {
  const { bridge, subnets } = shape;
  const table = tableName(bridge);
  const toPorts = [...nft.matchLocalDestination(), ...nft.jump("ports")];
  return nft.transaction([
    // Deleting what is not there fails the transaction: make it first.
    nft.addTable(table),
    nft.deleteTable(table),
    nft.addTable(table),
    ...MAPS.map((shape, index) => nft.addMap(table, shape, index + 1)),
    nft.addChain(table, "ports"),
    nft.addChain(table, "protect", { type: "filter", hook: "prerouting", priority: PRIORITY.raw }),
    nft.addChain(table, "from_outside", { type: "nat", hook: "prerouting", priority: PRIORITY.dstnat }),
    nft.addChain(table, "from_host", { type: "nat", hook: "output", priority: PRIORITY.dstnat }),
    nft.addChain(table, "leaving", { type: "nat", hook: "postrouting", priority: PRIORITY.srcnat }),
    nft.addChain(table, "isolate", { type: "filter", hook: "forward", priority: PRIORITY.filter }),
    nft.addRule(table, "protect", [
      ...nft.matchFamily(4),
      ...nft.matchLink("iifname", "==", bridge),
      ...nft.matchAddress("daddr", "==", LOOPBACK4.network, LOOPBACK4.netmask),
      ...nft.drop(),
    ]),
    nft.addRule(table, "protect", [
      ...nft.matchFamily(6),
      ...nft.matchLink("iifname", "==", bridge),
      ...nft.matchExactly("daddr", "==", LOOPBACK6),
      ...nft.drop(),
    ]),
    nft.addRule(table, "from_outside", toPorts),
    nft.addRule(table, "from_host", toPorts),
    ...portRules(table, hasLoopback6),
    ...leavingRules(table, bridge, subnets),
    ...isolationRules(table, shape),
    ...addEntries(table, entries),
  ]);
}
