/**
 * Every byte below the daemon's root, by what it is for. The sum is du(1)'s: each directory is
 * walked once, allocated blocks are counted, and what belongs to nobody has a part of its own.
 */
import { lstat, readdir, statfs } from "node:fs/promises";
import { join } from "node:path";
import { hasErrno } from "../base/errors.js";
import { digestHex } from "../base/ids.js";
import { lastCollection, usedPercentOf } from "./image-collector.js";
import type { CollectedImage } from "./image-record.js";
import { PARTIAL_PREFIX } from "./layer-store.js";
import { type DirectoryUsage, measureDirectory } from "./stored-layer.js";
import type { StoreParts } from "./store-parts.js";

/** Who the names of directories belong to; what is not among them is an orphan. */
export interface KnownNames {
  /** Container id to what people call it. */
  readonly containers: ReadonlyMap<string, string>;
  /** Pod UID to what people call it. */
  readonly pods: ReadonlyMap<string, string>;
}

export interface UsagePart {
  readonly part:
    | "layers"
    | "documents"
    | "records"
    | "partial pulls"
    | "quarantine"
    | "writable layers"
    | "volumes"
    | "logs"
    | "orphans"
    | "other";
  readonly bytes: number;
  readonly items: readonly { readonly name: string; readonly bytes: number }[];
}

export interface DiskUsage {
  readonly root: string;
  /** Of all parts, and what `du -s` says. */
  readonly totalBytes: number;
  readonly fileSystem: { readonly sizeBytes: number; readonly freeBytes: number; readonly usedPercent: number };
  readonly parts: readonly UsagePart[];
  readonly images: readonly {
    readonly id: string;
    readonly repoTags: readonly string[];
    readonly isInUse: boolean;
    /** On disk, of all its layers. */
    readonly bytes: number;
    /** Of layers that no other image has: what its removal frees. */
    readonly ownBytes: number;
    readonly sharedBytes: number;
  }[];
  /** The last time that images went by themselves; `null` before the first. */
  readonly lastCollection: { readonly at: string; readonly images: readonly CollectedImage[] } | null;
}

type Items = Map<UsagePart["part"], { name: string; bytes: number }[]>;

export async function diskUsage(parts: StoreParts, known: KnownNames): Promise<DiskUsage> {
  const items: Items = new Map();
  const add = (part: UsagePart["part"], name: string, bytes: number) => {
    items.set(part, [...(items.get(part) ?? []), { name, bytes }]);
  };
  const { root } = parts.paths;
  add("other", ".", ((await lstat(root)).blocks ?? 0) * 512);
  const layerBytes = new Map<string, number>();
  for (const name of await readdir(root)) {
    const entry = await lstat(join(root, name)).catch(() => undefined);
    if (!entry) continue;
    if (!entry.isDirectory()) {
      add("other", name, entry.blocks * 512);
      continue;
    }
    const usage = await measureDirectory(join(root, name)).catch((err: unknown) => {
      if (hasErrno(err, "ENOENT")) return undefined;
      throw err;
    });
    if (usage) explain(parts, known, name, usage, add, layerBytes);
  }
  const fileSystem = await statfs(root);
  const last = lastCollection(parts);
  const found = [...items].map(([part, list]): UsagePart => {
    const sorted = list.sort((a, b) => b.bytes - a.bytes);
    return { part, bytes: sorted.reduce((sum, { bytes }) => sum + bytes, 0), items: sorted };
  });
  return {
    root,
    totalBytes: found.reduce((sum, { bytes }) => sum + bytes, 0),
    fileSystem: {
      sizeBytes: fileSystem.blocks * fileSystem.bsize,
      freeBytes: fileSystem.bavail * fileSystem.bsize,
      usedPercent: Math.round((await usedPercentOf(root)) * 10) / 10,
    },
    parts: found.sort((a, b) => b.bytes - a.bytes),
    images: imageUsage(parts, layerBytes),
    lastCollection: last ? { at: new Date(last.atMs).toISOString(), images: last.images } : null,
  };
}

function explain(
  parts: StoreParts,
  known: KnownNames,
  folder: string,
  usage: DirectoryUsage,
  add: (part: UsagePart["part"], name: string, bytes: number) => void,
  layerBytes: Map<string, number>,
): void {
  add("other", `${folder}/`, usage.bytes);
  const layers = new Set(parts.layers.list().map(({ diffId }) => digestHex(diffId)));
  for (const { name, bytes } of usage.children) {
    const path = `${folder}/${name}`;
    if (folder === "layers") {
      layerBytes.set(name, bytes);
      add(layers.has(name) ? "layers" : "orphans", layers.has(name) ? `sha256:${name}` : path, bytes);
    } else if (folder === "tmp") {
      add(name.startsWith(PARTIAL_PREFIX) ? "partial pulls" : "other", path, bytes);
    } else if (folder === "containers") {
      const owner = known.containers.get(name);
      add(owner === undefined ? "orphans" : "writable layers", owner ?? path, bytes);
    } else if (folder === "volumes" || folder === "logs") {
      // Logs are kept by `<namespace>_<name>_<uid>`, volumes by `<uid>`.
      const owner = known.pods.get(folder === "logs" ? (name.split("_").at(-1) ?? "") : name);
      add(owner === undefined ? "orphans" : folder, owner ?? path, bytes);
    } else {
      add(PART_OF_FOLDER[folder] ?? "other", path, bytes);
    }
  }
}

const PART_OF_FOLDER: Readonly<Record<string, UsagePart["part"]>> = {
  blobs: "documents",
  state: "records",
  quarantine: "quarantine",
};

function imageUsage(parts: StoreParts, layerBytes: ReadonlyMap<string, number>): DiskUsage["images"] {
  const images = parts.list();
  const holders = new Map<string, number>();
  for (const { layers } of images) {
    for (const diffId of new Set(layers.map((layer) => layer.diffId)))
      holders.set(diffId, (holders.get(diffId) ?? 0) + 1);
  }
  return images.map(({ id, repoTags, layers }) => {
    const own = [...new Set(layers.map((layer) => layer.diffId))];
    const sum = (diffIds: typeof own) =>
      diffIds.reduce((bytes, diffId) => bytes + (layerBytes.get(digestHex(diffId)) ?? 0), 0);
    const ownBytes = sum(own.filter((diffId) => holders.get(diffId) === 1));
    const bytes = sum(own);
    return { id, repoTags, isInUse: parts.usersOf(id).length > 0, bytes, ownBytes, sharedBytes: bytes - ownBytes };
  });
}
