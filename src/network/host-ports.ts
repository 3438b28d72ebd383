/**
 * Host ports: who has which, and whether a process of the host listens on one.
 *
 * Reserved in memory before anything is entered in nftables, so that two pods starting at once
 * cannot both get a port. Rebuilt from the leases at start.
 */
import { readdir, readFile, readlink } from "node:fs/promises";
import { RuntimeError } from "../base/errors.js";
import { shortId, type SandboxId } from "../base/ids.js";
import { isPortFree } from "../native/index.js";
import { parseAddress } from "./address.js";
import type { HostPort } from "./ruleset.js";

const WILDCARDS = { 4: "0.0.0.0", 6: "::" } as const;

/** The host addresses that a mapping covers: one literal per family. */
function coveredAddresses(port: HostPort): string[] {
  return port.hostIp === "" ? [WILDCARDS[4], WILDCARDS[6]] : [port.hostIp];
}

function collide(one: HostPort, other: HostPort): boolean {
  if (one.protocol !== other.protocol || one.hostPort !== other.hostPort) return false;
  return coveredAddresses(one).some((a) =>
    coveredAddresses(other).some((b) => {
      const [left, right] = [parseAddress(a), parseAddress(b)];
      if (!left || !right || left.family !== right.family) return false;
      return left.value === right.value || left.value === 0n || right.value === 0n;
    }),
  );
}

function portText(port: HostPort): string {
  return `${port.protocol} ${port.hostIp === "" ? "" : `${port.hostIp} `}port ${port.hostPort}`;
}

function inUse(port: HostPort, holder: string): RuntimeError {
  return new RuntimeError(`publish ${portText(port)} of the host: it is in use by ${holder}`, {
    kind: "failed-precondition",
    code: "HOST_PORT_IN_USE",
  });
}

export class HostPorts {
  readonly #byPod = new Map<SandboxId, readonly HostPort[]>();

  /** Takes over what a lease says, without asking. */
  restore(sandboxId: SandboxId, ports: readonly HostPort[]): void {
    if (ports.length > 0) this.#byPod.set(sandboxId, ports);
  }

  /**
   * @param ports those with a hostPort above 0
   * @throws RuntimeError `failed-precondition` HOST_PORT_IN_USE: naming the port and who has it
   * @throws RuntimeError `invalid-argument` INVALID_HOST_PORT: a hostIp that is no address
   */
  async reserve(sandboxId: SandboxId, ports: readonly HostPort[]): Promise<void> {
    if (ports.length === 0) return;
    ports.forEach((port, index) => {
      this.#check(sandboxId, port, ports.slice(0, index));
    });
    this.#byPod.set(sandboxId, ports);
    const listening = ports.find((port) => coveredAddresses(port).some((address) => !isFree(port, address)));
    if (!listening) return;
    this.release(sandboxId);
    throw inUse(listening, await describeListener(listening));
  }

  release(sandboxId: SandboxId): void {
    this.#byPod.delete(sandboxId);
  }

  #check(sandboxId: SandboxId, port: HostPort, earlier: readonly HostPort[]): void {
    if (port.hostIp !== "" && !parseAddress(port.hostIp)) {
      throw new RuntimeError(`publish ${portText(port)} of the host: "${port.hostIp}" is not an IP address`, {
        kind: "invalid-argument",
        code: "INVALID_HOST_PORT",
      });
    }
    if (earlier.some((other) => collide(port, other))) throw inUse(port, "another container port of the same pod");
    for (const [holder, held] of this.#byPod) {
      if (holder !== sandboxId && held.some((other) => collide(port, other))) {
        throw inUse(port, `pod sandbox ${shortId(holder)}`);
      }
    }
  }
}

/** An address that is not the host's own cannot be bound, and nobody listens there. */
function isFree(port: HostPort, address: string): boolean {
  try {
    return isPortFree(port.protocol, address, port.hostPort);
  } catch (err) {
    if (err instanceof RuntimeError && err.syscall?.errno === "EADDRNOTAVAIL") return true;
    throw err;
  }
}

/** The process that has the port bound, by name and pid. Only after a conflict: it walks /proc. */
async function describeListener(port: HostPort): Promise<string> {
  const inodes = await boundInodes(port);
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    try {
      for (const fd of await readdir(`/proc/${pid}/fd`)) {
        const inode = /^socket:\[(\d+)\]$/.exec(await readlink(`/proc/${pid}/fd/${fd}`))?.[1];
        if (inode !== undefined && inodes.has(inode)) {
          return `process ${pid} ("${(await readFile(`/proc/${pid}/comm`, "utf8")).trim()}")`;
        }
      }
    } catch {
      // It ended while we looked.
    }
  }
  return "a process of the host";
}

/** Socket inodes from /proc/net (proc_pid_net(5)): column 2 is address:port in hex, column 10 the inode. */
async function boundInodes(port: HostPort): Promise<Set<string>> {
  const inodes = new Set<string>();
  const suffix = `:${port.hostPort.toString(16).toUpperCase().padStart(4, "0")}`;
  for (const table of [port.protocol, `${port.protocol}6`]) {
    let lines: string[];
    try {
      lines = (await readFile(`/proc/net/${table}`, "utf8")).split("\n").slice(1);
    } catch {
      continue;
    }
    for (const line of lines) {
      const columns = line.trim().split(/\s+/);
      // 0A: LISTEN. A UDP socket has no such state.
      if (columns[1]?.endsWith(suffix) && (port.protocol !== "tcp" || columns[3] === "0A"))
        inodes.add(columns[9] ?? "");
    }
  }
  return inodes;
}
