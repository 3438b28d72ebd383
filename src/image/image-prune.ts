/**
 * Removal of images that nobody needs: on request (`minke image prune`), and by the collector.
 *
 * Never removed: what a container or a pod of either owner needs, what the settings pin, and what
 * came through CRI unless the settings give that to minke; a kubelet collects its own.
 */
import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { hasErrno } from "../base/errors.js";
import { type Digest, digestHex } from "../base/ids.js";
import type { Timeline } from "../base/timeline.js";
import type { ImageRecord } from "./image-record.js";
import { QUARANTINED_PREFIX } from "./layer-store.js";
import { removeTree } from "./minke-layer.js";
import { measureDirectory } from "./stored-layer.js";
import type { StoreParts } from "./store-parts.js";

export interface PruneRequest {
  /** Also images with a tag; else only those that have none. */
  readonly all: boolean;
  /** Only what was pulled or loaded before; Unix ns. */
  readonly untilNs?: bigint | undefined;
  readonly dryRun: boolean;
  /** Images that came through CRI, too. */
  readonly includesCri: boolean;
  readonly timeline: Timeline;
}

export interface PruneResult {
  readonly removed: readonly { readonly id: string; readonly repoTags: readonly string[] }[];
  readonly layers: number;
  /** Damaged layers that had been put aside. */
  readonly quarantinedLayers: number;
  /** As du(1) counts it. */
  readonly freedBytes: number;
  readonly dryRun: boolean;
}

/** True for an image that may be removed without asking anybody. */
export function isFree(parts: StoreParts, image: ImageRecord, includesCri: boolean): boolean {
  if (image.owners?.includes("cri") && !includesCri) return false;
  return !parts.isPinned(image) && parts.usersOf(image.id).length === 0;
}

export async function pruneImages(parts: StoreParts, request: PruneRequest): Promise<PruneResult> {
  const isWanted = (image: ImageRecord) =>
    (request.all || image.repoTags.length === 0) &&
    (request.untilNs === undefined || BigInt(image.pulledAtNs) < request.untilNs) &&
    isFree(parts, image, request.includesCri);
  return parts.change(() =>
    request.timeline.step("prune images", async () => {
      const doomed = parts.list().filter(isWanted);
      const layers = layersOnlyOf(parts, doomed);
      const quarantined = await quarantinedLayers(parts, new Set(doomed.map(({ id }) => id)));
      let freedBytes = await bytesOf(parts, layers);
      for (const dir of quarantined) freedBytes += await occupiedBy(dir);
      if (!request.dryRun) {
        for (const { id } of doomed) await parts.records.remove(digestHex(id));
        await parts.collect();
        for (const dir of quarantined) await removeTree(dir);
      }
      return {
        removed: doomed.map(({ id, repoTags }) => ({ id, repoTags })),
        layers: layers.length,
        quarantinedLayers: quarantined.length,
        freedBytes,
        dryRun: request.dryRun,
      };
    }),
  );
}

/** Layers that no other record needs; those of removed images that a container still uses stay. */
export function layersOnlyOf(parts: StoreParts, images: readonly ImageRecord[]): Digest[] {
  const gone = new Set(images.map(({ id }) => id));
  const kept = new Set(
    parts.records.list().flatMap(({ body }) => (gone.has(body.id) ? [] : body.layers.map(({ diffId }) => diffId))),
  );
  return [...new Set(images.flatMap(({ layers }) => layers.map(({ diffId }) => diffId)))].filter(
    (diffId) => !kept.has(diffId),
  );
}

/** What the layers take on disk, as du(1) counts it. */
export async function bytesOf(parts: StoreParts, layers: readonly Digest[]): Promise<number> {
  let bytes = 0;
  for (const diffId of layers) bytes += await occupiedBy(dirname(parts.paths.layer(diffId)));
  return bytes;
}

/** Directories of layers that were put aside and that no container can still run on. */
async function quarantinedLayers(parts: StoreParts, gone: ReadonlySet<string>): Promise<string[]> {
  const names = await readdir(parts.paths.quarantine).catch((err: unknown) => {
    if (hasErrno(err, "ENOENT")) return [];
    throw err;
  });
  const used = new Set(
    parts.records
      .list()
      .filter(({ body }) => !gone.has(body.id) && parts.usersOf(body.id).length > 0)
      .flatMap(({ body }) => body.layers.map(({ diffId }) => digestHex(diffId))),
  );
  return names
    .filter((name) => name.startsWith(QUARANTINED_PREFIX))
    .filter((name) => !used.has(name.slice(QUARANTINED_PREFIX.length).split("-")[0] ?? ""))
    .map((name) => join(parts.paths.quarantine, name));
}

async function occupiedBy(dir: string): Promise<number> {
  const { bytes, children } = await measureDirectory(dir).catch(() => ({ bytes: 0, children: [] }));
  return children.reduce((sum, child) => sum + child.bytes, bytes);
}
