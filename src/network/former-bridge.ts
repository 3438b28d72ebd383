/**
 * A bridge that this daemon made under another name, before the settings changed: pods that live
 * keep it, and without any it goes, with its rules and links.
 */
import type { Logger } from "../base/log.js";
import { type HostView, type NetworkSettings, ownBridges, removeBridge, viewHost } from "./bridge.js";
import { linkPrefix } from "./link-names.js";
import { deleteTable, transaction } from "./netlink/nftables.js";
import * as rt from "./netlink/rtnetlink.js";
import { netlinkError, NetlinkSocket } from "./netlink/socket.js";
import { tableName } from "./ruleset.js";

const ENOENT = 2;
const ENODEV = 19;

/**
 * @param hasLeases pods of a former run may live
 * @returns the settings to go by, and the host as it is now
 */
export async function settleBridgeName(
  route: NetlinkSocket,
  settings: NetworkSettings,
  hasLeases: boolean,
  log: Logger,
): Promise<{ settings: NetworkSettings; host: HostView }> {
  const host = await viewHost(route);
  const former = ownBridges(host, settings).filter(({ name }) => name !== settings.bridge);
  const [first] = former;
  if (!first) return { settings, host };
  if (hasLeases) {
    log.warn(
      { setting: "network.bridge", used: first.name },
      "pods still use the former bridge, ignoring the new name until none runs",
    );
    return { settings: { ...settings, bridge: first.name }, host };
  }
  for (const { name } of former) {
    log.info({ bridge: name }, "removing the bridge of a former name");
    await removeLinks(
      route,
      host.links.filter((link) => link.kind === "veth" && link.name.startsWith(linkPrefix(name))),
    );
    await removeTable(name);
    await removeBridge(route, name);
  }
  return { settings, host: await viewHost(route) };
}

async function removeLinks(route: NetlinkSocket, links: readonly rt.Link[]): Promise<void> {
  if (links.length === 0) return;
  const results = await route.exchange(links.map(({ name }) => rt.deleteLink(name)));
  const refused = results.find(({ errno }) => errno !== 0 && errno !== ENODEV);
  if (refused) throw netlinkError("remove links of a former bridge", refused);
}

async function removeTable(bridge: string): Promise<void> {
  const socket = await NetlinkSocket.open("netfilter");
  try {
    const results = await socket.exchange(transaction([deleteTable(tableName(bridge))]));
    const refused = results.find(({ errno }) => errno !== 0 && errno !== ENOENT);
    if (refused) throw netlinkError(`remove nftables table "${tableName(bridge)}"`, refused);
  } finally {
    socket.close();
  }
}
