/**
 * Which plugin adjusted what: two that adjust the same thing of one container are a conflict, and the
 * second one is refused. A plugin that first removes what another one added takes it over.
 */
import { RuntimeError } from "../base/errors.js";
import { Field, type FieldOwners, type OwningPlugins } from "./generated/nri/v1alpha1/nri.js";

type FieldName = Exclude<keyof typeof Field, "UNRECOGNIZED" | "None">;

/** Fields whose entries are owned one by one. */
const COMPOUND: ReadonlySet<FieldName> = new Set([
  "Annotations",
  "Mounts",
  "Devices",
  "CdiDevices",
  "Env",
  "HugepageLimits",
  "CgroupsUnified",
  "Rlimits",
  "Namespace",
  "Sysctl",
  "LinuxNetDevices",
]);

export class Owners {
  readonly #byContainer = new Map<string, Map<string, { field: FieldName; key: string; plugin: string }>>();

  /**
   * @param key of an entry of a compound field; empty for simple ones
   * @throws RuntimeError `aborted` NRI_CONFLICT
   */
  claim(containerId: string, field: FieldName, key: string, plugin: string): void {
    const claims = this.#claimsOf(containerId);
    const taken = claims.get(`${field}\0${key}`);
    if (taken && taken.plugin !== plugin) {
      const what = key === "" ? field : `${field} "${key}"`;
      throw new RuntimeError(`NRI plugins "${taken.plugin}" and "${plugin}" both set ${what} of one container`, {
        kind: "aborted",
        code: "NRI_CONFLICT",
      });
    }
    claims.set(`${field}\0${key}`, { field, key, plugin });
  }

  /** Whoever owned it, it is free now. */
  clear(containerId: string, field: FieldName, key: string): void {
    this.#claimsOf(containerId).delete(`${field}\0${key}`);
  }

  /** Several plugins may add to such a field; its owners are all of them. */
  share(containerId: string, field: FieldName, plugin: string): void {
    const claims = this.#claimsOf(containerId);
    const before = claims.get(`${field}\0`)?.plugin.split(",") ?? [];
    claims.set(`${field}\0`, { field, key: "", plugin: [...new Set([...before, plugin])].join(",") });
  }

  toMessage(): OwningPlugins {
    const owners: { [id: string]: FieldOwners } = {};
    for (const [id, claims] of this.#byContainer) {
      const message: FieldOwners = { simple: {}, compound: {} };
      for (const { field, key, plugin } of claims.values()) {
        const number = Field[field];
        if (!COMPOUND.has(field)) message.simple[number] = plugin;
        else (message.compound[number] ??= { owners: {} }).owners[key] = plugin;
      }
      owners[id] = message;
    }
    return { owners };
  }

  #claimsOf(containerId: string): Map<string, { field: FieldName; key: string; plugin: string }> {
    const claims = this.#byContainer.get(containerId) ?? new Map<string, never>();
    this.#byContainer.set(containerId, claims);
    return claims;
  }
}

/** `-name` asks for the removal of `name`. */
export function removalOf(key: string): string | undefined {
  return key.startsWith("-") ? key.slice(1) : undefined;
}
