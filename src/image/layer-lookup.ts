/**
 * Finds and reads files of an image as a container would see them, straight from the layer directories.
 *
 * The merged view needs an overlay mount, which exists only inside containers; a user database
 * is wanted earlier, and a part of an image is mounted by what makes it. Layers are immutable and only we write them, so nothing races with this
 * walk; symbolic links and whiteouts are followed as overlayfs does (kernel overlayfs.rst).
 */
import { constants } from "node:fs";
import { type FileHandle, lstat, open, readlink } from "node:fs/promises";
import { join } from "node:path";
import { hasErrno, RuntimeError } from "../base/errors.js";
import { readXattr } from "../native/index.js";

const MAX_LINKS = 40;

type Found =
  | { readonly kind: "directory"; readonly dirs: readonly string[] }
  | { readonly kind: "file" | "other"; readonly path: string };

/**
 * The bytes of a regular file, or `undefined` where there is none at that path.
 *
 * @param lowerDirs layer directories, topmost first
 * @param path absolute inside the image; links are followed inside the image only
 * @param capBytes a larger file is refused
 * @throws RuntimeError `invalid-argument` IMAGE_FILE_TOO_LARGE
 */
export async function readInLayers(
  lowerDirs: readonly string[],
  path: string,
  capBytes: number,
): Promise<Buffer | undefined> {
  const file = await findInLayers(lowerDirs, path);
  if (file?.kind !== "file") return undefined;
  let handle: FileHandle | undefined;
  try {
    handle = await open(file.path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const { size } = await handle.stat();
    if (size > capBytes) {
      throw new RuntimeError(`read "${path}" of the image: ${size} bytes, more than the ${capBytes} that are allowed`, {
        kind: "invalid-argument",
        code: "IMAGE_FILE_TOO_LARGE",
      });
    }
    return await handle.readFile();
  } finally {
    await handle?.close();
  }
}

/**
 * What a path of the merged tree is: one file, or the directories that make it, topmost first.
 *
 * @param lowerDirs layer directories, topmost first
 * @param path inside the image; links are followed inside the image only
 */
export async function findInLayers(lowerDirs: readonly string[], path: string): Promise<Found | undefined> {
  const pending = path.split("/").filter(Boolean).reverse();
  const trail: (readonly string[])[] = [];
  let here: readonly string[] = lowerDirs;
  for (let links = 0; ; ) {
    const name = pending.pop();
    if (name === undefined) return { kind: "directory", dirs: here };
    if (name === ".") continue;
    if (name === "..") {
      here = trail.pop() ?? lowerDirs;
      continue;
    }
    const found = await step(here, name);
    if (found === undefined) return undefined;
    if (found.kind === "link") {
      if (++links > MAX_LINKS) return undefined;
      const target = await readlink(found.path);
      if (target.startsWith("/")) {
        here = lowerDirs;
        trail.length = 0;
      }
      pending.push(...target.split("/").filter(Boolean).reverse());
    } else if (found.kind === "directory") {
      trail.push(here);
      here = found.dirs;
    } else {
      return pending.length === 0 ? found : undefined;
    }
  }
}

/** One component in the merged directory `dirs`: a directory merges downwards until something hides it. */
async function step(
  dirs: readonly string[],
  name: string,
): Promise<Found | { readonly kind: "link"; readonly path: string } | undefined> {
  const merged: string[] = [];
  for (const dir of dirs) {
    const path = join(dir, name);
    const stat = await lstat(path).catch((err: unknown) => {
      if (hasErrno(err, "ENOENT")) return undefined;
      throw err;
    });
    if (!stat) continue;
    if (stat.isDirectory()) {
      merged.push(path);
      if (dir !== dirs.at(-1) && (await isOpaque(path))) break;
      continue;
    }
    if (merged.length > 0) break;
    if (stat.isCharacterDevice() && stat.rdev === 0) return undefined; // a whiteout
    if (stat.isSymbolicLink()) return { kind: "link", path };
    return { kind: stat.isFile() ? "file" : "other", path };
  }
  return merged.length > 0 ? { kind: "directory", dirs: merged } : undefined;
}

/** minke-layer marks so the directories of which an image's lower layers show nothing. */
async function isOpaque(path: string): Promise<boolean> {
  return (await readXattr(path, "trusted.overlay.opaque"))?.toString("latin1") === "y";
}
