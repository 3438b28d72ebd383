/**
 * Names and numbers derived from the bridge's name and the sandbox id, so that a daemon knows
 * its own links after a crash without any record. Pure.
 */
import { hash as digest } from "node:crypto";
import type { SandboxId } from "../base/ids.js";
import type { Address } from "./address.js";
import { addressBytes } from "./address.js";

function hash(text: string): Buffer {
  return digest("sha256", text, "buffer");
}

/** `mk` and four hex digits: what the host's ends of all pods of this bridge begin with. */
export function linkPrefix(bridge: string): string {
  return `mk${hash(`bridge ${bridge}`).toString("hex", 0, 2)}`;
}

/** 14 bytes; a link's name has at most 15 (IFNAMSIZ). */
export function linkName(bridge: string, sandboxId: SandboxId): string {
  return `${linkPrefix(bridge)}${hash(`sandbox ${sandboxId}`).toString("hex", 0, 4)}`;
}

/** The group that retired links wait in for the reaper. Never 0, which is every link's default. */
export function retiredGroup(bridge: string): number {
  return (hash(`retired ${bridge}`).readUInt32BE(0) | 0x40000000) & 0x7fffffff;
}

/** A locally administered MAC that follows from the address: a reused address keeps its MAC, so no neighbour cache goes stale. */
export function podMac(ips: readonly Address[]): Buffer {
  const first = ips[0];
  const tail = first ? addressBytes(first).subarray(-4) : Buffer.alloc(4);
  return Buffer.concat([Buffer.of(0x0a, 0x58), tail]);
}

/** Fixed, or the bridge would take over the lowest MAC of its ports and change it as pods come and go. */
export function bridgeMac(bridge: string): Buffer {
  return Buffer.concat([Buffer.of(0x0a, 0x59), hash(`mac ${bridge}`).subarray(0, 4)]);
}
