/**
 * A pod's volumes on the host: made before its first container, removed with its UID.
 *
 * Everything lies below directories of mode 0700 that are ours, and every step down is taken
 * from a descriptor of the directory above, with O_NOFOLLOW: what a container leaves in a volume
 * never leads us elsewhere. Knows no Pod; src/pod says what it wants in `VolumeRequest`.
 */
import { constants } from "node:fs";
import { chmod, chown, lstat, mkdir, open, readdir, rename, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { PodUid } from "../base/ids.js";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { removeTree } from "../native/index.js";
import type { Paths } from "../settings/paths.js";
import { currentData, type VolumeFile, writeFiles } from "./atomic-writer.js";

export type HostPathType =
  | ""
  | "DirectoryOrCreate"
  | "Directory"
  | "FileOrCreate"
  | "File"
  | "Socket"
  | "CharDevice"
  | "BlockDevice";

export type VolumeRequest =
  | { readonly kind: "directory"; readonly name: string }
  | { readonly kind: "memory"; readonly name: string; readonly sizeBytes: number | undefined }
  /** Files that we write and containers read: a ConfigMap, a Secret. In memory always. */
  | { readonly kind: "files"; readonly name: string; readonly files: readonly VolumeFile[] }
  | { readonly kind: "host"; readonly name: string; readonly path: string; readonly type: HostPathType };

/** Mounting of memory-backed volumes; src/native does it. */
export interface TmpfsMounts {
  mountTmpfs(path: string, options: { sizeBytes: number; mode: number }): Promise<void>;
  unmount(path: string, options: { detach: boolean }): Promise<void>;
}

/** Mode of an emptyDir: whoever a container runs as can write (kubelet emptydir.go). */
const EMPTY_DIR_MODE = 0o777;
const SETGID = 0o2000;
const FILES_MODE = 0o755;

export class Volumes {
  readonly #paths: Paths;
  readonly #mounts: TmpfsMounts;

  constructor(paths: Paths, mounts: TmpfsMounts) {
    this.#paths = paths;
    this.#mounts = mounts;
  }

  /**
   * Makes what is missing and returns the host path of each volume by name. Existing content stays:
   * a daemon restart or a new sandbox of the same pod comes through here again.
   *
   * @param fsGroup owning group of the pod's own volumes; `undefined`: root's
   * @throws RuntimeError `failed-precondition` HOST_PATH_TYPE
   */
  async prepare(
    uid: PodUid,
    requests: readonly VolumeRequest[],
    fsGroup: number | undefined,
  ): Promise<Map<string, string>> {
    const made = new Map<string, string>();
    for (const request of requests) {
      try {
        made.set(request.name, await this.#prepareOne(uid, request, fsGroup));
      } catch (err) {
        throw withContext(err, `volume "${request.name}"`);
      }
    }
    return made;
  }

  /** Removes every volume of the UID; what is not there is fine. */
  async remove(uid: PodUid): Promise<void> {
    failpoint("remove volumes");
    const memory = join(this.#memoryRoot, uid);
    for (const name of await namesIn(memory)) await this.#unmountMemory(join(memory, name));
    await removeTree(memory);
    await removeTree(this.#paths.podVolumes(uid));
  }

  /** UIDs that have volumes on this machine. */
  async list(): Promise<Set<string>> {
    const disk = await namesIn(dirname(this.#paths.podVolumes("x" as PodUid)));
    return new Set([...disk, ...(await namesIn(this.#memoryRoot))]);
  }

  get #memoryRoot(): string {
    return join(this.#paths.tmpfs, "volumes");
  }

  async #prepareOne(uid: PodUid, request: VolumeRequest, fsGroup: number | undefined): Promise<string> {
    if (request.kind === "host") {
      await prepareHostPath(request.path, request.type);
      return request.path;
    }
    const parent =
      request.kind === "memory" || request.kind === "files" ? join(this.#memoryRoot, uid) : this.#paths.podVolumes(uid);
    const path = join(parent, request.name);
    await mkdir(parent, { recursive: true, mode: 0o700 });
    if (request.kind === "directory") await makeVolumeDirectory(path, fsGroup);
    else if (request.kind === "memory") await this.#mountMemory(path, request.sizeBytes ?? 0, fsGroup);
    else await makeFiles(path, request.files, fsGroup);
    return path;
  }

  async #mountMemory(path: string, sizeBytes: number, fsGroup: number | undefined): Promise<void> {
    await makeDirectory(path);
    failpoint("mount memory volume");
    if (!(await isMountPoint(path))) await this.#mounts.mountTmpfs(path, { sizeBytes, mode: EMPTY_DIR_MODE });
    failpoint("after mount memory volume");
    // Owner and mode of a file system that was mounted before a crash may not have been set yet.
    if ((await readdir(path)).length === 0) await giveToPod(path, fsGroup);
  }

  async #unmountMemory(path: string): Promise<void> {
    if (await isMountPoint(path)) await this.#mounts.unmount(path, { detach: true });
  }
}

/** It appears under its name complete, so a crash never leaves one that its pod cannot write to. */
async function makeVolumeDirectory(path: string, fsGroup: number | undefined): Promise<void> {
  if (await isDirectory(path)) return;
  // No volume's name begins with a dot (RFC 1123 label).
  const unfinished = join(dirname(path), `.${basename(path)}`);
  await makeDirectory(unfinished);
  failpoint("make volume");
  await giveToPod(unfinished, fsGroup);
  await rename(unfinished, path);
  failpoint("after make volume");
}

async function makeFiles(path: string, files: readonly VolumeFile[], fsGroup: number | undefined): Promise<void> {
  await makeDirectory(path);
  await writeFiles(path, files, fsGroup);
  if (fsGroup !== undefined) await chown(path, 0, fsGroup);
  await chmod(path, FILES_MODE);
}

async function giveToPod(path: string, fsGroup: number | undefined): Promise<void> {
  if (fsGroup !== undefined) await chown(path, 0, fsGroup);
  // mkdir(2) applies the umask, and chown(2) clears the set-group-ID bit: the mode comes last.
  await chmod(path, fsGroup === undefined ? EMPTY_DIR_MODE : EMPTY_DIR_MODE | SETGID);
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await lstat(path)).isDirectory();
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return false;
    throw err;
  }
}

async function makeDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (err) {
    if (!hasErrno(err, "EEXIST") || !(await isDirectory(path))) throw err;
  }
}

/** A directory on another device than its parent is a mount point; ours are never bind mounts. */
async function isMountPoint(path: string): Promise<boolean> {
  try {
    const [own, parent] = await Promise.all([lstat(path), lstat(dirname(path))]);
    return own.dev !== parent.dev;
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return false;
    throw err;
  }
}

async function namesIn(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return [];
    throw err;
  }
}

/** Kubernetes, "hostPath volume types". Symbolic links are followed, as kubelet does. */
async function prepareHostPath(path: string, type: HostPathType): Promise<void> {
  if (type === "") return;
  if (type === "DirectoryOrCreate") await mkdir(path, { recursive: true, mode: 0o755 });
  if (type === "FileOrCreate") await createFile(path);
  let is: Awaited<ReturnType<typeof stat>>;
  try {
    is = await stat(path);
  } catch (err) {
    throw wrongType(path, type, hasErrno(err, "ENOENT") ? "does not exist" : "cannot be read", err);
  }
  const found = is.isDirectory()
    ? "Directory"
    : is.isFile()
      ? "File"
      : is.isSocket()
        ? "Socket"
        : is.isCharacterDevice()
          ? "CharDevice"
          : is.isBlockDevice()
            ? "BlockDevice"
            : "other";
  if (found !== type.replace("OrCreate", "")) throw wrongType(path, type, `is a ${found}`, undefined);
}

async function createFile(path: string): Promise<void> {
  try {
    await writeFile(path, "", { flag: constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, mode: 0o644 });
  } catch (err) {
    if (!hasErrno(err, "EEXIST")) throw err;
  }
}

function wrongType(path: string, type: HostPathType, what: string, cause: unknown): RuntimeError {
  return new RuntimeError(`hostPath "${path}" ${what}, and type ${type} is asked for`, {
    kind: "failed-precondition",
    code: "HOST_PATH_TYPE",
    cause,
  });
}

const O_PATH = 0o10000000;

/**
 * Opens a path inside a volume for mounting: no step may be a symbolic link, so that no container
 * can lead another one's mount out of the volume. Missing directories are made, as kubelet does.
 * Mount `/proc/<pid>/fd/<fd>`, then close.
 *
 * @throws RuntimeError `failed-precondition` SUB_PATH_ESCAPES
 */
export async function openSubPath(volume: string, subPath: string): Promise<{ fd: number; close(): Promise<void> }> {
  let current = await open(volume, O_PATH | constants.O_DIRECTORY);
  try {
    for (const part of subPath.split("/").filter((p) => p !== "" && p !== ".")) {
      if (part === "..") throw escapes(subPath);
      const next = join(`/proc/self/fd/${current.fd}`, part);
      await mkdir(next, { mode: 0o750 }).catch((err: unknown) => {
        if (!hasErrno(err, "EEXIST") && !hasErrno(err, "ENOTDIR")) throw err;
      });
      const opened = await open(next, O_PATH | constants.O_NOFOLLOW);
      await current.close();
      current = opened;
      if ((await current.stat()).isSymbolicLink()) throw escapes(subPath);
    }
    const handle = current;
    return { fd: handle.fd, close: () => handle.close() };
  } catch (err) {
    await current.close();
    throw err;
  }
}

/**
 * Opens a path inside a volume of files, through the link that they are changed by: what is
 * mounted stays as it is then (Kubernetes, "subPath volume mounts do not receive updates").
 *
 * @throws RuntimeError `failed-precondition` SUB_PATH_MISSING
 */
export async function openFilesSubPath(
  volume: string,
  subPath: string,
): Promise<{ fd: number; close(): Promise<void> }> {
  const data = await currentData(volume);
  try {
    // Ours alone to write: no step can be another's link.
    const handle = await open(join(volume, data ?? "", subPath), O_PATH | constants.O_NOFOLLOW);
    return { fd: handle.fd, close: () => handle.close() };
  } catch (err) {
    if (!hasErrno(err, "ENOENT") && !hasErrno(err, "ENOTDIR")) throw err;
    throw new RuntimeError(`subPath "${subPath}" is not in the volume`, {
      kind: "failed-precondition",
      code: "SUB_PATH_MISSING",
      cause: err,
    });
  }
}

function escapes(subPath: string): RuntimeError {
  return new RuntimeError(`subPath "${subPath}" leads through a symbolic link or out of its volume`, {
    kind: "failed-precondition",
    code: "SUB_PATH_ESCAPES",
  });
}
