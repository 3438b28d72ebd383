/**
 * A container that plugins adjust before it is made, and what adjusting any part of it takes.
 */
import { RuntimeError } from "../base/errors.js";
import type { Spec } from "../oci/index.js";
import type { ContainerResources } from "../spec/container-config.js";
import { type Owners, removalOf } from "./owners.js";

/** A container under construction. The spec is the draft's own. */
export interface Draft {
  readonly spec: Spec;
  resources: ContainerResources;
  /** Below the cgroup v2 mount. */
  cgroupPath: string;
  /** Fully qualified names of CDI devices. */
  readonly cdiDevices: string[];
  readonly warnings: string[];
}

export interface Claimant {
  readonly owners: Owners;
  readonly containerId: string;
  readonly plugin: string;
}

/** A map whose keys may be marked for removal; one that is removed and set is taken over. */
export function adjustMap(
  current: Readonly<Record<string, string>>,
  wanted: Readonly<Record<string, string>>,
  field: "Annotations" | "Sysctl",
  { owners, containerId, plugin }: Claimant,
): Record<string, string> {
  const entries = new Map(Object.entries(current));
  for (const key of Object.keys(wanted)) {
    const removed = removalOf(key);
    if (removed === undefined) continue;
    owners.clear(containerId, field, removed);
    entries.delete(removed);
  }
  for (const [key, value] of Object.entries(wanted)) {
    if (removalOf(key) !== undefined) continue;
    owners.claim(containerId, field, key, plugin);
    entries.set(key, value);
  }
  return Object.fromEntries(entries);
}

/** `failed-precondition` NRI_ADJUSTMENT_INVALID: what a plugin wants cannot be had. */
export function invalidAdjustment(plugin: string, why: string): RuntimeError {
  return new RuntimeError(`adjustment of NRI plugin "${plugin}": ${why}`, {
    kind: "failed-precondition",
    code: "NRI_ADJUSTMENT_INVALID",
  });
}
