/**
 * The cgroup directories of sandboxes and containers (cgroups(7), v2 only).
 *
 *   <mount>/<cgroupRoot>/pods/<sandbox>/<container>/exec-N    processes in leaves only
 *   <mount>/<cgroupRoot>/monitors/<sandbox>                   outside of pod cgroups: killing a
 *                                                             pod never kills the writer of its exit files
 *
 * Limits are written by the native core from the OCI spec; here are only directories.
 */
import { mkdir, readdir, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import type { ContainerId, SandboxId } from "../base/ids.js";

export interface CgroupLayout {
  /** Where cgroup2 is mounted: `/sys/fs/cgroup`, or `…/unified` on a hybrid host. */
  readonly mount: string;
  /** Below the mount, without slashes at its ends: `minke`. */
  readonly root: string;
  /** Controllers handed down to containers. */
  readonly controllers: ReadonlySet<string>;
}

/** Below the mount, with a leading slash: what an OCI spec's cgroupsPath takes. */
export function sandboxCgroup(layout: CgroupLayout, id: SandboxId, cgroupParent: string): string {
  const parent = cgroupParent === "" ? `/${layout.root}/pods` : join("/", cgroupParent);
  return `${parent}/${id}`;
}

export function containerCgroup(sandboxCgroupPath: string, id: ContainerId): string {
  return `${sandboxCgroupPath}/${id}`;
}

export function monitorCgroup(layout: CgroupLayout, id: SandboxId): string {
  return `/${layout.root}/monitors/${id}`;
}

/** Absolute path of a cgroup that is named below the mount. */
export function cgroupDir(layout: CgroupLayout, cgroup: string): string {
  return join(layout.mount, cgroup);
}

/**
 * Makes a cgroup and hands the layout's controllers down to its children.
 * Missing parents are made and handed down as well.
 */
export async function makeCgroup(layout: CgroupLayout, cgroup: string, options: { handDown: boolean }): Promise<void> {
  try {
    failpoint("make cgroup");
    await mkdir(cgroupDir(layout, cgroup));
    failpoint("after make cgroup");
  } catch (err) {
    if (hasErrno(err, "ENOENT")) {
      await makeCgroup(layout, parentOf(cgroup), { handDown: true });
      await mkdir(cgroupDir(layout, cgroup));
    } else if (!hasErrno(err, "EEXIST")) {
      throw withContext(err, `make cgroup "${cgroup}"`);
    }
  }
  if (options.handDown) await handDownControllers(layout, cgroup);
}

async function handDownControllers(layout: CgroupLayout, cgroup: string): Promise<void> {
  if (layout.controllers.size === 0) return;
  const enable = [...layout.controllers].map((name) => `+${name}`).join(" ");
  await writeFile(join(cgroupDir(layout, cgroup), "cgroup.subtree_control"), enable).catch((err: unknown) => {
    throw withContext(err, `hand controllers "${enable}" down in cgroup "${cgroup}"`);
  });
}

/** Kills every process below (cgroup-v2.rst, "cgroup.kill"). A cgroup that is gone has none. */
export async function killCgroup(layout: CgroupLayout, cgroup: string): Promise<void> {
  await writeFile(join(cgroupDir(layout, cgroup), "cgroup.kill"), "1").catch(ignoreMissing);
}

/**
 * Removes a cgroup and all below it, killing what still runs there.
 *
 * A reaped process no longer blocks rmdir, so the first try mostly succeeds; EBUSY means live
 * processes, which are killed and waited for.
 *
 * @param deadlineMs how long killed processes may take to end
 * @throws RuntimeError `deadline-exceeded` CGROUP_BUSY where processes outlive SIGKILL (state D)
 */
export async function removeCgroup(layout: CgroupLayout, cgroup: string, deadlineMs = 10_000): Promise<void> {
  failpoint("remove cgroup");
  const giveUpAt = performance.now() + deadlineMs;
  for (let waitMs = 1; !(await tryRemoveTree(cgroupDir(layout, cgroup))); waitMs = Math.min(waitMs * 2, 100)) {
    if (performance.now() > giveUpAt) {
      throw new RuntimeError(
        `remove cgroup "${cgroup}": processes outlive SIGKILL, most likely in uninterruptible sleep (state D in ps)`,
        { kind: "deadline-exceeded", code: "CGROUP_BUSY", syscall: { name: "rmdir", errno: "EBUSY" } },
      );
    }
    await killCgroup(layout, cgroup);
    await sleep(waitMs);
  }
}

/** False where a process is still in it. */
async function tryRemoveTree(dir: string): Promise<boolean> {
  try {
    await rmdir(dir);
    return true;
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return true;
    if (!hasErrno(err, "EBUSY")) throw withContext(err, `remove cgroup "${dir}"`);
  }
  // EBUSY: processes, or cgroups below.
  for (const child of await listChildren(dir)) {
    if (!(await tryRemoveTree(join(dir, child)))) return false;
  }
  try {
    await rmdir(dir);
    return true;
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return true;
    if (hasErrno(err, "EBUSY")) return false;
    throw withContext(err, `remove cgroup "${dir}"`);
  }
}

/** Names of the cgroups directly below; none where it is gone. */
export async function childCgroups(layout: CgroupLayout, cgroup: string): Promise<string[]> {
  return listChildren(cgroupDir(layout, cgroup));
}

async function listChildren(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch((err: unknown) => {
    ignoreMissing(err);
    return [];
  });
  return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
}

function parentOf(cgroup: string): string {
  return cgroup.slice(0, cgroup.lastIndexOf("/"));
}

function ignoreMissing(err: unknown): void {
  // ENODEV: the cgroup was removed while its file was open.
  if (!hasErrno(err, "ENOENT") && !hasErrno(err, "ENODEV")) throw err;
}
