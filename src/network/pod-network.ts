/**
 * The built-in network: every sandbox gets a veth on the daemon's bridge, an address of each
 * family, a way out and its host ports.
 *
 * A lease is written before the kernel is touched and removed when the kernel says that the link
 * is gone; links carry names that follow from the sandbox id and an alias that repeats the lease.
 * So whatever a crash leaves is found by `recover`. Knows no Pod and no container.
 */
import { CleanupStack } from "../base/cleanup.js";
import { RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { type SandboxId, shortId } from "../base/ids.js";
import type { Logger } from "../base/log.js";
import type { Fd } from "../native/index.js";
import type { PortMapping, SandboxNetwork } from "../state/sandbox.js";
import type { RecordStore } from "../state/store.js";
import { formatAddress, formatSubnet, hostAddress, type Subnet } from "./address.js";
import { AddressPool } from "./address-pool.js";
import * as bridge from "./bridge.js";
import { chooseSubnets } from "./choose-subnets.js";
import { HostPorts } from "./host-ports.js";
import { switchForwardingOn } from "./forwarding.js";
import { restoreSysctls } from "./host-sysctls.js";
import {
  BRIDGE_RECORD_ID,
  type LeaseRecord,
  leaseFromAlias,
  linkAlias,
  type NetworkRecord,
  toAddresses,
} from "./lease.js";
import { linkName, linkPrefix, podMac, retiredGroup } from "./link-names.js";
import { LinkReaper } from "./link-reaper.js";
import * as rt from "./netlink/rtnetlink.js";
import { netlinkError, NetlinkSocket } from "./netlink/socket.js";
import { PublishedPorts } from "./published-ports.js";
import type { HostPort } from "./ruleset.js";

export type { NetworkSettings } from "./bridge.js";
export type { BridgeRecord, LeaseRecord, NetworkRecord } from "./lease.js";

const ENODEV = 19;
const POD_INTERFACE = "eth0";

export interface NetworkRequest {
  /** Borrowed: the sandbox's network namespace, and a NETLINK_ROUTE socket inside it. */
  readonly netns: Fd;
  readonly netlink: Fd;
  readonly portMappings: readonly PortMapping[];
}

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
  readonly mtu: number;
}

export class PodNetwork {
  readonly #parts: Parts;
  readonly #pool: AddressPool;
  readonly #hostPorts = new HostPorts();
  readonly #leases = new Map<SandboxId, LeaseRecord>();
  /** Sandboxes whose link waits for the reaper. */
  readonly #leaving = new Map<SandboxId, Promise<void>>();
  #bridgeIndex: number;
  #repair: Promise<void> | undefined;

