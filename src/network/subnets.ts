/**
 * Choosing and checking the pod subnets against what the host's links and routes claim.
 */
import { strict as assert } from "node:assert";
import { createHash } from "node:crypto";
import { RuntimeError } from "../base/errors.js";
import { formatSubnet, overlaps, parseSubnet, type Subnet } from "./address.js";
import { type ClaimedNetwork, claimText } from "./netlink/rtnetlink.js";

/** Private ranges (RFC 1918) that few networks use, best first. */
const CANDIDATES4 = [
  "10.231.0.0/16",
  "10.88.0.0/16",
  "10.89.0.0/16",
  "10.172.0.0/16",
  "10.213.0.0/16",
  "172.29.0.0/16",
  "192.168.88.0/21",
];
const ULA_CANDIDATES = 8;

/** RFC 6890: no interface of a pod can have an address of these. */
const UNUSABLE: readonly (readonly [string, string])[] = [
  ["0.0.0.0/8", "this network"],
  ["127.0.0.0/8", "loopback"],
  ["169.254.0.0/16", "link-local"],
  ["224.0.0.0/4", "multicast"],
  ["240.0.0.0/4", "reserved"],
  ["::/8", "reserved, with loopback in it"],
  ["fe80::/10", "link-local"],
  ["ff00::/8", "multicast"],
];

/** What claims a network, for messages. */
export interface HostNetworks {
  readonly claims: readonly ClaimedNetwork[];
  linkName(index: number): string;
}

function toSubnet(claim: ClaimedNetwork): Subnet {
  const shift = BigInt((claim.address.family === 4 ? 32 : 128) - claim.prefixLength);
  return {
    family: claim.address.family,
    prefixLength: claim.prefixLength,
    base: (claim.address.value >> shift) << shift,
  };
}

function claimOf(subnet: Subnet, host: HostNetworks): ClaimedNetwork | undefined {
  return host.claims.find((claim) => overlaps(subnet, toSubnet(claim)));
}

/**
 * Unique local prefixes (RFC 4193) made from the machine's id and the bridge's name, so that a
 * daemon finds its own again and two daemons differ.
 */
function ulaCandidates(seed: string): string[] {
  return Array.from({ length: ULA_CANDIDATES }, (_, attempt) => {
    const hex = createHash("sha256").update(`${seed}\0${attempt}`).digest("hex");
    return `fd${hex.slice(0, 2)}:${hex.slice(2, 6)}:${hex.slice(6, 10)}:${hex.slice(10, 14)}::/64`;
  });
}

/** @throws RuntimeError `failed-precondition` SUBNET_TAKEN where the host uses every candidate */
export function chooseSubnet(family: 4 | 6, host: HostNetworks, seed: string): Subnet {
  const candidates = family === 4 ? CANDIDATES4 : ulaCandidates(seed);
  for (const candidate of candidates) {
    const subnet = parseSubnet(candidate);
    if (subnet && !claimOf(subnet, host)) return subnet;
  }
  throw new RuntimeError(
    `choose an IPv${family} pod subnet: the host uses all of ${candidates.join(", ")} (settings: network.subnet-ipv${family})`,
    { kind: "failed-precondition", code: "SUBNET_TAKEN" },
  );
}

export function isSubnetFree(subnet: Subnet, host: HostNetworks): boolean {
  return claimOf(subnet, host) === undefined;
}

/** @throws RuntimeError `failed-precondition` SUBNET_TAKEN: naming the link that has it and the setting */
export function assertSubnetFree(subnet: Subnet, host: HostNetworks): void {
  const claim = claimOf(subnet, host);
  if (!claim) return;
  const link = host.linkName(claim.index);
  throw new RuntimeError(
    `use pod subnet "${formatSubnet(subnet)}": link "${link}" has "${claimText(claim)}" (settings: network.subnet-ipv${subnet.family})`,
    { kind: "failed-precondition", code: "SUBNET_TAKEN" },
  );
}

/** @throws RuntimeError `invalid-argument` INVALID_NETWORK_SETTING */
export function parseSubnetSetting(text: string, family: 4 | 6): Subnet {
  const subnet = parseSubnet(text);
  const maxPrefix = family === 4 ? 29 : 120;
  if (!subnet || subnet.family !== family || subnet.prefixLength > maxPrefix || subnet.prefixLength < 8) {
    throw new RuntimeError(
      `read network.subnet-ipv${family} "${text}": not an IPv${family} network in the form address/8 to /${maxPrefix} with no host bits set, as ${family === 4 ? "10.1.0.0/16" : "fd00:1::/64"}`,
      { kind: "invalid-argument", code: "INVALID_NETWORK_SETTING" },
    );
  }
  const unusable = UNUSABLE.find(([text]) => overlaps(subnet, subnetOf(text)));
  if (unusable) {
    throw new RuntimeError(
      `read network.subnet-ipv${family} "${text}": ${unusable[0]} is ${unusable[1]}, pods cannot have addresses of it`,
      { kind: "invalid-argument", code: "INVALID_NETWORK_SETTING" },
    );
  }
  return subnet;
}

function subnetOf(text: string): Subnet {
  const subnet = parseSubnet(text);
  assert(subnet, text);
  return subnet;
}
