/**
 * Mounts of the daemon itself, and reading the mount table: where the cgroup v2 mount is.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.js";
import { callAsync } from "./addon.js";

/** One line of /proc/self/mountinfo (proc_pid_mountinfo(5)). */
export interface MountEntry {
  readonly mountId: number;
  readonly parentId: number;
  /** The directory of the file system that is mounted. */
  readonly root: string;
  readonly mountPoint: string;
  readonly options: readonly string[];
  /** `shared:N`, `master:N`, …; empty: private. */
  readonly propagation: readonly string[];
  readonly fsType: string;
  readonly source: string;
  readonly superOptions: readonly string[];
}

/** mountinfo writes space, tab, newline and backslash as `\040` and so on. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** Lines that are not of the documented form are left out: a later kernel may add some. */
export function parseMountInfo(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split("\n")) {
    const [before, after] = line.split(" - ", 2);
    const [mountId, parentId, , root, mountPoint, options, ...propagation] = before?.split(" ") ?? [];
    const [fsType, source, superOptions] = after?.split(" ") ?? [];
    if (root === undefined || mountPoint === undefined || options === undefined || fsType === undefined) continue;
    entries.push({
      mountId: Number(mountId),
      parentId: Number(parentId),
      root: unescaped(root),
      mountPoint: unescaped(mountPoint),
      options: options.split(","),
      propagation,
      fsType,
      source: unescaped(source ?? ""),
      superOptions: superOptions?.split(",") ?? [],
    });
  }
  return entries;
}

/** Mounts of the daemon's own mount namespace, in the kernel's order. */
export async function mountTable(): Promise<MountEntry[]> {
  return parseMountInfo(await readFile("/proc/self/mountinfo", "latin1"));
}

/** True where something is mounted at exactly this path. @param path absolute, without symlinks */
export async function isMountPoint(path: string): Promise<boolean> {
  return (await mountTable()).some((entry) => entry.mountPoint === path);
}

export interface Cgroup2Mount {
  readonly path: string;
  /** What the root cgroup offers; on a hybrid host few or none. */
  readonly controllers: readonly string[];
}

/**
 * The cgroup v2 mount: the topmost at `/sys/fs/cgroup`, else (a hybrid host) any.
 *
 * @throws RuntimeError `failed-precondition` NO_CGROUP2: none is mounted
 */
export async function findCgroup2Mount(): Promise<Cgroup2Mount> {
  const mounts = (await mountTable()).filter((entry) => entry.fsType === "cgroup2");
  const mount = mounts.findLast((entry) => entry.mountPoint === "/sys/fs/cgroup") ?? mounts.at(-1);
  if (!mount) {
    throw new RuntimeError("find the cgroup v2 mount: none in /proc/self/mountinfo", {
      kind: "failed-precondition",
      code: "NO_CGROUP2",
    });
  }
  const controllers = await readFile(join(mount.mountPoint, "cgroup.controllers"), "utf8");
  return { path: mount.mountPoint, controllers: controllers.split(/\s+/).filter((name) => name !== "") };
}

/**
 * Mounts a new tmpfs (nosuid, nodev) onto an existing directory.
 *
 * @param path absolute; the last component may not be a symbolic link
 * @param options.sizeBytes 0: the kernel's default, half of the memory
 * @param options.mode permission bits of its root, `0o700`
 */
export function mountTmpfs(path: string, options: { sizeBytes: number; mode: number }): Promise<void> {
  return callAsync(`mount tmpfs at "${path}"`, (native) => native.mountTmpfs(path, options.sizeBytes, options.mode));
}

/** @param options.detach hides it now and frees it when the last user is gone (MNT_DETACH) */
export function unmount(path: string, options: { detach: boolean }): Promise<void> {
  return callAsync(`unmount "${path}"`, (native) => native.unmount(path, options.detach));
}

/** Binds a directory, a file or a namespace's descriptor (`/proc/self/fd/N`) to a path that exists. */
export function bindMount(source: string, target: string): Promise<void> {
  return callAsync(`bind "${source}" to "${target}"`, (native) => native.bindMount(source, target));
}

/** Makes the mount at a path shared: what is mounted below it reaches the copies of other mount namespaces, and goes there too. */
export function makeShared(path: string): Promise<void> {
  return callAsync(`make mount "${path}" shared`, (native) => native.makeShared(path));
}

/**
 * Tries what containers in a user namespace need of this kernel and of one file system: an overlay
 * whose layers have their ids mapped (Linux 5.19). Nothing is left of it.
 *
 * @param above,below directories beside one another, which are only looked at
 * @throws RuntimeError by errno; EINVAL: overlayfs or the file system maps no ids
 */
export function probeIdmappedLayers(above: string, below: string): Promise<void> {
  return callAsync("make an overlay with id-mapped layers", (native) => native.probeIdmappedLayers(above, below));
}
