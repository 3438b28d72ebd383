/**
 * The cgroup directories of sandboxes and containers (cgroups(7), v2 only).
 *
 *   <mount>/<cgroupRoot>/pods/<sandbox>/<container>/exec-N    processes in leaves only
 *   <mount>/<cgroupRoot>/monitors/<sandbox>                   outside of pod cgroups: killing a
 *                                                             pod never kills the writer of its exit files
 *
 * Limits are written by the native core from the OCI spec; here are only directories.
 */
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { hasErrno, RuntimeError } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import type { ContainerId, SandboxId } from "../base/ids.js";
import { type FileStep, removeCgroups, runFileSteps } from "../native/index.js";
import { survivorsInWords } from "./proc.js";

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

/** A cgroup to be made. */
export interface NewCgroup {
  /** Below the mount. */
  readonly cgroup: string;
  /** The layout's controllers are enabled for its children. */
  readonly handDown: boolean;
}

/** Makes a cgroup. Missing parents are made and handed down as well. */
export function makeCgroup(layout: CgroupLayout, cgroup: string, options: { handDown: boolean }): Promise<void> {
  return makeCgroups(layout, [{ cgroup, handDown: options.handDown }]);
}

/** As `makeCgroup`, in order, for several at the price of one. */
export async function makeCgroups(layout: CgroupLayout, cgroups: readonly NewCgroup[]): Promise<void> {
  failpoint("make cgroup");
  try {
    await runFileSteps(cgroupSteps(layout, cgroups));
  } catch (err) {
    await makeRefusedCgroups(layout, cgroups, err);
  }
  failpoint("after make cgroup");
}

/** What makes cgroups whose parents are there, to go with other steps. */
export function cgroupSteps(layout: CgroupLayout, cgroups: readonly NewCgroup[]): FileStep[] {
  return cgroups.flatMap((each) => stepsOf(layout, each));
}

/** Goes on where `cgroupSteps` failed: makes missing parents, and takes what is there. */
export async function makeRefusedCgroups(
  layout: CgroupLayout,
  cgroups: readonly NewCgroup[],
  refusal: unknown,
): Promise<void> {
  if (!hasErrno(refusal, "ENOENT") && !hasErrno(refusal, "EEXIST")) throw refusal;
  for (const each of cgroups) await makeWithParents(layout, each);
}

function stepsOf(layout: CgroupLayout, { cgroup, handDown }: NewCgroup): FileStep[] {
  const path = cgroupDir(layout, cgroup);
  return [{ make: "directory", path, mode: 0o755 }, ...(handDown ? handDownSteps(layout, cgroup) : [])];
}

function handDownSteps(layout: CgroupLayout, cgroup: string): FileStep[] {
  if (layout.controllers.size === 0) return [];
  const bytes = [...layout.controllers].map((name) => `+${name}`).join(" ");
  return [{ make: "write", path: join(cgroupDir(layout, cgroup), "cgroup.subtree_control"), bytes }];
}

async function makeWithParents(layout: CgroupLayout, wanted: NewCgroup): Promise<void> {
  const [make, ...handDown] = stepsOf(layout, wanted);
  try {
    if (make) await runFileSteps([make]);
  } catch (err) {
    if (hasErrno(err, "ENOENT")) {
      await makeWithParents(layout, { cgroup: parentOf(wanted.cgroup), handDown: true });
      return makeWithParents(layout, wanted);
    }
    if (!hasErrno(err, "EEXIST")) throw err;
  }
  if (handDown.length > 0) await handDownFromAbove(layout, wanted.cgroup);
}

/**
 * A parent that a caller made, as a kubelet does, may not hand all controllers down: what it does not
 * offer cannot be enabled below, which is ENOENT (cgroup-v2.rst, "Top-down Constraint").
 */
async function handDownFromAbove(layout: CgroupLayout, cgroup: string): Promise<void> {
  const steps = handDownSteps(layout, cgroup);
  try {
    await runFileSteps(steps);
  } catch (err) {
    if (!hasErrno(err, "ENOENT") || cgroup === "") throw err;
    await handDownFromAbove(layout, parentOf(cgroup));
    await runFileSteps(steps);
  }
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
  for (let waitMs = 1; !(await removeCgroups(cgroupDir(layout, cgroup))); waitMs = Math.min(waitMs * 2, 100)) {
    if (performance.now() > giveUpAt) {
      throw new RuntimeError(
        `remove cgroup "${cgroup}": processes outlive SIGKILL: ${await survivorsInWords(cgroupDir(layout, cgroup))}`,
        { kind: "deadline-exceeded", code: "CGROUP_BUSY", syscall: { name: "rmdir", errno: "EBUSY" } },
      );
    }
    await killCgroup(layout, cgroup);
    await sleep(waitMs);
  }
}

/** Names of the cgroups directly below; none where it is gone. */
export async function childCgroups(layout: CgroupLayout, cgroup: string): Promise<string[]> {
  const entries = await readdir(cgroupDir(layout, cgroup), { withFileTypes: true }).catch((err: unknown) => {
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
