/**
 * The daemon's nftables table at run time: entering and removing host ports, and putting the
 * table back where somebody flushed it. Also forgets connections of a UDP or SCTP port, which
 * conntrack would go on sending to the old place.
 */
import { failpoint } from "../base/failpoints.js";
import type { Subnet } from "./address.js";
import { deleteConntrack, dumpConntrack, parseConntrack } from "./netlink/conntrack.js";
import { deleteTable, transaction } from "./netlink/nftables.js";
import { netlinkError, NetlinkSocket } from "./netlink/socket.js";
import {
  addEntries,
  deleteEntries,
  type HostPort,
  IP_PROTOCOL,
  type MapEntry,
  portEntries,
  replaceTable,
  tableName,
} from "./ruleset.js";

const ENOENT = 2;

export class PublishedPorts {
  readonly #bridge: string;
  readonly #subnets: readonly Subnet[];
  readonly #rules: NetlinkSocket;
  /** A dump of all connections may be long: never in front of the rules. */
  readonly #connections: NetlinkSocket;
  /** What the table must hold, by owner. */
  readonly #entries = new Map<string, readonly MapEntry[]>();

  private constructor(bridge: string, subnets: readonly Subnet[], rules: NetlinkSocket, connections: NetlinkSocket) {
    this.#bridge = bridge;
    this.#subnets = subnets;
    this.#rules = rules;
    this.#connections = connections;
  }

  static async open(bridge: string, subnets: readonly Subnet[]): Promise<PublishedPorts> {
    const rules = await NetlinkSocket.open("netfilter");
    return new PublishedPorts(bridge, subnets, rules, await NetlinkSocket.open("netfilter"));
  }

  /** Takes over a pod's ports without touching the kernel: `rebuild` follows. */
  restore(owner: string, ports: readonly HostPort[], ips: readonly string[]): void {
    if (ports.length > 0) this.#entries.set(owner, portEntries(ports, ips));
  }

  forget(owner: string): void {
    this.#entries.delete(owner);
  }

  /** Replaces the whole table by what it must hold, in one transaction. */
  async rebuild(): Promise<void> {
    const entries = [...this.#entries.values()].flat();
    await this.#rules.run(
      `make nftables table "${tableName(this.#bridge)}"`,
      replaceTable(this.#bridge, this.#subnets, entries),
    );
  }

  async publish(owner: string, ports: readonly HostPort[], ips: readonly string[]): Promise<void> {
    if (ports.length === 0) return;
    failpoint("publish ports");
    this.restore(owner, ports, ips);
    const requests = transaction(addEntries(tableName(this.#bridge), this.#entries.get(owner) ?? []));
    const results = await this.#rules.exchange(requests);
    const refused = results.find(({ errno }) => errno !== 0);
    // Somebody flushed the ruleset, or removed our table.
    if (refused?.errno === ENOENT) await this.rebuild();
    else if (refused) throw netlinkError("publish host ports", refused);
    await this.#forgetConnections(ports);
  }

  /** Removing what is not there succeeds. */
  async withdraw(owner: string, ports: readonly HostPort[]): Promise<void> {
    const entries = this.#entries.get(owner);
    if (!entries || entries.length === 0) return;
    // A rebuild meanwhile must not put them back; one that is refused is to be tried again.
    this.#entries.delete(owner);
    try {
      failpoint("withdraw ports");
      const results = await this.#rules.exchange(transaction(deleteEntries(tableName(this.#bridge), entries)));
      const refused = results.find(({ errno }) => errno !== 0);
      if (refused?.errno === ENOENT) await this.rebuild();
      else if (refused) throw netlinkError("withdraw host ports", refused);
    } catch (err) {
      this.#entries.set(owner, entries);
      throw err;
    }
    await this.#forgetConnections(ports);
  }

  async removeTable(): Promise<void> {
    const results = await this.#rules.exchange(transaction([deleteTable(tableName(this.#bridge))]));
    const refused = results.find(({ errno }) => errno !== 0 && errno !== ENOENT);
    if (refused) throw netlinkError(`remove nftables table "${tableName(this.#bridge)}"`, refused);
  }

  close(): void {
    this.#rules.close();
    this.#connections.close();
  }

  /** TCP needs none of it: a new connection is a new entry, an old one ends with its peers. */
  async #forgetConnections(ports: readonly HostPort[]): Promise<void> {
    const wanted = new Set(
      ports
        .filter(({ protocol }) => protocol !== "tcp")
        .map((port) => `${IP_PROTOCOL[port.protocol]} ${port.hostPort}`),
    );
    if (wanted.size === 0) return;
    for (const family of [4, 6] as const) {
      const [dump] = await this.#connections.run("read conntrack", [dumpConntrack(family)]);
      const stale = (dump?.messages ?? [])
        .map(parseConntrack)
        .filter((entry) => entry !== undefined)
        .filter((entry) => wanted.has(`${entry.protocol} ${entry.destinationPort}`));
      const results = stale.length === 0 ? [] : await this.#connections.exchange(stale.map(deleteConntrack));
      const refused = results.find(({ errno }) => errno !== 0 && errno !== ENOENT);
      if (refused) throw netlinkError("forget connections of a host port", refused);
    }
  }
}
