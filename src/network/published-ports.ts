/**
 * The daemon's nftables table at run time: entering and removing host ports, and putting the
 * table back where somebody flushed it. Also forgets connections of a UDP or SCTP port, which
 * conntrack would go on sending to the old place.
 */
import { readFile } from "node:fs/promises";
import { failpoint } from "../base/failpoints.js";
import { deleteConntrack, dumpConntrack, parseConntrack } from "./netlink/conntrack.js";
import {
  deleteTable,
  dumpElements,
  dumpRules,
  elementCount,
  getGeneration,
  parseGeneration,
  transaction,
} from "./netlink/nftables.js";
import { netlinkError, NetlinkSocket } from "./netlink/socket.js";
import {
  addEntries,
  deleteEntries,
  type HostPort,
  IP_PROTOCOL,
  MAPS,
  type MapEntry,
  portEntries,
  replaceTable,
  type TableShape,
  tableName,
} from "./ruleset.js";

const ENOENT = 2;

export class PublishedPorts {
  readonly #shape: TableShape;
  readonly #table: string;
  readonly #rules: NetlinkSocket;
  /** A dump of all connections may be long: never in front of the rules. */
  readonly #connections: NetlinkSocket;
  /** What the table must hold, by owner. */
  readonly #entries = new Map<string, readonly MapEntry[]>();
  #ruleCount = 0;
  #hasLoopback6 = false;
  /** The generation of the rulesets at which the table was last seen whole. */
  #verified: number | undefined;

  private constructor(shape: TableShape, rules: NetlinkSocket, connections: NetlinkSocket) {
    this.#shape = shape;
    this.#table = tableName(shape.bridge);
    this.#rules = rules;
    this.#connections = connections;
  }

  static async open(shape: TableShape): Promise<PublishedPorts> {
    const rules = await NetlinkSocket.open("netfilter");
    return new PublishedPorts(shape, rules, await NetlinkSocket.open("netfilter"));
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
    this.#hasLoopback6 = await canAnswerLoopback6();
    const entries = [...this.#entries.values()].flat();
    const requests = replaceTable(this.#shape, entries, this.#hasLoopback6);
    this.#ruleCount = requests.filter(({ name }) => name === "NFT_MSG_NEWRULE").length;
    await this.#rules.run(`make nftables table "${this.#table}"`, requests);
  }

  /** True where a host port answers on ::1 too. */
  get hasLoopback6(): boolean {
    return this.#hasLoopback6;
  }

  /**
   * Puts the table back where somebody has flushed it or taken parts of it away. Costs one question
   * while no ruleset of the host changes.
   *
   * @returns true where it was not as it must be
   */
  async verify(): Promise<boolean> {
    const isOther = this.#hasLoopback6 !== (await canAnswerLoopback6());
    const generation = await this.#generation();
    if (!isOther && generation !== undefined && generation === this.#verified) return false;
    const isWhole = !isOther && (await this.#isWhole());
    if (!isWhole) await this.rebuild();
    this.#verified = isWhole ? generation : undefined;
    return !isWhole;
  }

  async #generation(): Promise<number | undefined> {
    const [answer] = await this.#rules.exchange([getGeneration()]);
    return parseGeneration(answer?.messages[0]);
  }

  async #isWhole(): Promise<boolean> {
    const [rules] = await this.#rules.exchange([dumpRules(this.#table)]);
    if (rules?.errno !== 0 || rules.messages.length !== this.#ruleCount) return false;
    for (const { name } of MAPS) {
      const [elements] = await this.#rules.exchange([dumpElements(this.#table, name)]);
      // Counted after the answer: a pod that comes meanwhile is in both or in none.
      const expected = [...this.#entries.values()].flat().filter(({ map }) => map === name).length;
      const found = elements?.messages.reduce((count, message) => count + elementCount(message), 0);
      if (elements?.errno !== 0 || found !== expected) return false;
    }
    return true;
  }

  async publish(owner: string, ports: readonly HostPort[], ips: readonly string[]): Promise<void> {
    if (ports.length === 0) return;
    failpoint("publish ports");
    this.restore(owner, ports, ips);
    const requests = transaction(addEntries(this.#table, this.#entries.get(owner) ?? []));
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
      const results = await this.#rules.exchange(transaction(deleteEntries(this.#table, entries)));
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
    const results = await this.#rules.exchange(transaction([deleteTable(this.#table)]));
    const refused = results.find(({ errno }) => errno !== 0 && errno !== ENOENT);
    if (refused) throw netlinkError(`remove nftables table "${this.#table}"`, refused);
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

/**
 * Whether answers from a pod to ::1 reach their client. Where br_netfilter hands bridged packets to
 * conntrack, the address is turned back to ::1 on the bridge already, and IPv6 drops a packet to
 * ::1 that comes in by a link (ip6_rcv_core, RFC 4291, section 2.5.3).
 */
async function canAnswerLoopback6(): Promise<boolean> {
  // Missing: the module is not loaded.
  const value = await readFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "utf8").catch(() => "0");
  return value.trim() === "0";
}
