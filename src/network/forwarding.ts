/**
 * Switching the host's forwarding on for the pods, with a record of what was changed.
 */
import type { CleanupStack } from "../base/cleanup.js";
import type { Logger } from "../base/log.js";
import type { RecordStore } from "../state/store.js";
import type { Subnet } from "./address.js";
import { applySysctls, planForwarding, restoreSysctls } from "./host-sysctls.js";
import { BRIDGE_RECORD_ID, type BridgeRecord, type NetworkRecord } from "./lease.js";

/** Pods get out through it. What is changed is recorded first, so that it can be put back after a crash too. */
export async function switchForwardingOn(
  subnets: readonly Subnet[],
  record: BridgeRecord,
  store: RecordStore<NetworkRecord>,
  log: Logger,
  undo: CleanupStack,
): Promise<void> {
  const changes = await planForwarding(new Set(subnets.map(({ family }) => family)));
  if (changes.length === 0) return;
  await store.put(BRIDGE_RECORD_ID, { ...record, sysctls: [...record.sysctls, ...changes] }, "remember");
  undo.push("put sysctls back", () => restoreSysctls(changes));
  await applySysctls(changes);
  log.info(
    { paths: changes.map(({ path }) => path) },
    "switched forwarding on for the host, which pods need to get out",
  );
}
