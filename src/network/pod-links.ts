/**
 * The links of pods and the bridge that they hang on: making, retiring, and putting back what
 * somebody has deleted by hand. Knows leases, not who gives them out.
 */
import { hasErrno, RuntimeError } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import type { Logger } from "../base/log.js";
import type { Fd, LinkReplies } from "../native/index.js";
import { hostAddress, type Subnet } from "./address.js";
import * as bridge from "./bridge.js";
import { type LeaseRecord, linkAlias, toAddresses } from "./lease.js";
import { linkPrefix, podMac, retiredGroup } from "./link-names.js";
import type { LinkReaper } from "./link-reaper.js";
import * as rt from "./netlink/rtnetlink.js";
import { netlinkError, type NetlinkResult, NetlinkSocket } from "./netlink/socket.js";
import { PlannedLink } from "./planned-link.js";

const ENODEV = 19;
/** For a bridge that is deleted again while it is made again. */
const BRIDGE_RETRIES = 3;
export const POD_INTERFACE = "eth0";

export interface PodLinksParts {
  readonly settings: bridge.NetworkSettings;
  readonly route: NetlinkSocket;
  readonly reaper: LinkReaper;
  readonly subnets: readonly Subnet[];
  readonly mtu: number;
  readonly log: Logger;
  /** Those whose links belong on the bridge now. */
  readonly attached: () => readonly LeaseRecord[];
}

/** Borrowed: the sandbox's network namespace, and a NETLINK_ROUTE socket inside it. */
export interface PodNamespaces {
  readonly netns: Fd;
  readonly netlink: Fd;
  /** The link that was made with them. */
  readonly planned?: { readonly link: PlannedLink; readonly replies: Promise<LinkReplies> } | undefined;
}

/** For the bridge of an index. */
interface LinkAttempt {
  readonly asked: number;
  readonly results: readonly NetlinkResult[];
}

export class PodLinks {
  readonly #parts: PodLinksParts;
  #bridgeIndex: number;
  #repair: Promise<void> | undefined;

  constructor(parts: PodLinksParts, bridgeIndex: number) {
    this.#parts = parts;
    this.#bridgeIndex = bridgeIndex;
  }

  /** The veth links of this daemon's pods, retired ones too. */
  async list(): Promise<rt.Link[]> {
    const { route, settings } = this.#parts;
    const [dump] = await route.run("read the host's links", [rt.dumpLinks()]);
    return (dump?.messages ?? [])
      .map(rt.parseLink)
      .filter((link) => link.kind === "veth" && link.name.startsWith(linkPrefix(settings.bridge)));
  }

