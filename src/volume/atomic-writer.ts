/**
 * A directory of files that changes at one instant, as Kubernetes lays it out
 * (pkg/volume/util/atomic_writer.go): `key -> ..data/key`, `..data -> ..<time>`.
 *
 * The rename of `..data` is the instant. The directory lies where only we can write: containers
 * have it read-only. Whoever reads through an open descriptor keeps the old files until it closes.
 */
import { randomBytes } from "node:crypto";
import {
  chmod,
  chown,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  symlink,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { hasErrno } from "../base/errors.js";

export interface VolumeFile {
  /** Relative, without `..`; may have directories. */
  readonly path: string;
  readonly content: Buffer;
  readonly mode: number;
}

/** The link that every reader goes through. */
const DATA_LINK = "..data";
const DIRECTORY_MODE = 0o755;

/**
 * Makes the directory hold exactly these files. Does nothing where it does already.
 *
 * @param gid owning group, which can read then; `undefined`: root's
 */
export async function writeFiles(
  directory: string,
  files: readonly VolumeFile[],
  gid: number | undefined,
): Promise<void> {
  const before = await currentData(directory);
  const isCurrent = before !== undefined && (await holds(join(directory, before), files, gid));
  const name = isCurrent ? before : await replaceData(directory, files, gid);
  // After a crash between the instant and this, these are still to be done.
  await linkNames(directory, files);
  for (const entry of await readdir(directory)) {
    if (entry.startsWith("..2") && entry !== name) await rm(join(directory, entry), { recursive: true, force: true });
  }
}

/** Writes the files beside the present ones and lets `..data` lead there; returns the new directory's name. */
async function replaceData(directory: string, files: readonly VolumeFile[], gid: number | undefined): Promise<string> {
  const name = `..${new Date().toISOString().replace(/\D/g, "_")}.${randomBytes(4).toString("hex")}`;
  const made = join(directory, name);
  const link = join(directory, `${DATA_LINK}_tmp`);
  await mkdir(made, { mode: 0o700 });
  try {
    for (const file of files) await writeOne(made, file, gid);
    await setOwner(made, DIRECTORY_MODE, gid);
    await rm(link, { force: true });
    await symlink(name, link);
    await rename(link, join(directory, DATA_LINK));
  } catch (err) {
    await rm(link, { force: true });
    await rm(made, { recursive: true, force: true });
    throw err;
  }
  return name;
}

/** The directory that `..data` leads to now: its name, not its path. */
export async function currentData(directory: string): Promise<string | undefined> {
  try {
    return await readlink(join(directory, DATA_LINK));
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return undefined;
    throw err;
  }
}

async function writeOne(root: string, { path, content, mode }: VolumeFile, gid: number | undefined): Promise<void> {
  const target = join(root, path);
  const parts = path.split("/").slice(0, -1);
  for (let i = 1; i <= parts.length; i++) {
    const parent = join(root, ...parts.slice(0, i));
    await mkdir(parent, { recursive: true, mode: 0o700 });
    await setOwner(parent, DIRECTORY_MODE, gid);
  }
  await writeFile(target, content, { mode: 0o600, flag: "wx" });
  await setOwner(target, fileMode(mode, gid), gid);
}

/** A group that owns the volume can read it (kubelet volume_linux.go SetVolumeOwnership). */
const fileMode = (mode: number, gid: number | undefined): number => (gid === undefined ? mode : mode | 0o440);

async function setOwner(path: string, mode: number, gid: number | undefined): Promise<void> {
  if (gid !== undefined) await chown(path, 0, gid);
  // chown(2) may clear bits of the mode, so the mode comes last.
  await chmod(path, mode);
}

/** First parts of the paths become links; those that are no longer there go. */
async function linkNames(directory: string, files: readonly VolumeFile[]): Promise<void> {
  const wanted = new Set(files.map(({ path }) => path.split("/", 1)[0] ?? ""));
  const present = new Set((await readdir(directory)).filter((entry) => !entry.startsWith("..")));
  for (const name of wanted) if (!present.has(name)) await symlink(join(DATA_LINK, name), join(directory, name));
  for (const name of present) if (!wanted.has(name)) await rm(join(directory, name), { recursive: true, force: true });
}

async function holds(root: string, files: readonly VolumeFile[], gid: number | undefined): Promise<boolean> {
  const expected = new Set(files.map(({ path }) => path));
  for (const { path, content, mode } of files) {
    try {
      const is = await lstat(join(root, path));
      if ((is.mode & 0o7777) !== fileMode(mode, gid) || !(await readFile(join(root, path))).equals(content))
        return false;
    } catch (err) {
      if (hasErrno(err, "ENOENT") || hasErrno(err, "ENOTDIR")) return false;
      throw err;
    }
  }
  const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries.every(
    (entry) => entry.isDirectory() || expected.has(join(entry.parentPath, entry.name).slice(root.length + 1)),
  );
}
