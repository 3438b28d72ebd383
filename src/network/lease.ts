/**
 * What the network remembers: one lease per sandbox and one record of the daemon's own choices,
 * both boot class. A lease is repeated in its link's alias, so that it can be read back.
 */
import type { SandboxId } from "../base/ids.js";
import { type Address, parseAddress, type Subnet } from "./address.js";
import type { SysctlChange } from "./host-sysctls.js";
import type { Link } from "./netlink/rtnetlink.js";
import type { HostPort } from "./ruleset.js";

/** Id of the one BridgeRecord. */
export const BRIDGE_RECORD_ID = "network";

/** What one sandbox has; boot class, keyed by sandbox id. */
export interface LeaseRecord {
  readonly type: "lease";
  readonly sandboxId: SandboxId;
  /** The host's end of the veth. */
  readonly link: string;
  /** Host number in every pod subnet. */
  readonly offset: number;
  readonly ips: readonly string[];
  readonly ports: readonly HostPort[];
}

/** What the daemon chose and changed; one record, id `network`. */
export interface BridgeRecord {
  readonly type: "bridge";
  readonly subnet4?: string | undefined;
  readonly subnet6?: string | undefined;
  /** Of the host, to be put back by `close({ removeAll: true })`. */
  readonly sysctls: readonly SysctlChange[];
}

export type NetworkRecord = LeaseRecord | BridgeRecord;

/** Repeats the lease in the kernel: `recover` reads it back where the record was lost. */
export function linkAlias(lease: LeaseRecord): string {
  return `minke ${lease.sandboxId} ${lease.ips.join(",")}`;
}

export function toAddresses(ips: readonly string[]): Address[] {
  return ips.map(parseAddress).filter((address) => address !== undefined);
}

/** The lease that a link's alias repeats, without its host ports; `undefined` where it is of other subnets. */
export function leaseFromAlias(sandboxId: SandboxId, link: Link, subnets: readonly Subnet[]): LeaseRecord | undefined {
  const ips = link.alias.split(" ")[2]?.split(",") ?? [];
  const first = toAddresses(ips)[0];
  const subnet = subnets.find(({ family }) => family === first?.family);
  if (!first || !subnet || first.value <= subnet.base) return undefined;
  return { type: "lease", sandboxId, link: link.name, offset: Number(first.value - subnet.base), ips, ports: [] };
}
