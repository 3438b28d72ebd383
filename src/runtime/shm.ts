/**
 * The /dev/shm that the containers of a sandbox share: a tmpfs that the monitor holds as a
 * descriptor, of which each container gets a clone.
 *
 * Since Linux 6.15 no mount table holds it. Before, a mount can be cloned only while it is
 * attached in the caller's mount namespace: there it stands at `<run>/shm/<sandbox>`, and is
 * taken away when the sandbox stops. So it is for another runtime handler, which mounts by path.
 */
import { mkdir, readdir, rmdir } from "node:fs/promises";
import { hasErrno } from "../base/errors.js";
import { isLongId, type SandboxId } from "../base/ids.js";
import { type Fd, isMountPoint, mountTmpfs, openDirectory, unmount } from "../native/index.js";
import type { RuntimeContext } from "./context.js";
import type { RuntimeHandler } from "./runtime-handlers.js";

/** As for any directory that everybody may write to. */
const SHM_MODE = 0o1777;

/** What a kernel without detached clones answers does not change while it runs. */
let mustAttach = false;

/**
 * How many bytes the namespaces' thread is to make a detached one of; 0: none, and `attachShm` does.
 *
 * @param handler who mounts by path
 */
export function detachedShmBytes(sizeBytes: number, handler: RuntimeHandler | undefined): number {
  return mustAttach || handler ? 0 : sizeBytes;
}

/** Mounts one where a container's mount can be cloned from. Undone by `removeShm`. */
export async function attachShm(
  ctx: RuntimeContext,
  id: SandboxId,
  sizeBytes: number,
  handler: RuntimeHandler | undefined,
): Promise<Fd> {
  if (!mustAttach && !handler) {
    mustAttach = true;
    ctx.log.info({ dir: ctx.paths.shm }, "this kernel clones attached mounts only: /dev/shm of pods is mounted here");
  }
  const path = ctx.paths.sandboxShm(id);
  await mkdir(path, { recursive: true, mode: 0o700 });
  await mountTmpfs(path, { sizeBytes, mode: SHM_MODE });
  return openDirectory(path);
}

/** Idempotent; nothing where it was never attached. Containers that still run keep theirs. */
export async function removeShm(ctx: RuntimeContext, id: SandboxId): Promise<void> {
  const path = ctx.paths.sandboxShm(id);
  try {
    await rmdir(path);
    return;
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return;
    if (!hasErrno(err, "EBUSY")) throw err;
  }
  // Another caller may be as far, EINVAL is "not a mount point" (umount(2)), or done, ENOENT.
  if (await isMountPoint(path)) await unmount(path, { detach: true }).catch(ignoring("EINVAL", "ENOENT"));
  await rmdir(path).catch(ignoring("ENOENT"));
}

function ignoring(...errnos: string[]): (err: unknown) => void {
  return (err) => {
    if (!errnos.some((errno) => hasErrno(err, errno))) throw err;
  };
}

/** Those of sandboxes that no record knows. */
export async function orphanedShm(ctx: RuntimeContext): Promise<SandboxId[]> {
  try {
    const names = await readdir(ctx.paths.shm);
    return names.filter((name): name is SandboxId => isLongId(name) && !ctx.sandboxes.get(name));
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return [];
    throw err;
  }
}