  /** The link of a lease, to be made with the pod's namespaces; `connect` takes what came of it. */
  plan(lease: LeaseRecord): PlannedLink {
    failpoint("create link");
    // 0 stands for what is known only then. `lo` has its index, and no place.
    const { name, bytes, isAnswered } = rt.setLinkUp(rt.LOOPBACK_INDEX);
    return new PlannedLink(
      this.#bridgeIndex,
      POD_INTERFACE,
      [rt.createVeth(this.#pair(lease, this.#bridgeIndex, 0)), rt.configurePort(lease.link, linkAlias(lease))],
      [{ name, bytes, isAnswered }, ...this.#podEnd(lease, 0)],
    );
  }

  /** Sees to it that the pod has its link: as it was planned, or where that was refused in two round trips. */
  async connect(lease: LeaseRecord, { netns, netlink, planned }: PodNamespaces): Promise<void> {
    const results = planned && planned.link.results(await planned.replies);
    const refused = results?.host.some(({ errno }) => errno !== 0);
    if (results && !refused) {
      failpoint("after create link");
      const failed = results.pod.find(({ errno }) => errno !== 0);
      if (failed) throw netlinkError(`configure ${POD_INTERFACE}`, failed);
      return;
    }
    const former = planned && results && { asked: planned.link.bridgeIndex, results: results.host };
    const podIndex = await this.#createLink(lease, netns, former);
    failpoint("after create link");
    const pod = new NetlinkSocket(netlink);
    await pod.run(`configure ${POD_INTERFACE}`, [rt.setLinkUp(rt.LOOPBACK_INDEX), ...this.#podEnd(lease, podIndex)]);
  }

  #pair(lease: LeaseRecord, bridgeIndex: number, netnsFd: number): rt.VethPair {
    return {
      hostName: lease.link,
      bridgeIndex,
      netnsFd,
      podName: POD_INTERFACE,
      podMac: podMac(toAddresses(lease.ips)),
      mtu: this.#parts.mtu,
    };
  }

  #podEnd(lease: LeaseRecord, index: number): rt.PlacedRequest[] {
    const { subnets } = this.#parts;
    return [
      rt.setLinkUp(index),
      ...subnets.map((subnet) => rt.addAddress(index, hostAddress(subnet, BigInt(lease.offset)), subnet.prefixLength)),
      ...subnets.map((subnet) => rt.addDefaultRoute(index, bridge.gatewayOf(subnet))),
    ];
  }

  /** Takes it down and off the bridge; `reap` deletes it. */
  async retire(link: string): Promise<void> {
    const { route, settings } = this.#parts;
    const [result] = await route.exchange([rt.retireLink(link, retiredGroup(settings.bridge))]);
    if (result && result.errno !== 0 && result.errno !== ENODEV) throw netlinkError(`retire link "${link}"`, result);
  }

  /** Settles when a retired link is gone from the kernel. */
  reap(link: string): Promise<void> {
    return this.#parts.reaper.reap(link);
  }

  /** @param isForced also waits for links that some earlier run retired */
  async remove(links: readonly rt.Link[], isForced: boolean): Promise<void> {
    const { route, reaper, settings } = this.#parts;
    if (links.length === 0 && !isForced) return;
    const results = await route.exchange(links.map(({ name }) => rt.retireLink(name, retiredGroup(settings.bridge))));
    const refused = results.find(({ errno }) => errno !== 0 && errno !== ENODEV);
    if (refused) throw netlinkError("retire links that belong to no pod", refused);
    await reaper.reap(undefined);
  }

  isOnBridge(link: rt.Link): boolean {
    return link.master === this.#bridgeIndex;
  }

  /** Puts existing links (back) on the bridge; one that is gone or not made yet is left out. */
  async attach(leases: readonly LeaseRecord[]): Promise<void> {
    if (leases.length === 0) return;
    const results = await this.#parts.route.exchange(
      leases.flatMap((lease) => [
        rt.setMaster(lease.link, this.#bridgeIndex),
        rt.configurePort(lease.link, linkAlias(lease)),
      ]),
    );
    const refused = results.find(({ errno }) => errno !== 0 && errno !== ENODEV);
    if (refused) throw netlinkError("put links back on the bridge", refused);
  }

  /** @returns true where the bridge was gone, down or without its addresses, and is as it must be now */
  async verifyBridge(): Promise<boolean> {
    const { route, settings, subnets, log } = this.#parts;
    const [found] = await route.exchange([rt.getLink(settings.bridge)]);
    const message = found?.messages[0];
    if (found?.errno === 0 && message) {
      const link = rt.parseLink(message);
      if (link.index === this.#bridgeIndex && link.isUp) {
        if (!(await bridge.ensureAddresses(route, settings, subnets, link.index))) return false;
        log.warn({ bridge: settings.bridge }, "the bridge had lost addresses, gave it them again");
        return true;
      }
    } else if (found?.errno !== ENODEV) {
      return false;
    }
    await this.#repairBridge();
    return true;
  }

  /**
   * Index of eth0 in the pod. A bridge that was deleted by hand is made again.
   *
   * @param former an attempt that was refused
   */
  async #createLink(lease: LeaseRecord, netns: Fd, former: LinkAttempt | undefined): Promise<number> {
    const { route } = this.#parts;
    const clause = `make link "${lease.link}"`;
    const attempt = (bridgeIndex: number) =>
      route.exchange([
        rt.createVeth(this.#pair(lease, bridgeIndex, netns.number)),
        rt.configurePort(lease.link, linkAlias(lease)),
        rt.getLink(lease.link),
      ]);
    let asked = former?.asked ?? this.#bridgeIndex;
    let results = former?.results ?? (await attempt(asked));
    const refusal = () => results.find(({ errno }) => errno !== 0);
    for (let left = BRIDGE_RETRIES; left > 0 && refusal(); left--) {
      // Also where another pod has seen to it since this one asked.
      if (!(await this.verifyBridge()) && asked === this.#bridgeIndex) break;
      // The attempt may have made the pair before it was refused.
      await route.exchange([rt.deleteLink(lease.link)]);
      asked = this.#bridgeIndex;
      results = await attempt(asked);
    }
    const refused = refusal();
    if (refused) throw netlinkError(clause, refused);
    const link = results[2]?.messages[0];
    if (!link)
      throw new RuntimeError(`${clause}: the kernel did not describe it`, { kind: "internal", code: "INTERNAL" });
    return rt.parseLink(link).peerIndex;
  }

  /** One at a time; a pod that comes meanwhile waits for the same repair. */
  #repairBridge(): Promise<void> {
    this.#repair ??= (async () => {
      const { route, settings, subnets, mtu, log, attached } = this.#parts;
      log.warn({ bridge: settings.bridge }, "the bridge is gone or down, making it again");
      for (let left = BRIDGE_RETRIES; ; left--) {
        try {
          this.#bridgeIndex = await bridge.ensureBridge(route, settings, subnets, mtu);
          break;
        } catch (err) {
          if (left === 0 || !(hasErrno(err, "ENODEV") || hasErrno(err, "ENOENT"))) throw err;
        }
      }
      await this.attach(attached());
    })().finally(() => {
      this.#repair = undefined;
    });
    return this.#repair;
  }
}
