/**
 * Sysctls of the host that pods need to reach the outside, changed only where they must be and
 * remembered, so that removing the network can put them back.
 */
import { readFile, readdir, writeFile } from "node:fs/promises";
import { hasErrno } from "../base/errors.js";

const ROOT = "/proc/sys/net";

/** A change that was made: path below /proc/sys/net, and both values. */
export interface SysctlChange {
  readonly path: string;
  readonly before: string;
  readonly after: string;
}

/** `undefined` where the kernel does not have it. */
async function read(path: string): Promise<string | undefined> {
  try {
    return (await readFile(`${ROOT}/${path}`, "utf8")).trim();
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return undefined;
    throw err;
  }
}

/** `undefined` where it has the value already, or is not there. */
async function planned(path: string, after: string): Promise<SysctlChange | undefined> {
  const before = await read(path);
  return before === undefined || before === after ? undefined : { path, before, after };
}

/**
 * What must change so that the host forwards. IPv4 could be switched per link, but answers come
 * in by links that are not known beforehand; IPv6 has no switch per link before Linux 6.17.
 *
 * A forwarding host ignores router advertisements and drops the routes learned from them unless
 * accept_ra is 2 (kernel ip-sysctl.rst): links that listen to them are set so first.
 */
export async function planForwarding(families: ReadonlySet<4 | 6>): Promise<SysctlChange[]> {
  const changes: (SysctlChange | undefined)[] = [];
  if (families.has(4)) changes.push(await planned("ipv4/ip_forward", "1"));
  if (families.has(6) && (await read("ipv6/conf/all/forwarding")) === "0") {
    for (const link of await readdir(`${ROOT}/ipv6/conf`)) {
      const path = `ipv6/conf/${link}/accept_ra`;
      if (link !== "all" && link !== "default" && link !== "lo" && (await read(path)) === "1") {
        changes.push(await planned(path, "2"));
      }
    }
    changes.push(await planned("ipv6/conf/all/forwarding", "1"));
  }
  return changes.filter((change) => change !== undefined);
}

/** In their order. A link that has gone meanwhile is left out. */
export async function applySysctls(changes: readonly SysctlChange[]): Promise<void> {
  for (const { path, after } of changes) {
    if ((await read(path)) !== undefined) await writeFile(`${ROOT}/${path}`, after);
  }
}

/** Puts back, newest first, what still has the value that was set here. */
export async function restoreSysctls(changes: readonly SysctlChange[]): Promise<void> {
  for (const { path, before, after } of changes.toReversed()) {
    if ((await read(path)) === after) await writeFile(`${ROOT}/${path}`, before);
  }
}

/** Of the bridge: routes to 127/8 through it (host ports of 127.0.0.1), and no delay of its IPv6 addresses. */
export async function configureBridge(bridge: string): Promise<void> {
  const changes = [
    await planned(`ipv4/conf/${bridge}/route_localnet`, "1"),
    await planned(`ipv6/conf/${bridge}/accept_dad`, "0"),
    await planned(`ipv6/conf/${bridge}/accept_ra`, "0"),
  ];
  await applySysctls(changes.filter((change) => change !== undefined));
}
