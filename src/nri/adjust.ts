/**
 * Applies what a plugin wants of a container that is being created: to a draft of its OCI spec and of its
 * resources. Later plugins, and the record, see the result.
 *
 * The rules are NRI's: a name with `-` before it is removed, what has a name replaces what had it, hooks
 * are added, and nobody may set what another plugin has set.
 */
import type { Hook as OciHook, Hooks as OciHooks, Mount as OciMount, Rlimit, Spec } from "../oci/index.js";
import { adjustLinux } from "./adjust-linux.js";
import { adjustMap, type Claimant, type Draft, invalidAdjustment } from "./draft.js";
import type { ContainerAdjustment, Hook, Mount } from "./generated/nri/v1alpha1/nri.js";
import { removalOf } from "./owners.js";

/**
 * @throws RuntimeError `aborted` NRI_CONFLICT, `failed-precondition` NRI_ADJUSTMENT_INVALID; the draft is
 *   not to be used then
 */
export function applyAdjustment(draft: Draft, adjustment: ContainerAdjustment, who: Claimant): void {
  const { spec } = draft;
  const process = (spec.process ??= { user: { uid: 0, gid: 0 }, cwd: "/" });
  spec.annotations = adjustMap(spec.annotations ?? {}, adjustment.annotations, "Annotations", who);
  adjustMounts(spec, adjustment.mounts, who);
  process.env = adjustEnv(process.env ?? [], adjustment.env, who);
  if (adjustment.args.length > 0) {
    // An empty word before them takes the arguments over from another plugin.
    const [first, ...rest] = adjustment.args;
    if (first === "") who.owners.clear(who.containerId, "Args", "");
    who.owners.claim(who.containerId, "Args", "", who.plugin);
    process.args = first === "" ? rest : adjustment.args;
  }
  adjustHooks(spec, adjustment, who);
  for (const { type, hard, soft } of adjustment.rlimits) {
    who.owners.claim(who.containerId, "Rlimits", type, who.plugin);
    const limit: Rlimit = { type: type as Rlimit["type"], hard, soft };
    process.rlimits = [...(process.rlimits ?? []).filter((other) => other.type !== type), limit];
  }
  for (const { name } of adjustment.CDIDevices) {
    who.owners.claim(who.containerId, "CdiDevices", name, who.plugin);
    draft.cdiDevices.push(name);
  }
  if (adjustment.linux) adjustLinux(draft, adjustment.linux, who);
}

function adjustEnv(
  current: readonly string[],
  wanted: ContainerAdjustment["env"],
  { owners, containerId, plugin }: Claimant,
): string[] {
  const nameOf = (entry: string) => entry.split("=", 1)[0] ?? "";
  const entries = new Map(current.map((entry) => [nameOf(entry), entry]));
  for (const { key } of wanted) {
    const removed = removalOf(key);
    if (removed === undefined) continue;
    owners.clear(containerId, "Env", removed);
    entries.delete(removed);
  }
  for (const { key, value } of wanted) {
    if (removalOf(key) !== undefined) continue;
    if (key === "" || key.includes("=") || key.includes("\0") || value.includes("\0")) {
      throw invalidAdjustment(plugin, `"${key}" cannot be an environment variable`);
    }
    owners.claim(containerId, "Env", key, plugin);
    entries.set(key, `${key}=${value}`);
  }
  return [...entries.values()];
}

function adjustMounts(spec: Spec, wanted: readonly Mount[], { owners, containerId, plugin }: Claimant): void {
  if (wanted.length === 0) return;
  let mounts = spec.mounts ?? [];
  for (const { destination } of wanted) {
    const removed = removalOf(destination);
    if (removed === undefined) continue;
    owners.clear(containerId, "Mounts", removed);
    mounts = mounts.filter((mount) => mount.destination !== removed);
  }
  for (const mount of wanted) {
    if (removalOf(mount.destination) !== undefined) continue;
    if (!mount.destination.startsWith("/")) {
      throw invalidAdjustment(plugin, `the mount's destination "${mount.destination}" is not an absolute path`);
    }
    owners.claim(containerId, "Mounts", mount.destination, plugin);
    mounts = [...mounts.filter(({ destination }) => destination !== mount.destination), toOciMount(mount)];
    raisePropagation(spec, mount.options);
  }
  // One below another comes after it, or it would be hidden.
  spec.mounts = mounts.toSorted((a, b) => depthOf(a) - depthOf(b));
}

function toOciMount({ destination, type, source, options }: Mount): OciMount {
  const isBind = type === "bind" && !options.includes("bind") && !options.includes("rbind");
  return { destination, type, source, options: isBind ? ["rbind", ...options] : [...options] };
}

function depthOf({ destination }: OciMount): number {
  return destination.split("/").filter(Boolean).length;
}

/** A shared or slave mount inside needs a root that lets events through (mount_namespaces(7)). */
function raisePropagation(spec: Spec, options: readonly string[]): void {
  const linux = (spec.linux ??= {});
  if (options.includes("rshared") || options.includes("shared")) linux.rootfsPropagation = "rshared";
  else if (
    (options.includes("rslave") || options.includes("slave")) &&
    linux.rootfsPropagation !== "rshared" &&
    linux.rootfsPropagation !== "shared"
  ) {
    linux.rootfsPropagation = "rslave";
  }
}

function adjustHooks(spec: Spec, { hooks }: ContainerAdjustment, { owners, containerId, plugin }: Claimant): void {
  const kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] as const;
  for (const kind of kinds) {
    const added = hooks?.[kind] ?? [];
    if (added.length === 0) continue;
    owners.share(containerId, "OciHooks", plugin);
    const all: OciHooks = (spec.hooks ??= {});
    all[kind] = [...(all[kind] ?? []), ...added.map(toOciHook)];
  }
}

function toOciHook({ path, args, env, timeout }: Hook): OciHook {
  return {
    path,
    ...(args.length > 0 && { args: [...args] }),
    ...(env.length > 0 && { env: [...env] }),
    ...(timeout && timeout.value > 0n && { timeout: Number(timeout.value) }),
  };
}
