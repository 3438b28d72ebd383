/**
 * Version, Status and RuntimeConfig: what a kubelet and crictl ask before anything else.
 *
 * Knows no sandbox and no image; main says how the runtime fares.
 */
import { CgroupDriver } from "./generated/runtime/v1/api.js";
import type { Verbs } from "./verbs.js";

/** The version of the kubelet's runtime API, which has been this one since it exists (cri-api, "VersionResponse"). */
const KUBELET_API_VERSION = "0.1.0";

/** One of CRI's two conditions. `reason` is one word in CamelCase, empty where it holds. */
export interface Condition {
  readonly holds: boolean;
  readonly reason: string;
  readonly message: string;
}

export interface RuntimeHandlerStatus {
  /** Empty: the default. */
  readonly name: string;
  readonly hasUserNamespaces: boolean;
  readonly hasRecursiveReadonlyMounts: boolean;
}

export interface Introspection {
  readonly version: string;
  /** Asked at every Status. */
  runtimeReady(): Condition;
  networkReady(): Condition | Promise<Condition>;
  readonly runtimeHandlers: readonly RuntimeHandlerStatus[];
  /** For verbose requests: shown as JSON. critest reads `stateDir` from it. No secrets. */
  configuration(): Readonly<Record<string, unknown>> & { readonly stateDir: string };
}

export function introspectionVerbs(facts: Introspection): Verbs {
  return {
    version: () => ({
      version: KUBELET_API_VERSION,
      runtimeName: "minke",
      runtimeVersion: facts.version,
      runtimeApiVersion: "v1",
    }),
    status: async ({ verbose }) => ({
      status: {
        conditions: [
          toCondition("RuntimeReady", facts.runtimeReady()),
          toCondition("NetworkReady", await facts.networkReady()),
        ],
      },
      info: verbose ? { config: toJson(facts.configuration()) } : {},
      runtimeHandlers: facts.runtimeHandlers.map(({ name, hasUserNamespaces, hasRecursiveReadonlyMounts }) => ({
        name,
        features: { userNamespaces: hasUserNamespaces, recursiveReadOnlyMounts: hasRecursiveReadonlyMounts },
      })),
      features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: false, mountOptions: true },
    }),
    runtimeConfig: () => ({ linux: { cgroupDriver: CgroupDriver.CGROUPFS } }),
  };
}

function toCondition(type: string, { holds, reason, message }: Condition) {
  return { type, status: holds, reason, message };
}

function toJson(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) => (typeof item === "bigint" ? item.toString() : item));
}
