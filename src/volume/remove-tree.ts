/**
 * Removal of a directory tree whose content a container chose.
 *
 * Each directory is opened from its parent's descriptor with O_NOFOLLOW, and what lies on another
 * device is not entered: a link or a mount that a container left behind is never followed.
 */
import { constants } from "node:fs";
import { type FileHandle, open, readdir, rmdir, unlink } from "node:fs/promises";
import { hasErrno } from "../base/errors.js";

/** Removes `path` and all below it. Succeeds where it does not exist. */
export async function removeTree(path: string): Promise<void> {
  let root: FileHandle;
  try {
    root = await openDirectory(path);
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return;
    throw err;
  }
  try {
    await removeContent(root, (await root.stat()).dev);
  } finally {
    await root.close();
  }
  await ignoreMissing(rmdir(path));
}

function openDirectory(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
}

async function removeContent(directory: FileHandle, device: number): Promise<void> {
  const base = `/proc/self/fd/${directory.fd}`;
  for (const entry of await readdir(base, { withFileTypes: true, encoding: "buffer" })) {
    // Names are bytes: one that is not UTF-8 must be removed as well.
    const name = Buffer.concat([Buffer.from(`${base}/`), entry.name]);
    if (!entry.isDirectory()) {
      await ignoreMissing(unlink(name));
      continue;
    }
    const child = await open(name, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
    try {
      if ((await child.stat()).dev === device) await removeContent(child, device);
    } finally {
      await child.close();
    }
    await ignoreMissing(rmdir(name));
  }
}

async function ignoreMissing(removal: Promise<void>): Promise<void> {
  try {
    await removal;
  } catch (err) {
    if (!hasErrno(err, "ENOENT")) throw err;
  }
}
