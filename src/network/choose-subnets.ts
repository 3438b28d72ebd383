/**
 * Which pod subnets this daemon uses: as set, as remembered or the first free ones, and the
 * record of it.
 */
import { access } from "node:fs/promises";
import { RuntimeError } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { RecordStore } from "../state/store.js";
import { formatSubnet, type Subnet } from "./address.js";
import { type HostView, type NetworkSettings, resolveSubnets } from "./bridge.js";
import { BRIDGE_RECORD_ID, type BridgeRecord, type NetworkRecord } from "./lease.js";

async function kernelFamilies(): Promise<Set<4 | 6>> {
  const hasIpv6 = await access("/proc/sys/net/ipv6").then(
    () => true,
    () => false,
  );
  return new Set(hasIpv6 ? [4, 6] : [4]);
}

/** @throws RuntimeError `failed-precondition` SUBNET_TAKEN, `invalid-argument` INVALID_NETWORK_SETTING */
export async function chooseSubnets(
  host: HostView,
  settings: NetworkSettings,
  store: RecordStore<NetworkRecord>,
  log: Logger,
): Promise<{ record: BridgeRecord; subnets: Subnet[] }> {
  const stored = store.get(BRIDGE_RECORD_ID);
  const remembered: BridgeRecord = stored?.type === "bridge" ? stored : { type: "bridge", sysctls: [] };
  const isPinned = store.list().some(({ body }) => body.type === "lease");
  const subnets = resolveSubnets(host, settings, remembered, await kernelFamilies(), isPinned);
  if (subnets.length === 0) {
    throw new RuntimeError(
      "choose pod subnets: both families are off (settings: network.subnet-ipv4, network.subnet-ipv6)",
      {
        kind: "invalid-argument",
        code: "INVALID_NETWORK_SETTING",
      },
    );
  }
  const of = (family: 4 | 6): string => {
    const subnet = subnets.find((each) => each.family === family);
    return subnet ? formatSubnet(subnet) : "none";
  };
  const record: BridgeRecord = { ...remembered, subnet4: of(4), subnet6: of(6) };
  for (const key of ["subnet4", "subnet6"] as const) {
    if (isPinned && settings[key] !== undefined && settings[key] !== record[key]) {
      log.warn(
        { setting: `network.${key.replace("subnet", "subnet-ipv")}`, used: record[key] },
        "pods still use the former subnet, ignoring the new one until none runs",
      );
    }
  }
  await store.put(BRIDGE_RECORD_ID, record, "remember");
  return { record, subnets };
}
