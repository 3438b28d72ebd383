/**
 * Which images there are: their records, the documents beside them, and the layers that they need.
 *
 * A record never names what is not there: whoever brings an image has its layers first, then come
 * the blobs, then the record. Knows no registry and no archive.
 */
import { readdir, readFile, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { RuntimeError } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { type Digest, digestHex, isDigest } from "../base/ids.js";
import type { ImageConfig } from "../oci/image-spec.js";
import type { Paths } from "../settings/paths.js";
import { makeDurableDirectory, type RecordStore } from "../state/store.js";
import { writeDurableFile } from "./durable-file.js";
import { findImage } from "./find-image.js";
import { type ImageOwner, type ImageRecord, imageRecordOf, type LayerRecord, namedAtNs } from "./image-record.js";
import type { ResolvedImage } from "./image-source.js";
import type { LayerStore } from "./layer-store.js";
import { type ImageReference, repoDigestOf, repoTagOf } from "./reference.js";

const NEEDED_BY_NONE = "no image needs it";

export class ImageCatalog {
  readonly #paths: Paths;
  readonly #records: RecordStore<ImageRecord>;
  readonly #layers: LayerStore;
  readonly #isInUse: (imageId: Digest) => boolean;
  /** Record changes, one after another: a tag has one owner at a time. */
  #changes: Promise<unknown> = Promise.resolve();

  /** @param isInUse true while a container needs the image; its layers are kept then */
  constructor(
    paths: Paths,
    records: RecordStore<ImageRecord>,
    layers: LayerStore,
    isInUse: (imageId: Digest) => boolean,
  ) {
    this.#paths = paths;
    this.#records = records;
    this.#layers = layers;
    this.#isInUse = isInUse;
  }

  /**
   * Takes back what a dead run left half done: images that miss a layer, tags that two have, and what nothing names.
   *
   * @param drop told of each thing that is removed
   */
  async recover(drop: (path: string, why: string) => void): Promise<void> {
    const newestFirst = this.#all().sort((a, b) => (namedAtNs(b) > namedAtNs(a) ? 1 : -1));
    const owned = new Set<string>();
    for (const record of newestFirst) {
      const absent = record.layers.find(({ diffId }) => !this.#layers.get(diffId));
      if (absent) {
        await this.#records.remove(digestHex(record.id));
        const names = [...record.repoTags, ...record.repoDigests].join(", ");
        drop(this.#paths.durableRecord("images", digestHex(record.id)), `image ${names} misses layer ${absent.diffId}`);
        continue;
      }
      // A death between the two records of a moved tag leaves it on both; the newer one wins.
      const repoTags = record.repoTags.filter((tag) => !owned.has(tag));
      for (const tag of repoTags) owned.add(tag);
      if (repoTags.length < record.repoTags.length)
        await this.#records.put(digestHex(record.id), { ...record, repoTags }, "remember");
    }
    await makeDurableDirectory(dirname(this.#paths.blob(`sha256:${"0".repeat(64)}` as Digest)));
    const { layers, blobs } = await this.collect();
    for (const diffId of layers) {
      drop(dirname(this.#paths.layer(diffId)), NEEDED_BY_NONE);
      drop(this.#paths.durableRecord("layers", digestHex(diffId)), NEEDED_BY_NONE);
    }
    for (const path of blobs) drop(path, NEEDED_BY_NONE);
  }

  #all(): ImageRecord[] {
    return this.#records.list().map(({ body }) => body);
  }

  /** Images as users see them; what is only kept for a running container is not among them. */
  list(): ImageRecord[] {
    return this.#all().filter(({ isRemoved }) => !isRemoved);
  }

  /** By tag, by digest, by image id, or by at least 12 digits of one. An invalid reference is not found. */
  resolve(refOrId: string): ImageRecord | undefined {
    return findImage(this.list(), refOrId);
  }

  /**
   * Layer directories, topmost first, as an overlay takes them. A layer that an image holds twice
   * counts once, on top: overlayfs refuses a directory twice, and nothing below can show through it.
   *
   * @throws RuntimeError `not-found` IMAGE_NOT_FOUND, `data-loss` IMAGE_DAMAGED: a verification found that
   */
  lowerDirs(imageId: string): string[] {
    const diffIds = this.#known(imageId)
      .layers.map(({ diffId }) => diffId)
      .reverse();
    const damaged = diffIds.find((diffId) => this.#layers.get(diffId)?.damage);
    if (damaged !== undefined) {
      throw new RuntimeError(`image ${imageId}: layer ${damaged} is damaged (minke image verify --repair)`, {
        kind: "data-loss",
        code: "IMAGE_DAMAGED",
      });
    }
    return [...new Set(diffIds)].map((diffId) => this.#paths.layer(diffId));
  }

  /** The image's whole config, as it was pulled. @throws RuntimeError `not-found` IMAGE_NOT_FOUND */
  async config(imageId: string): Promise<ImageConfig> {
    const bytes = await readFile(this.#paths.blob(this.#known(imageId).id));
    return JSON.parse(bytes.toString("utf8")) as ImageConfig;
  }

  /** Also those that are removed but in use. */
  #known(imageId: string): ImageRecord {
    const record = isDigest(imageId) ? this.#records.get(digestHex(imageId)) : undefined;
    if (!record)
      throw new RuntimeError(`image "${imageId}" is not on this machine`, {
        kind: "not-found",
        code: "IMAGE_NOT_FOUND",
      });
    return record;
  }

  /** Writes blobs and the record, and takes the tags from whoever had them. */
  async record(
    image: ResolvedImage,
    unpacked: readonly LayerRecord[],
    references: readonly ImageReference[],
    topDigest: Digest | undefined,
    owner: ImageOwner,
  ): Promise<ImageRecord> {
    const id = image.manifest.config.digest;
    await writeDurableFile(this.#paths.blob(image.manifestDigest), image.manifestBytes);
    await writeDurableFile(this.#paths.blob(id), image.configBytes);
    failpoint("after write blobs");
    const known = this.#records.get(digestHex(id));
    const repoTags = references.map(repoTagOf).filter((tag) => tag !== undefined);
    const repoDigests =
      topDigest === undefined ? [] : references.map((reference) => repoDigestOf(reference, topDigest));
    const record = imageRecordOf(image, unpacked, { repoTags, repoDigests, owners: [owner] }, known);
    await this.#records.put(digestHex(id), record);
    failpoint("after write record");
    for (const other of this.#all()) {
      if (other.id === id || !other.repoTags.some((tag) => repoTags.includes(tag))) continue;
      const left = other.repoTags.filter((tag) => !repoTags.includes(tag));
      // Should this not get to the disk, the newer record wins at the next start.
      await this.#records.put(digestHex(other.id), { ...other, repoTags: left }, "remember");
    }
    return record;
  }

  /**
   * Removes an image with all of its tags, whichever of its names was given (CRI RemoveImage).
   * What is not there is removed already. One that a container uses disappears from `list` now
   * and from disk when no container needs it.
   */
  async remove(refOrId: string): Promise<void> {
    await this.change(async () => {
      const record = this.resolve(refOrId);
      if (!record) return;
      if (this.#isInUse(record.id)) {
        const hidden = { ...record, repoTags: [], repoDigests: [], isRemoved: true } as const;
        await this.#records.put(digestHex(record.id), hidden, "remember");
      } else {
        failpoint("forget image");
        await this.#records.remove(digestHex(record.id));
        failpoint("after forget image");
      }
      await this.collect();
      failpoint("after remove image");
    });
  }

  /** Collects removed images that no container uses any more: to be called after a container has gone. */
  async collectRemoved(): Promise<void> {
    if (this.#all().some(({ isRemoved }) => isRemoved)) await this.change(() => this.collect());
  }

  /** Removes records, layers and blobs that nothing names; returns which. Runs alone. */
  async collect(): Promise<{ readonly layers: readonly Digest[]; readonly blobs: readonly string[] }> {
    for (const { id, isRemoved } of this.#all()) {
      if (isRemoved && !this.#isInUse(id)) await this.#records.remove(digestHex(id));
    }
    const images = this.#all();
    const layers = await this.#layers.collect(
      new Set(images.flatMap(({ layers }) => layers.map(({ diffId }) => diffId))),
    );
    const blobs = new Set(images.flatMap(({ id, manifestDigest }) => [digestHex(id), digestHex(manifestDigest)]));
    const dir = dirname(this.#paths.blob(`sha256:${"0".repeat(64)}` as Digest));
    const unused = (await readdir(dir)).filter((name) => !blobs.has(name)).map((name) => join(dir, name));
    for (const path of unused) await rm(path, { force: true });
    return { layers, blobs: unused };
  }

  /** Runs a change of records after those under way. */
  change<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#changes.then(work);
    this.#changes = done.catch(() => undefined);
    return done;
  }

  /** Settles when no change is under way. */
  async idle(): Promise<void> {
    await this.#changes;
  }
}
