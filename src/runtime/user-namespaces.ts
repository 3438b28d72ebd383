/**
 * The ids of sandboxes with a user namespace: which of the host's ids they have.
 *
 * Where the caller leaves it open, a sandbox gets ids that no other one has, of either owner, so
 * that whoever leaves a container meets no files and no processes of another pod. The records
 * are the register: ids are free again once the record that names them is gone.
 */
import { RuntimeError } from "../base/errors.js";
import type { SandboxId } from "../base/ids.js";
import type { IdMapping, IdMaps, SandboxConfig } from "../state/sandbox.js";
import type { RuntimeContext } from "./context.js";

/** Where ids for user namespaces come from. */
export interface IdRangeSettings {
  /** Of the first range. */
  readonly firstId: number;
  readonly idsPerPod: number;
  /** Ranges, one behind the other. */
  readonly maxPods: number;
}

/**
 * The maps of a sandbox that is about to be recorded, or `undefined` without a user namespace.
 * They are its own from now on; the caller takes it out of `takenIds` once the record says so.
 *
 * @throws RuntimeError `failed-precondition` USER_NAMESPACE_REFUSED: this kernel has none, or a
 *   namespace of the host is asked for beside it; `resource-exhausted` IDS_EXHAUSTED
 */
export function takeIdMaps(ctx: RuntimeContext, id: SandboxId, config: SandboxConfig): IdMaps | undefined {
  const { userNamespace, namespaces } = config;
  if (!userNamespace) return undefined;
  if (!ctx.host.hasUserNamespaces)
    throw refused("this kernel, or the file system of the daemon's root, maps no ids of image layers");
  for (const [kind, mode] of Object.entries(namespaces)) {
    // Its own root has no rights over what the host's user namespace owns, so /sys, /proc or /dev/mqueue could not be mounted.
    if (mode === "node") throw refused(`it cannot be combined with the host's ${kind} namespace`);
  }
  const maps = userNamespace === "any" ? freeMaps(ctx) : userNamespace;
  ctx.takenIds.set(id, maps);
  return maps;
}

function refused(why: string): RuntimeError {
  return new RuntimeError(`user namespace: ${why}`, { kind: "failed-precondition", code: "USER_NAMESPACE_REFUSED" });
}

function freeMaps(ctx: RuntimeContext): IdMaps {
  const { firstId, idsPerPod, maxPods } = ctx.idRanges;
  const recorded = ctx.sandboxes.list().flatMap(({ body }) => (body.idMaps ? [body.idMaps] : []));
  const taken = [...recorded, ...ctx.takenIds.values()].flatMap(({ uids, gids }) => [...uids, ...gids]);
  for (let index = 0; index < maxPods; index++) {
    const range: IdMapping = { hostId: firstId + index * idsPerPod, containerId: 0, length: idsPerPod };
    if (!taken.some((other) => overlaps(range, other))) return { uids: [range], gids: [range] };
  }
  throw new RuntimeError(
    `user namespace: all ${maxPods} ranges of ids are in use; user-namespaces.max-pods of the settings says how many there are`,
    { kind: "resource-exhausted", code: "IDS_EXHAUSTED" },
  );
}

function overlaps(a: IdMapping, b: IdMapping): boolean {
  return a.hostId < b.hostId + b.length && b.hostId < a.hostId + a.length;
}

/** Who root inside is on the host: uid and gid. */
export function mappedRoot({ uids, gids }: IdMaps): [uid: number, gid: number] {
  return [uids[0]?.hostId ?? 0, gids[0]?.hostId ?? 0];
}