  private constructor(parts: Parts, bridgeIndex: number) {
    this.#parts = parts;
    this.#bridgeIndex = bridgeIndex;
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
    settings: bridge.NetworkSettings,
    store: RecordStore<NetworkRecord>,
    log: Logger,
  ): Promise<PodNetwork> {
    bridge.checkSettings(settings);
    const undo = new CleanupStack();
    try {
      const route = await NetlinkSocket.open("route");
      undo.push("close route socket", () => route.close());
      const host = await bridge.viewHost(route);
      const own = bridge.findOwnBridge(host, settings);
      const { record, subnets } = await chooseSubnets(host, settings, store, log);
      if (own && !bridge.holdsSubnets(host, own, subnets)) await bridge.removeBridge(route, settings.bridge);
      const mtu = bridge.resolveMtu(host, settings);
      if (!own) undo.push("remove bridge", () => bridge.removeBridge(route, settings.bridge));
      const bridgeIndex = await bridge.ensureBridge(route, settings, subnets, mtu);
      await switchForwardingOn(subnets, record, store, log, undo);
      const published = await PublishedPorts.open(settings.bridge, subnets);
      undo.push("close netfilter sockets", () => published.close());
      const reaper = await LinkReaper.open(retiredGroup(settings.bridge));
      undo.push("close reaper", () => reaper.close());
      const network = new PodNetwork({ settings, store, log, route, reaper, published, subnets, mtu }, bridgeIndex);
      await published.rebuild();
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
   * Gives a sandbox its network. On failure nothing of it is left.
   *
   * @throws RuntimeError `failed-precondition` HOST_PORT_IN_USE, `resource-exhausted` NO_ADDRESSES,
   *   `invalid-argument` INVALID_HOST_PORT
   */
  async setup(sandboxId: SandboxId, request: NetworkRequest): Promise<SandboxNetwork> {
    if (this.#leases.has(sandboxId)) {
      await this.teardown(sandboxId);
      await this.gone(sandboxId);
    }
    const ports = request.portMappings.filter(({ hostPort }) => hostPort > 0);
    await this.#hostPorts.reserve(sandboxId, ports);
    try {
      failpoint("lease");
      const lease = this.#takeLease(sandboxId, ports);
      await this.#parts.store.put(sandboxId, lease);
      failpoint("after lease");
      await settleBoth(this.#connect(lease, request), this.#parts.published.publish(sandboxId, ports, lease.ips));
      failpoint("after links");
      return { interface: POD_INTERFACE, ips: lease.ips };
    } catch (err) {
      this.#hostPorts.release(sandboxId);
      await this.#undoSetup(sandboxId);
      throw withContext(err, `set up the network of sandbox ${shortId(sandboxId)}`);
    }
  }

  /**
   * Cuts a sandbox off: its link is down and off the bridge, its host ports are withdrawn. The
   * link itself goes a little later (`gone`). An unknown or finished id succeeds.
   */
  async teardown(sandboxId: SandboxId): Promise<void> {
    const lease = this.#leases.get(sandboxId);
    if (!lease || this.#leaving.has(sandboxId)) return;
    const { route, published, reaper, settings } = this.#parts;
    failpoint("retire link");
    const retired = async (): Promise<void> => {
      const [result] = await route.exchange([rt.retireLink(lease.link, retiredGroup(settings.bridge))]);
      if (result && result.errno !== 0 && result.errno !== ENODEV)
        throw netlinkError(`retire link "${lease.link}"`, result);
    };
    await settleBoth(retired(), published.withdraw(sandboxId, lease.ports));
    this.#hostPorts.release(sandboxId);
    failpoint("after retire link");
    const gone = reaper.reap().then(() => this.#forget(lease));
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

  /** Settles when the kernel has deleted the sandbox's link and its addresses are free again. */
  async gone(sandboxId: SandboxId): Promise<void> {
    await this.#leaving.get(sandboxId);
  }

  /**
   * Compares leases and links with the sandboxes that live: removes what belongs to none,
   * puts ports back on the bridge, rebuilds the rules.
   */
  async recover(live: Iterable<SandboxId>): Promise<NetworkRecovery> {
    const { route, settings, published, log } = this.#parts;
    const liveIds = new Set(live);
    const [dump] = await route.run("read the host's links", [rt.dumpLinks()]);
    const links = (dump?.messages ?? [])
      .map(rt.parseLink)
      .filter((link) => link.kind === "veth" && link.name.startsWith(linkPrefix(settings.bridge)));
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
    await this.#removeLinks(strays, dead.length > 0);
    for (const lease of dead) {
      published.forget(lease.sandboxId);
      this.#hostPorts.release(lease.sandboxId);
      await this.#forget(lease);
    }
    const detached = links.filter((link) => kept.has(link.name) && link.master !== this.#bridgeIndex);
    await this.#attach(detached.map(({ name }) => kept.get(name)).filter((lease) => lease !== undefined));
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

  /**
   * Closes the sockets; pods keep their network. With `removeAll` every link, the bridge, the
   * table and the leases go, and sysctls that were changed here are put back unless another
   * daemon's bridge needs them.
   */
  async close(options: { removeAll: boolean }): Promise<void> {
    const { route, reaper, published, settings, store } = this.#parts;
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

  /** Two round trips: one batch in the host, one in the pod. */
  async #connect(lease: LeaseRecord, request: NetworkRequest): Promise<void> {
    failpoint("create link");
    const podIndex = await this.#createLink(lease, request.netns);
    failpoint("after create link");
    const pod = new NetlinkSocket(request.netlink);
    await pod.run(`configure ${POD_INTERFACE}`, [
      rt.setLinkUp(rt.LOOPBACK_INDEX),
      rt.setLinkUp(podIndex),
      ...this.#parts.subnets.map((subnet) =>
        rt.addAddress(podIndex, hostAddress(subnet, BigInt(lease.offset)), subnet.prefixLength),
      ),
      ...this.#parts.subnets.map((subnet) => rt.addDefaultRoute(podIndex, bridge.gatewayOf(subnet))),
    ]);
  }

  /** Index of eth0 in the pod. A bridge that was deleted by hand is made again. */
  async #createLink(lease: LeaseRecord, netns: Fd): Promise<number> {
    const { route, settings, mtu } = this.#parts;
    const clause = `make link "${lease.link}"`;
    const attempt = () =>
      route.exchange([
        rt.createVeth({
          hostName: lease.link,
          bridgeIndex: this.#bridgeIndex,
          netnsFd: netns.number,
          podName: POD_INTERFACE,
          podMac: podMac(toAddresses(lease.ips)),
          mtu,
        }),
        rt.configurePort(lease.link, linkAlias(lease)),
        rt.getLink(lease.link),
      ]);
    let results = await attempt();
    if (results.some(({ errno }) => errno !== 0)) {
      const [found] = await route.exchange([rt.getLink(settings.bridge)]);
      if (found?.errno === ENODEV) {
        await this.#repairBridge();
        // The first attempt may have made the pair before it was refused.
        await route.exchange([rt.deleteLink(lease.link)]);
        results = await attempt();
      }
    }
    const refused = results.find(({ errno }) => errno !== 0);
    if (refused) throw netlinkError(clause, refused);
    const link = results[2]?.messages[0];
    if (!link)
      throw new RuntimeError(`${clause}: the kernel did not describe it`, { kind: "internal", code: "INTERNAL" });
    return rt.parseLink(link).peerIndex;
  }

  /** One at a time; a pod that comes meanwhile waits for the same repair. */
  #repairBridge(): Promise<void> {
    this.#repair ??= (async () => {
      const { route, settings, subnets, mtu, log } = this.#parts;
      log.warn({ bridge: settings.bridge }, "the bridge is gone, making it again");
      this.#bridgeIndex = await bridge.ensureBridge(route, settings, subnets, mtu);
      await this.#attach([...this.#leases.values()]);
    })().finally(() => {
      this.#repair = undefined;
    });
    return this.#repair;
  }

  /** Puts existing links (back) on the bridge; one that is gone or not made yet is left out. */
  async #attach(leases: readonly LeaseRecord[]): Promise<void> {
    const attached = leases.filter(({ sandboxId }) => !this.#leaving.has(sandboxId));
    if (attached.length === 0) return;
    const results = await this.#parts.route.exchange(
      attached.flatMap((lease) => [
        rt.setMaster(lease.link, this.#bridgeIndex),
        rt.configurePort(lease.link, linkAlias(lease)),
      ]),
    );
    const refused = results.find(({ errno }) => errno !== 0 && errno !== ENODEV);
    if (refused) throw netlinkError("put links back on the bridge", refused);
  }

  /** @param isForced also waits for links that some earlier run retired */
  async #removeLinks(links: readonly rt.Link[], isForced: boolean): Promise<void> {
    const { route, reaper, settings } = this.#parts;
    if (links.length === 0 && !isForced) return;
    const results = await route.exchange(links.map(({ name }) => rt.retireLink(name, retiredGroup(settings.bridge))));
    const refused = results.find(({ errno }) => errno !== 0 && errno !== ENODEV);
    if (refused) throw netlinkError("retire links that belong to no pod", refused);
    await reaper.reap();
  }

  /** A lease whose record was lost, read back from the link's alias. Its host ports are not known any more. */
  async #restoreLease(sandboxId: SandboxId, link: rt.Link): Promise<void> {
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

/** Waits for both also where one fails, so that an undo meets nothing half done. */
async function settleBoth(one: Promise<void>, other: Promise<void>): Promise<void> {
  const results = await Promise.allSettled([one, other]);
  for (const result of results) {
    if (result.status === "rejected") throw result.reason;
  }
}
