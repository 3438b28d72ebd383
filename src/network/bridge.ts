/**
 * The bridge of one daemon: found or made, marked as ours by its alias, with its gateway
 * addresses. Knows nothing of pods.
 */
import { RuntimeError } from "../base/errors.js";
import { type Address, formatAddress, formatSubnet, hostAddress, parseSubnet, type Subnet } from "./address.js";
import { configureBridge } from "./host-sysctls.js";
import { bridgeMac } from "./link-names.js";
import type { NetlinkRequest } from "./netlink/message.js";
import * as rt from "./netlink/rtnetlink.js";
import { netlinkError, type NetlinkResult, type NetlinkSocket } from "./netlink/socket.js";
import { assertSubnetFree, chooseSubnet, type HostNetworks, isSubnetFree, parseSubnetSetting } from "./subnets.js";

const EEXIST = 17;
const ENODEV = 19;
const ALIAS_PREFIX = "minke ";
const DEFAULT_MTU = 1500;
/** RFC 8200, section 5: what IPv6 needs. */
const MIN_MTU = 1280;
const GATEWAY_OFFSET = 1n;
const BRIDGE_NAME = /^[A-Za-z][A-Za-z0-9_.-]{0,14}$/;

export interface NetworkSettings {
  /** Name of the bridge, at most 15 bytes; each daemon of a host has its own. */
  readonly bridge: string;
  /** `10.88.0.0/16`, `none`, or undefined: the first free of a list, then remembered. */
  readonly subnet4?: string | undefined;
  readonly subnet6?: string | undefined;
  /** undefined: the smallest of the host's physical links, 1500 without one. */
  readonly mtu?: number | undefined;
  /** Links of other networks, with which pods have nothing to do but host ports. */
  readonly isolateFrom?: readonly string[] | undefined;
  /** What the bridge is marked with: the daemon's root directory. */
  readonly owner: string;
}

/** @throws RuntimeError `invalid-argument` INVALID_NETWORK_SETTING */
export function checkSettings(settings: NetworkSettings): void {
  const bad = (what: string): RuntimeError =>
    new RuntimeError(what, { kind: "invalid-argument", code: "INVALID_NETWORK_SETTING" });
  if (!BRIDGE_NAME.test(settings.bridge)) {
    throw bad(`read network.bridge "${settings.bridge}": not a link name of 1 to 15 letters, digits, ".", "_" or "-"`);
  }
  if (settings.mtu !== undefined && !(settings.mtu >= MIN_MTU && settings.mtu <= 65_535)) {
    throw bad(`read network.mtu ${settings.mtu}: not between ${MIN_MTU} and 65535`);
  }
}

/** What the host looks like before we change it. */
export interface HostView extends HostNetworks {
  readonly links: readonly rt.Link[];
  readonly addresses: readonly rt.ClaimedNetwork[];
}

export async function viewHost(socket: NetlinkSocket): Promise<HostView> {
  // One dump at a time: a socket runs no two of them (netlink(7), EBUSY).
  const dump = async (request: Parameters<NetlinkSocket["run"]>[1][number]) =>
    (await socket.run("read the host's network", [request]))[0]?.messages ?? [];
  const links = (await dump(rt.dumpLinks())).map(rt.parseLink);
  const addresses = (await dump(rt.dumpAddresses())).map(rt.parseAddressClaim).filter((claim) => claim !== undefined);
  const routes = (await dump(rt.dumpRoutes())).map(rt.parseRouteClaim).filter((claim) => claim !== undefined);
  return {
    links,
    addresses,
    claims: [...addresses, ...routes],
    linkName: (index) => links.find((link) => link.index === index)?.name ?? "(none)",
  };
}

/** @throws RuntimeError `failed-precondition` BRIDGE_TAKEN: the name is somebody else's */
export function findOwnBridge(host: HostView, settings: NetworkSettings): rt.Link | undefined {
  const link = host.links.find(({ name }) => name === settings.bridge);
  if (!link || (link.kind === "bridge" && link.alias === ALIAS_PREFIX + settings.owner)) return link;
  const holder = link.alias.startsWith(ALIAS_PREFIX)
    ? `it belongs to the minke of "${link.alias.slice(ALIAS_PREFIX.length)}"`
    : `a link of this name exists and is not ours`;
  throw new RuntimeError(`use bridge "${settings.bridge}": ${holder} (settings: network.bridge)`, {
    kind: "failed-precondition",
    code: "BRIDGE_TAKEN",
  });
}

/** Bridges that this daemon has made, under whatever name. */
export function ownBridges(host: HostView, settings: NetworkSettings): rt.Link[] {
  return host.links.filter((link) => link.kind === "bridge" && link.alias === ALIAS_PREFIX + settings.owner);
}

/** True where another daemon of this kind has a bridge on this host. */
export function hasOtherBridges(host: HostView, settings: NetworkSettings): boolean {
  return host.links.some(
    (link) => link.kind === "bridge" && link.alias.startsWith(ALIAS_PREFIX) && link.name !== settings.bridge,
  );
}

/**
 * The pod subnets: as set, else as remembered, else the first free ones.
 *
 * @param remembered from state, by family
 * @param isPinned pods live in the remembered ones: they stay, whatever the settings say
 * @throws RuntimeError `failed-precondition` SUBNET_TAKEN
 */
