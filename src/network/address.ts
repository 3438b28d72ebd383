/**
 * IP addresses and subnets as numbers. Pure.
 */
import { isIPv4, isIPv6 } from "node:net";

export interface Address {
  readonly family: 4 | 6;
  /** As one big-endian number: 32 or 128 bits. */
  readonly value: bigint;
}

export interface Subnet {
  readonly family: 4 | 6;
  /** The network's own address: host bits are zero. */
  readonly base: bigint;
  readonly prefixLength: number;
}

const BITS = { 4: 32, 6: 128 } as const;

/** `undefined` where it is no literal address. Zones (`%eth0`) are not taken. */
export function parseAddress(text: string): Address | undefined {
  if (isIPv4(text)) return { family: 4, value: parseIpv4(text) };
  if (isIPv6(text) && !text.includes("%")) return { family: 6, value: parseIpv6(text) };
  return undefined;
}

function parseIpv4(text: string): bigint {
  return text.split(".").reduce((value, part) => (value << 8n) | BigInt(part), 0n);
}

function parseIpv6(text: string): bigint {
  // A dotted tail (::ffff:10.0.0.1) becomes two groups.
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  if (dotted?.[1] !== undefined && dotted[2] !== undefined) {
    const low = parseIpv4(dotted[2]);
    return parseIpv6(`${dotted[1]}${(low >> 16n).toString(16)}:${(low & 0xffffn).toString(16)}`);
  }
  const [head = "", tail] = text.split("::", 2);
  const front = head === "" ? [] : head.split(":");
  const back = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = Array.from({ length: tail === undefined ? 0 : 8 - front.length - back.length }, () => "0");
  return [...front, ...zeros, ...back].reduce((value, group) => (value << 16n) | BigInt(`0x${group}`), 0n);
}

/** Whether a text is the address ::1, in whichever way it is written. */
export function isLoopback6(text: string): boolean {
  const address = parseAddress(text);
  return address?.family === 6 && address.value === 1n;
}

/** IPv6 in the form of RFC 5952. */
export function formatAddress(address: Address): string {
  if (address.family === 4) {
    return [24n, 16n, 8n, 0n].map((shift) => String((address.value >> shift) & 0xffn)).join(".");
  }
  const groups = Array.from({ length: 8 }, (_, i) => ((address.value >> BigInt(112 - 16 * i)) & 0xffffn).toString(16));
  let best = { start: -1, length: 1 };
  for (let start = 0; start < 8; ) {
    let end = start;
    while (end < 8 && groups[end] === "0") end++;
    if (end - start > best.length) best = { start, length: end - start };
    start = end + 1;
  }
  if (best.start < 0) return groups.join(":");
  return `${groups.slice(0, best.start).join(":")}::${groups.slice(best.start + best.length).join(":")}`;
}

/** Network byte order. */
export function addressBytes(address: Address): Buffer {
  return Buffer.from(address.value.toString(16).padStart(BITS[address.family] / 4, "0"), "hex");
}

/** `undefined` where it is no subnet, or host bits are set. */
export function parseSubnet(text: string): Subnet | undefined {
  const [literal = "", length = "", ...rest] = text.split("/");
  const address = parseAddress(literal);
  if (!address || rest.length > 0 || !/^\d{1,3}$/.test(length)) return undefined;
  const prefixLength = Number(length);
  if (prefixLength > BITS[address.family]) return undefined;
  const subnet = { family: address.family, base: address.value, prefixLength };
  return (address.value & (hostCount(subnet) - 1n)) === 0n ? subnet : undefined;
}

export function formatSubnet(subnet: Subnet): string {
  return `${formatAddress({ family: subnet.family, value: subnet.base })}/${subnet.prefixLength}`;
}

/** How many addresses it spans, network and broadcast included. */
export function hostCount(subnet: Subnet): bigint {
  return 1n << BigInt(BITS[subnet.family] - subnet.prefixLength);
}

export function hostAddress(subnet: Subnet, offset: bigint): Address {
  return { family: subnet.family, value: subnet.base + offset };
}

export function overlaps(one: Subnet, other: Subnet): boolean {
  if (one.family !== other.family) return false;
  return one.base < other.base + hostCount(other) && other.base < one.base + hostCount(one);
}

/** The netmask as bytes. */
export function maskBytes(subnet: Subnet): Buffer {
  const all = (1n << BigInt(BITS[subnet.family])) - 1n;
  return addressBytes({ family: subnet.family, value: all ^ (hostCount(subnet) - 1n) });
}
