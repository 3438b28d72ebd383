/**
 * Images as one tar stream: an OCI layout, or what `docker save` writes. Layers are made again
 * from the unpacked trees as they go out, so memory and disk are bounded whatever their size.
 *
 * The layers are written plain: the packed bytes that a registry had are not kept, and a plain
 * layer's digest is its diffID, known before the first byte. So the manifest is a new one, unless
 * the image's layers were plain in the registry, too; the image id stays.
 */
import { readFile } from "node:fs/promises";
import { Readable } from "node:stream";
import { createGzip } from "node:zlib";
import { Header } from "tar";
import { RuntimeError } from "../base/errors.js";
import { type Digest, digestHex } from "../base/ids.js";
import { ANNOTATION, MEDIA_TYPE } from "../oci/image-spec.js";
import type { ImageRecord } from "./image-record.js";
import { sha256Of } from "./registry-client.js";
import { layerArchive, packedAsZstd } from "./stored-layer.js";
import { requireImage, type StoreParts } from "./store-parts.js";
import { dirname } from "node:path";
import { parseReference, repoTagOf } from "./reference.js";

export type SaveFormat = "docker-archive" | "oci-archive";
export type SaveCompression = "none" | "gzip" | "zstd";

export interface SaveRequest {
  /** Tags, digests or ids. By tag only that tag is written, else all that the image has. */
  readonly names: readonly string[];
  readonly format: SaveFormat;
  readonly compression: SaveCompression;
  readonly signal: AbortSignal;
}

interface SavedImage {
  readonly record: ImageRecord;
  readonly tags: readonly string[];
  readonly config: Buffer;
  readonly manifest: Buffer;
}

const BLOCK_BYTES = 512;
/** containerd's annotation of the full reference, which nerdctl and ctr read. */
const CONTAINERD_NAME = "io.containerd.image.name";

/**
 * The archive as a stream. What cannot be saved is told before its first byte; a layer that
 * turns out to be damaged breaks the stream.
 *
 * @throws RuntimeError `not-found` IMAGE_NOT_FOUND, `data-loss` IMAGE_DAMAGED, `failed-precondition` LAYER_NOT_RECORDED
 */
export async function saveImages(parts: StoreParts, request: SaveRequest): Promise<Readable> {
  const byId = new Map<string, { record: ImageRecord; tags: Set<string> }>();
  for (const name of request.names) {
    const record = requireImage(parts, name);
    checkSavable(parts, record, name);
    const wanted = byId.get(record.id) ?? { record, tags: new Set<string>() };
    for (const tag of tagsFor(record, name)) wanted.tags.add(tag);
    byId.set(record.id, wanted);
  }
  const unpin = parts.layers.pin([...byId.values()].flatMap(({ record }) => record.layers.map(({ diffId }) => diffId)));
  try {
    const images = await Promise.all(
      [...byId.values()].map(async ({ record, tags }) => savedImage(parts, record, [...tags])),
    );
    const entries = request.format === "oci-archive" ? layoutEntries(parts, images) : dockerEntries(parts, images);
    const plain = Readable.from(tarStream(entries, request.signal), { objectMode: false, highWaterMark: 1 << 20 });
    plain.once("close", unpin);
    return packed(plain, request.compression, request.signal);
  } catch (err) {
    unpin();
    throw err;
  }
}

function packed(plain: Readable, compression: SaveCompression, signal: AbortSignal): Readable {
  if (compression === "none") return plain;
  if (compression === "zstd") return packedAsZstd(plain, signal);
  const gzip = createGzip({ level: 6 });
  plain.once("error", (err) => gzip.destroy(err));
  gzip.once("close", () => plain.destroy());
  return plain.pipe(gzip);
}

function tagsFor(record: ImageRecord, name: string): readonly string[] {
  let tag: string | undefined;
  try {
    tag = repoTagOf(parseReference(name));
  } catch {
    // An id that is no reference either.
  }
  return tag !== undefined && record.repoTags.includes(tag) ? [tag] : record.repoTags;
}

function checkSavable(parts: StoreParts, record: ImageRecord, name: string): void {
  for (const { diffId } of record.layers) {
    const layer = parts.layers.get(diffId);
    if (!layer || layer.damage) {
      throw new RuntimeError(`save image "${name}": layer ${diffId} is damaged (minke image verify --repair)`, {
        kind: "data-loss",
        code: "IMAGE_DAMAGED",
      });
    }
    if (layer.archive) continue;
    throw new RuntimeError(
      `save image "${name}": layer ${diffId} is from before archives were recorded (minke image verify --repair fetches it again)`,
      { kind: "failed-precondition", code: "LAYER_NOT_RECORDED" },
    );
  }
}

