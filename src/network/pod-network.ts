/**
 * The built-in network: every sandbox gets a veth on the daemon's bridge, an address of each
 * family, a way out and its host ports.
 *
 * A lease is written while its link is made, before anybody hears of it, and removed when the kernel
 * says that the link is gone; links carry names that follow from the sandbox id and an alias that
 * repeats the lease. So whatever a crash leaves is found by `recover`. Knows no Pod and no container.
 */
import { CleanupStack } from "../base/cleanup.js";
import { RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { type SandboxId, shortId } from "../base/ids.js";
import type { Logger } from "../base/log.js";
import { settleAll } from "../base/settle.js";
import type { PortMapping, SandboxNetwork } from "../state/sandbox.js";
import type { RecordStore } from "../state/store.js";
import { formatAddress, formatSubnet, hostAddress, isLoopback6, type Subnet } from "./address.js";
import { AddressPool } from "./address-pool.js";
import * as bridge from "./bridge.js";
import { chooseSubnets } from "./choose-subnets.js";
import { settleBridgeName } from "./former-bridge.js";
import { HostPorts } from "./host-ports.js";
import { switchForwardingOn } from "./forwarding.js";
import { restoreSysctls } from "./host-sysctls.js";
import { BRIDGE_RECORD_ID, type LeaseRecord, leaseFromAlias, type NetworkRecord } from "./lease.js";
import { linkName, retiredGroup } from "./link-names.js";
import { LinkReaper } from "./link-reaper.js";
import type { Link } from "./netlink/rtnetlink.js";
import { NetlinkSocket } from "./netlink/socket.js";
import type { Reserved } from "./planned-link.js";
import { POD_INTERFACE, PodLinks, type PodNamespaces } from "./pod-links.js";
import { PublishedPorts } from "./published-ports.js";
import type { HostPort } from "./ruleset.js";

export type { NetworkSettings } from "./bridge.js";
export type { BridgeRecord, LeaseRecord, NetworkRecord } from "./lease.js";

/** How long what was flushed or deleted by hand stays so. */
const VERIFY_MS = 5_000;

/** What `recover` found and did. */
export interface NetworkRecovery {
  readonly removedLinks: readonly string[];
  readonly removedLeases: readonly SandboxId[];
  /** Live sandboxes whose link is gone: they have no network any more. */
  readonly unreachable: readonly SandboxId[];
}

interface Parts {
  readonly settings: bridge.NetworkSettings;
  readonly store: RecordStore<NetworkRecord>;
  readonly log: Logger;
  readonly route: NetlinkSocket;
  readonly reaper: LinkReaper;
  readonly published: PublishedPorts;
  readonly subnets: readonly Subnet[];
}

export class PodNetwork {
  readonly #parts: Parts;
  readonly #pool: AddressPool;
  readonly #hostPorts = new HostPorts();
  readonly #leases = new Map<SandboxId, LeaseRecord>();
  /** Writes of leases that `setup` has not waited for yet. */
  readonly #recording = new Map<SandboxId, Promise<void>>();
  /** Sandboxes whose link waits for the reaper. */
  readonly #leaving = new Map<SandboxId, Promise<void>>();
  readonly #links: PodLinks;
  #verifier: NodeJS.Timeout | undefined;
  #verifying: Promise<void> = Promise.resolve();

  private constructor(parts: Parts, bridge: { readonly index: number; readonly mtu: number }) {
    this.#parts = parts;
    const attached = () => [...this.#leases.values()].filter(({ sandboxId }) => !this.#leaving.has(sandboxId));
    this.#links = new PodLinks({ ...parts, mtu: bridge.mtu, attached }, bridge.index);
    this.#pool = new AddressPool(parts.subnets);
    for (const { body } of parts.store.list()) {
      if (body.type === "lease") this.#adopt(body);
    }
  }

  /**
   * Finds or makes bridge, addresses, forwarding and rules. Leases of a former run are kept;
   * call `recover` next.
   *
   * @throws RuntimeError `failed-precondition` BRIDGE_TAKEN or SUBNET_TAKEN: naming the setting;
   *   `invalid-argument` INVALID_NETWORK_SETTING
   */
  static async open(
    wanted: bridge.NetworkSettings,
    store: RecordStore<NetworkRecord>,
    log: Logger,
  ): Promise<PodNetwork> {
    bridge.checkSettings(wanted);
    const undo = new CleanupStack();
    try {
      const route = await NetlinkSocket.open("route");
      undo.push("close route socket", () => route.close());
      const hasLeases = store.list().some(({ body }) => body.type === "lease");
      const { settings, host } = await settleBridgeName(route, wanted, hasLeases, log);
      const own = bridge.findOwnBridge(host, settings);
      const { record, subnets } = await chooseSubnets(host, settings, store, log);
      if (own && !bridge.holdsSubnets(host, own, subnets)) await bridge.removeBridge(route, settings.bridge);
      const mtu = bridge.resolveMtu(host, settings);
      if (!own) undo.push("remove bridge", () => bridge.removeBridge(route, settings.bridge));
      const bridgeIndex = await bridge.ensureBridge(route, settings, subnets, mtu);
      await switchForwardingOn(subnets, record, store, log, undo);
      const published = await PublishedPorts.open({
        bridge: settings.bridge,
        subnets,
        isolateFrom: settings.isolateFrom ?? [],
      });
      undo.push("close netfilter sockets", () => published.close());
      const reaper = new LinkReaper(retiredGroup(settings.bridge));
      undo.push("close reaper", () => reaper.close());
      const network = new PodNetwork(
        { settings, store, log, route, reaper, published, subnets },
        { index: bridgeIndex, mtu },
      );
      await published.rebuild();
      if (!published.hasLoopback6) {
        log.info(
          "host ports do not answer on ::1 here, as net.bridge.bridge-nf-call-ip6tables is 1; 127.0.0.1 and every other address do",
        );
      }
      network.#verifier = setInterval(() => network.#verifyQuietly(), VERIFY_MS).unref();
      undo.commit();
      return network;
    } catch (err) {
      await undo.unwind();
      throw withContext(err, "open the pod network");
    }
  }

  /** For status and messages: `10.88.0.0/16`, IPv4 first. */
  get subnets(): readonly string[] {
    return this.#parts.subnets.map(formatSubnet);
  }

  /** Where pods reach the host, and where it answers for them: the bridge's addresses, IPv4 first. */
  get gateways(): readonly string[] {
    return this.#parts.subnets.map((subnet) => formatAddress(bridge.gatewayOf(subnet)));
  }

  /**
   * Gives a sandbox its addresses and host ports, ahead of its namespaces. On failure nothing of it is left.
   *
   * @throws RuntimeError `failed-precondition` HOST_PORT_IN_USE, HOST_PORT_UNREACHABLE, `resource-exhausted`
   *   NO_ADDRESSES, `invalid-argument` INVALID_HOST_PORT
   */
  async reserve(sandboxId: SandboxId, portMappings: readonly PortMapping[]): Promise<Reserved> {
    if (this.#leases.has(sandboxId)) {
      await this.teardown(sandboxId);
      await this.gone(sandboxId);
    }
    const ports = portMappings.filter(({ hostPort }) => hostPort > 0);
    this.#checkReachable(ports);
    await this.#hostPorts.reserve(sandboxId, ports);
    return this.#orUndone(sandboxId, async () => {
      failpoint("lease");
      const lease = this.#takeLease(sandboxId, ports);
      return { network: networkOf(lease), link: this.#links.plan(lease) };
    });
  }

  /** Begins to write a lease, for who has something to do meanwhile: `setup` waits for it, or does it. */
  record(sandboxId: SandboxId): void {
    const lease = this.#leases.get(sandboxId);
    if (!lease || this.#recording.has(sandboxId)) return;
    const written = this.#parts.store.put(sandboxId, lease).then(() => failpoint("after lease"));
    written.catch(() => undefined);
    this.#recording.set(sandboxId, written);
  }

  /** Whether it has been given its addresses. */
  has(sandboxId: SandboxId): boolean {
    return this.#leases.has(sandboxId) && !this.#leaving.has(sandboxId);
  }

  /** Gives a sandbox the network that has been reserved for it. On failure nothing of it is left. */
  async setup(sandboxId: SandboxId, namespaces: PodNamespaces): Promise<SandboxNetwork> {
    return this.#orUndone(sandboxId, async () => {
      const lease = this.#leases.get(sandboxId);
      if (!lease) throw new RuntimeError("it has no lease", { kind: "internal", code: "INTERNAL" });
      this.record(sandboxId);
      await settleAll([
        this.#links.connect(lease, namespaces),
        this.#parts.published.publish(sandboxId, lease.ports, lease.ips),
        this.#recording.get(sandboxId),
      ]);
      this.#recording.delete(sandboxId);
      failpoint("after links");
      return networkOf(lease);
    });
  }

  /**
   * Cuts a sandbox off: its link is down and off the bridge, its host ports are withdrawn. The
   * link itself goes a little later (`gone`). An unknown or finished id succeeds.
   */
  async teardown(sandboxId: SandboxId): Promise<void> {
    const lease = this.#leases.get(sandboxId);
    if (!lease || this.#leaving.has(sandboxId)) return;
    this.#recording.delete(sandboxId);
    failpoint("retire link");
    await settleAll([this.#links.retire(lease.link), this.#parts.published.withdraw(sandboxId, lease.ports)]);
    this.#hostPorts.release(sandboxId);
    failpoint("after retire link");
    const gone = this.#links.reap(lease.link).then(() => this.#forget(lease));
    this.#leaving.set(sandboxId, gone);
    gone
      .catch((err: unknown) => {
        const { kind, code, message } = toRuntimeError(err);
        this.#parts.log.warn(
          { sandboxId, kind, code, reason: message },
          "could not delete a pod's link, keeping its lease until the next try",
        );
      })
      .finally(() => this.#leaving.delete(sandboxId));
  }

  /** Settles when the kernel has deleted the sandbox's link and its addresses are free again; what had failed is tried anew. */
  async gone(sandboxId: SandboxId): Promise<void> {
    await this.#leaving.get(sandboxId);
    if (!this.#leases.has(sandboxId)) return;
    await this.teardown(sandboxId);
    await this.#leaving.get(sandboxId);
  }

  /**
   * Compares leases and links with the sandboxes that live: removes what belongs to none,
   * puts ports back on the bridge, rebuilds the rules.
   */
  async recover(live: Iterable<SandboxId>): Promise<NetworkRecovery> {
    const { settings, published, log } = this.#parts;
    const liveIds = new Set(live);
    const links = await this.#links.list();
    const linkByName = new Map(links.map((link) => [link.name, link]));
    for (const sandboxId of liveIds) {
      const link = linkByName.get(linkName(settings.bridge, sandboxId));
      if (link && !this.#leases.has(sandboxId)) await this.#restoreLease(sandboxId, link);
    }
    const dead = [...this.#leases.values()].filter(
      ({ sandboxId }) => !liveIds.has(sandboxId) && !this.#leaving.has(sandboxId),
    );
    const kept = new Map(
      [...this.#leases.values()].filter(({ sandboxId }) => liveIds.has(sandboxId)).map((lease) => [lease.link, lease]),
    );
    const strays = links.filter(({ name }) => !kept.has(name));
    await this.#links.remove(strays, dead.length > 0);
    for (const lease of dead) {
      published.forget(lease.sandboxId);
      this.#hostPorts.release(lease.sandboxId);
      await this.#forget(lease);
    }
    const detached = links.filter((link) => kept.has(link.name) && !this.#links.isOnBridge(link));
    await this.#links.attach(detached.map(({ name }) => kept.get(name)).filter((lease) => lease !== undefined));
    await published.rebuild();
    const unreachable = [...kept.values()]
      .filter(({ link }) => !linkByName.has(link))
      .map(({ sandboxId }) => sandboxId);
    if (unreachable.length > 0)
      log.warn({ sandboxIds: unreachable }, "the links of live pods are gone, they stay without network");
    return {
      removedLinks: strays.map(({ name }) => name),
      removedLeases: dead.map(({ sandboxId }) => sandboxId),
      unreachable,
    };
  }

  /** Puts back what somebody deleted or flushed by hand, and says what that was. Runs by itself every few seconds. */
  async verify(): Promise<("bridge" | "rules")[]> {
    const { published, log, settings } = this.#parts;
    const repaired: ("bridge" | "rules")[] = [];
    if (await this.#links.verifyBridge()) repaired.push("bridge");
    if (await published.verify()) {
      log.warn({ bridge: settings.bridge }, "nftables rules were not as they must be, made them again");
      repaired.push("rules");
    }
    return repaired;
  }

  /**
   * Closes the sockets; pods keep their network. With `removeAll` every link, the bridge, the
   * table and the leases go, and sysctls that were changed here are put back unless another
   * daemon's bridge needs them.
   */
  async close(options: { removeAll: boolean }): Promise<void> {
    const { route, reaper, published, settings, store } = this.#parts;
    clearInterval(this.#verifier);
    await this.#verifying;
    try {
      if (options.removeAll) {
        await this.recover([]);
        await Promise.allSettled(this.#leaving.values());
        await published.removeTable();
        await bridge.removeBridge(route, settings.bridge);
        const record = store.get(BRIDGE_RECORD_ID);
        const isShared = bridge.hasOtherBridges(await bridge.viewHost(route), settings);
        if (record?.type === "bridge" && !isShared) await restoreSysctls(record.sysctls);
        await store.remove(BRIDGE_RECORD_ID);
      }
    } finally {
      await reaper.close();
      published.close();
      route.close();
    }
  }

  #verifyQuietly(): void {
    this.#verifying = this.#verifying
      .then(() => this.verify())
      .then(
        () => undefined,
        (err: unknown) => {
          const { kind, code, message } = toRuntimeError(err);
          this.#parts.log.warn({ kind, code, reason: message }, "could not look after the network, trying again later");
        },
      );
  }

  #checkReachable(ports: readonly HostPort[]): void {
    const port = ports.find(({ hostIp }) => isLoopback6(hostIp));
    if (!port || this.#parts.published.hasLoopback6) return;
    throw new RuntimeError(
      `publish ${port.protocol} port ${port.hostPort} on ${port.hostIp}: answers to ::1 are lost while net.bridge.bridge-nf-call-ip6tables is 1`,
      { kind: "failed-precondition", code: "HOST_PORT_UNREACHABLE" },
    );
  }

  #adopt(lease: LeaseRecord): void {
    this.#leases.set(lease.sandboxId, lease);
    this.#pool.mark(lease.offset);
    this.#hostPorts.restore(lease.sandboxId, lease.ports);
    this.#parts.published.restore(lease.sandboxId, lease.ports, lease.ips);
  }

  #takeLease(sandboxId: SandboxId, ports: readonly HostPort[]): LeaseRecord {
    const offset = this.#pool.take();
    const ips = this.#parts.subnets.map((subnet) => formatAddress(hostAddress(subnet, BigInt(offset))));
    const kept = ports.map(({ protocol, hostIp, hostPort, containerPort }) => ({
      protocol,
      hostIp,
      hostPort,
      containerPort,
    }));
    const link = linkName(this.#parts.settings.bridge, sandboxId);
    const lease: LeaseRecord = { type: "lease", sandboxId, link, offset, ips, ports: kept };
    this.#leases.set(sandboxId, lease);
    return lease;
  }

  async #forget(lease: LeaseRecord): Promise<void> {
    failpoint("forget lease");
    await this.#parts.store.remove(lease.sandboxId);
    failpoint("after forget lease");
    this.#leases.delete(lease.sandboxId);
    this.#pool.release(lease.offset);
  }

  async #orUndone<T>(sandboxId: SandboxId, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (err) {
      this.#hostPorts.release(sandboxId);
      await this.#undoSetup(sandboxId);
      throw withContext(err, `set up the network of sandbox ${shortId(sandboxId)}`);
    }
  }

  async #undoSetup(sandboxId: SandboxId): Promise<void> {
    try {
      await this.teardown(sandboxId);
      await this.gone(sandboxId);
    } catch (err) {
      const { kind, code, message } = toRuntimeError(err);
      this.#parts.log.warn(
        { sandboxId, kind, code, reason: message },
        "could not undo a pod's network, leaving it to the next start",
      );
    }
  }

  /** A lease whose record was lost, read back from the link's alias. Its host ports are not known any more. */
  async #restoreLease(sandboxId: SandboxId, link: Link): Promise<void> {
    const lease = leaseFromAlias(sandboxId, link, this.#parts.subnets);
    if (!lease) return;
    this.#parts.log.warn(
      { sandboxId, link: link.name },
      "a pod's lease was lost, reading it back from its link; its host ports are withdrawn",
    );
    await this.#parts.store.put(sandboxId, lease);
    this.#adopt(lease);
  }
}

function networkOf({ ips }: LeaseRecord): SandboxNetwork {
  return { interface: POD_INTERFACE, ips };
}