export function resolveSubnets(
  host: HostView,
  settings: NetworkSettings,
  remembered: { readonly subnet4?: string | undefined; readonly subnet6?: string | undefined },
  families: ReadonlySet<4 | 6>,
  isPinned: boolean,
): Subnet[] {
  const own = host.links.find(({ name }) => name === settings.bridge)?.index;
  const others: HostNetworks = {
    claims: host.claims.filter(({ index }) => index !== own),
    linkName: (index) => host.linkName(index),
  };
  const subnets: Subnet[] = [];
  for (const family of families) {
    const [wanted, known] = [settings[`subnet${family}`], remembered[`subnet${family}`]];
    const fixed = isPinned && known !== undefined ? known : wanted;
    if (fixed === "none") continue;
    if (fixed !== undefined) {
      const subnet = parseSubnetSetting(fixed, family);
      assertSubnetFree(subnet, others);
      subnets.push(subnet);
      continue;
    }
    const former = known === undefined ? undefined : parseSubnet(known);
    subnets.push(
      former && isSubnetFree(former, others)
        ? former
        : chooseSubnet(family, others, `${settings.owner}\0${settings.bridge}`),
    );
  }
  return subnets;
}

export function gatewayOf(subnet: Subnet): Address {
  return hostAddress(subnet, GATEWAY_OFFSET);
}

/** False where the bridge has an address of another pod subnet than today's: it must be made anew. */
export function holdsSubnets(host: HostView, own: rt.Link, subnets: readonly Subnet[]): boolean {
  const gateways = new Set(subnets.map((subnet) => `${formatAddress(gatewayOf(subnet))}/${subnet.prefixLength}`));
  const isLinkLocal = ({ family, value }: Address): boolean => family === 6 && value >> 118n === 0xfe80n >> 6n;
  return host.addresses
    .filter(({ index, address }) => index === own.index && !isLinkLocal(address))
    .every((claim) => gateways.has(rt.claimText(claim)));
}

export function resolveMtu(host: HostView, settings: NetworkSettings): number {
  if (settings.mtu !== undefined) return settings.mtu;
  const physical = host.links.filter(
    (link) => link.kind === "" && link.isUp && !link.isLoopback && link.mtu >= MIN_MTU,
  );
  return Math.min(DEFAULT_MTU, ...physical.map(({ mtu }) => mtu));
}

/**
 * Makes the bridge where it is missing and gives it what it lacks. Returns its index.
 *
 * IPv6's detection of duplicate addresses is switched off before the bridge goes up: its
 * link-local address would be tentative for a second.
 */
export async function ensureBridge(
  socket: NetlinkSocket,
  settings: NetworkSettings,
  subnets: readonly Subnet[],
  mtu: number,
): Promise<number> {
  const { bridge } = settings;
  const clause = `make bridge "${bridge}"`;
  let [found] = await socket.exchange([rt.getLink(bridge)]);
  if (found?.errno === ENODEV) {
    const made = await socket.run(clause, [
      rt.createBridge({ name: bridge, mac: bridgeMac(bridge), mtu }),
      rt.setAlias(bridge, ALIAS_PREFIX + settings.owner),
      rt.getLink(bridge),
    ]);
    found = made[2];
  }
  if (!found || found.errno !== 0 || !found.messages[0]) throw found ? netlinkError(clause, found) : new Error(clause);
  const { index } = rt.parseLink(found.messages[0]);
  await configureBridge(bridge);
  await exchangeOrExists(socket, clause, subnets, [rt.setLinkUp(index), ...addressRequests(subnets, index)]);
  return index;
}

/**
 * Gives the bridge, which is up, those of its addresses that it lacks, and the route to ::1.
 *
 * @returns true where it lacked some
 */
export async function ensureAddresses(
  socket: NetlinkSocket,
  settings: NetworkSettings,
  subnets: readonly Subnet[],
  index: number,
): Promise<boolean> {
  const clause = `give bridge "${settings.bridge}" its addresses`;
  const results = await exchangeOrExists(socket, clause, subnets, addressRequests(subnets, index));
  return results.some(({ errno }) => errno === 0);
}

function addressRequests(subnets: readonly Subnet[], index: number): NetlinkRequest[] {
  return [
    ...subnets.map((subnet) => rt.addAddress(index, gatewayOf(subnet), subnet.prefixLength)),
    ...(subnets.some(({ family }) => family === 6) ? [rt.addLoopbackRoute(index)] : []),
  ];
}

async function exchangeOrExists(
  socket: NetlinkSocket,
  clause: string,
  subnets: readonly Subnet[],
  requests: readonly NetlinkRequest[],
): Promise<readonly NetlinkResult[]> {
  const results = await socket.exchange(requests);
  const refused = results.find(({ errno }) => errno !== 0 && errno !== EEXIST);
  if (refused) throw netlinkError(`${clause} for ${subnets.map(formatSubnet).join(", ")}`, refused);
  return results;
}

export async function removeBridge(socket: NetlinkSocket, bridge: string): Promise<void> {
  const [result] = await socket.exchange([rt.deleteLink(bridge)]);
  if (result && result.errno !== 0 && result.errno !== ENODEV) throw netlinkError(`remove bridge "${bridge}"`, result);
}