async function savedImage(parts: StoreParts, record: ImageRecord, tags: readonly string[]): Promise<SavedImage> {
  const config = await readFile(parts.paths.blob(record.id));
  if (sha256Of(config) !== record.id) {
    throw new RuntimeError(`save image ${record.id}: its config is damaged (minke image verify --repair)`, {
      kind: "data-loss",
      code: "IMAGE_DAMAGED",
    });
  }
  const isPlain = record.layers.every(({ digest, diffId }) => digest === diffId);
  const own = isPlain ? await readFile(parts.paths.blob(record.manifestDigest)) : undefined;
  const manifest = own && sha256Of(own) === record.manifestDigest ? own : manifestOf(record, config);
  return { record, tags, config, manifest };
}

function manifestOf(record: ImageRecord, config: Buffer): Buffer {
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPE.manifest,
      config: { mediaType: MEDIA_TYPE.config, digest: record.id, size: config.length },
      layers: record.layers.map(({ diffId, sizeBytes }) => ({
        mediaType: MEDIA_TYPE.layer,
        digest: diffId,
        size: sizeBytes,
      })),
    }),
  );
}

interface TarEntry {
  readonly path: string;
  readonly size: number;
  readonly content: Buffer | ((signal: AbortSignal) => Readable);
}

const document = (path: string, value: unknown): TarEntry => {
  const content = Buffer.isBuffer(value) ? value : Buffer.from(JSON.stringify(value));
  return { path, size: content.length, content };
};

/** Every layer once, in the order in which images need them. */
function layerEntries(
  parts: StoreParts,
  images: readonly SavedImage[],
  nameOf: (diffId: Digest) => string,
): TarEntry[] {
  const layers = new Map(images.flatMap(({ record }) => record.layers.map((layer) => [layer.diffId, layer] as const)));
  return [...layers.values()].map(({ diffId, sizeBytes }) => ({
    path: nameOf(diffId),
    size: sizeBytes,
    content: (signal: AbortSignal) => layerArchive(dirname(parts.paths.layer(diffId)), diffId, signal),
  }));
}

function* layoutEntries(parts: StoreParts, images: readonly SavedImage[]): Generator<TarEntry> {
  const blob = (digest: string) => `blobs/sha256/${digest.slice("sha256:".length)}`;
  yield document("oci-layout", { imageLayoutVersion: "1.0.0" });
  const manifests = images.flatMap(({ tags, manifest }) => {
    const item = {
      mediaType: (JSON.parse(manifest.toString("utf8")) as { mediaType?: string }).mediaType ?? MEDIA_TYPE.manifest,
      digest: sha256Of(manifest),
      size: manifest.length,
    };
    if (tags.length === 0) return [item];
    return tags.map((tag) => ({ ...item, annotations: { [ANNOTATION.refName]: tag, [CONTAINERD_NAME]: tag } }));
  });
  yield document("index.json", { schemaVersion: 2, mediaType: MEDIA_TYPE.index, manifests });
  const documents = new Map(
    images.flatMap(({ record, config, manifest }) => [
      [record.id as string, config] as const,
      [sha256Of(manifest) as string, manifest] as const,
    ]),
  );
  for (const [digest, bytes] of documents) yield document(blob(digest), bytes);
  const written = new Set(documents.keys());
  for (const entry of layerEntries(parts, images, (diffId) => blob(diffId))) {
    if (!written.has(`sha256:${entry.path.slice("blobs/sha256/".length)}`)) yield entry;
  }
}

function* dockerEntries(parts: StoreParts, images: readonly SavedImage[]): Generator<TarEntry> {
  const layerName = (diffId: Digest) => `${digestHex(diffId)}.tar`;
  const configName = (id: Digest) => `${digestHex(id)}.json`;
  for (const { record, config } of images) yield document(configName(record.id), config);
  yield document(
    "manifest.json",
    images.map(({ record, tags }) => ({
      Config: configName(record.id),
      RepoTags: tags,
      Layers: record.layers.map(({ diffId }) => layerName(diffId)),
    })),
  );
  yield* layerEntries(parts, images, layerName);
}

async function* tarStream(entries: Iterable<TarEntry>, signal: AbortSignal): AsyncGenerator<Buffer> {
  for (const { path, size, content } of entries) {
    signal.throwIfAborted();
    const header = new Header({ path, size, mode: 0o644, uid: 0, gid: 0, mtime: new Date(0), type: "File" });
    const block = Buffer.alloc(BLOCK_BYTES);
    header.encode(block);
    yield block;
    let written = 0;
    for await (const chunk of Buffer.isBuffer(content) ? [content] : content(signal)) {
      written += (chunk as Buffer).length;
      yield chunk as Buffer;
    }
    if (written !== size) {
      throw new RuntimeError(`save "${path}": it has ${written} bytes, not the ${size} of its record`, {
        kind: "data-loss",
        code: "LAYER_DAMAGED",
      });
    }
    yield Buffer.alloc((BLOCK_BYTES - (size % BLOCK_BYTES)) % BLOCK_BYTES);
  }
  yield Buffer.alloc(2 * BLOCK_BYTES);
}
