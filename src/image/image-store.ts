/**
 * All images of a daemon: pull, load, look up, remove. Images are records over shared layers;
 * the id is the digest of the config.
 *
 * Order of writes: layers (LayerStore), then manifest and config blobs, then the record. So a
 * record never names what is not there, and whatever a dead run left is swept at the next start.
 * Knows no container: `isInUse` says whether one needs an image.
 */
import { readdir, readFile, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import { RuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { type Digest, digestHex, isDigest } from "../base/ids.js";
import { Timeline } from "../base/timeline.js";
import type { ImageConfig, Platform } from "../oci/image-spec.js";
import type { Paths } from "../settings/paths.js";
import { FileStore, makeDurableDirectory, type QuarantinedRecord, type RecordStore } from "../state/store.js";
import { writeDurableFile } from "./durable-file.js";
import type { AuthConfig } from "./credentials.js";
import { findImage } from "./find-image.js";
import { fetchLayers, type LayerProgress } from "./fetch-layers.js";
import { Flights } from "./flight.js";
import { hostPlatform } from "./image-documents.js";
import { ImageCare } from "./image-care.js";
import { type ArchivedImage, openArchive } from "./image-archive.js";
import {
  type ImageOwner,
  type ImageRecord,
  imageRecordOf,
  type LayerRecord,
  namedAtNs,
  type UseRecord,
} from "./image-record.js";
import { type ImageSource, type ResolvedImage, resolveImage } from "./image-source.js";
import { type Dropped, LayerStore } from "./layer-store.js";
import { parseReference, repoDigestOf, repoTagOf, type ImageReference } from "./reference.js";
import { explainPull, type PullExplanation } from "./pull-explanation.js";
import { RegistryClient, type RegistryOptions, sha256Of } from "./registry-client.js";
import { registrySource } from "./registry-source.js";

export type { LayerProgress };

const DEFAULT_MAX_LAYER_BYTES = 64 * 1024 ** 3;
const DEFAULT_MAX_LAYER_ENTRIES = 4_000_000;
const DEFAULT_PARALLEL_LAYERS = 4;
const UNFINISHED = "a run ended before it was finished";
const NEEDED_BY_NONE = "no image needs it";

export interface ImageStoreOptions extends RegistryOptions {
  /** Fetch layers from the foreign addresses that their descriptors name; refused otherwise. */
  readonly allowForeignLayers?: boolean | undefined;
  /** True while a container needs the image; its layers are kept then. */
  readonly isInUse?: ((imageId: Digest) => boolean) | undefined;
  /** Who needs an image, for people: `pod default/web`. Asked before an image is removed by name or collected. */
  readonly usersOf?: ((imageId: Digest) => readonly string[]) | undefined;
  /** References of images that are never collected or pruned. */
  readonly pinned?: readonly string[] | undefined;
  /** Replaces the machine's own. */
  readonly platform?: Platform | undefined;
  readonly maxLayerBytes?: number | undefined;
  readonly maxLayerEntries?: number | undefined;
  readonly parallelLayers?: number | undefined;
  /** Replaces the files of `paths`. */
  readonly stores?:
    | { readonly images: RecordStore<ImageRecord>; readonly layers: RecordStore<LayerRecord> }
    | undefined;
}

export interface PullOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: LayerProgress) => void) | undefined;
  readonly platform?: Platform | undefined;
  /** Credentials for the reference's registry. */
  readonly auth?: AuthConfig | undefined;
  /** Who asks; `pod` unless said otherwise. */
  readonly owner?: ImageOwner | undefined;
  /** Gets the spans, unless an earlier caller's pull is joined. */
  readonly timeline?: Timeline | undefined;
}

/** What the store occupies, of the records: no walk of the tree. */
export interface ImageFsUsage {
  readonly mountpoint: string;
  readonly usedBytes: number;
  readonly usedInodes: number;
}

export class ImageStore {
  readonly #paths: Paths;
  readonly #options: ImageStoreOptions;
  readonly #records: RecordStore<ImageRecord>;
  readonly #layers: LayerStore;
  readonly #pulls = new Flights<ImageRecord, LayerProgress>();
  readonly #client: RegistryClient;
  /** Names, archives, verification and collection. */
  readonly care: ImageCare;
  /** Record changes, one after another: a tag has one owner at a time. */
  #changes: Promise<unknown> = Promise.resolve();
  /** Of the files that could not be read at open. */
  readonly quarantined: readonly QuarantinedRecord[];
  /** Of what was there at open and is not any more. */
  readonly dropped: Dropped[];

  private constructor(
    paths: Paths,
    options: ImageStoreOptions,
    records: RecordStore<ImageRecord>,
    layers: LayerStore,
    uses: RecordStore<UseRecord> | undefined,
    quarantined: readonly QuarantinedRecord[],
    dropped: Dropped[],
  ) {
    this.#paths = paths;
    this.#options = options;
    this.#records = records;
    this.#layers = layers;
    this.quarantined = quarantined;
    this.dropped = dropped;
    this.#client = new RegistryClient(options);
    const pinned = new Set((options.pinned ?? []).map((ref) => parseReference(ref).toString()));
    this.care = new ImageCare({
      paths,
      records,
      layers,
      uses,
      list: () => this.list(),
      resolve: (name) => this.resolve(name),
      change: (work) => this.#change(work),
      collect: async () => void (await this.#collect()),
      pull: (ref, pullOptions) => this.pull(ref, pullOptions),
      usersOf: (id) => options.usersOf?.(id) ?? (options.isInUse?.(id) ? ["a container"] : []),
      isPinned: ({ repoTags, repoDigests }) => [...repoTags, ...repoDigests].some((name) => pinned.has(name)),
    });
  }

  /** Loads the records and sweeps what a dead run left. Images that miss a layer are dropped. */
  static async open(paths: Paths, options: ImageStoreOptions = {}): Promise<ImageStore> {
    const quarantined: QuarantinedRecord[] = [];
    const dropped: Dropped[] = [];
    const storeOf = async <T>(noun: "images" | "layers" | "uses"): Promise<RecordStore<T>> => {
      const store = await FileStore.open<T>({
        dir: paths.durableState(noun),
        storeClass: "durable",
        quarantine: paths.quarantine,
        version: 1,
      });
      quarantined.push(...store.quarantined);
      dropped.push(...store.unfinished.map((path) => ({ path, why: UNFINISHED })));
      return store;
    };
    const images = options.stores?.images ?? (await storeOf<ImageRecord>("images"));
    const layerRecords = options.stores?.layers ?? (await storeOf<LayerRecord>("layers"));
    const uses = options.stores ? undefined : await storeOf<UseRecord>("uses");
    const layers = await LayerStore.open(paths, layerRecords, {
      maxBytes: options.maxLayerBytes ?? DEFAULT_MAX_LAYER_BYTES,
      maxEntries: options.maxLayerEntries ?? DEFAULT_MAX_LAYER_ENTRIES,
      parallelLayers: options.parallelLayers ?? DEFAULT_PARALLEL_LAYERS,
    });
    dropped.push(...layers.dropped);
    const store = new ImageStore(paths, options, images, layers, uses, quarantined, dropped);
    await store.#recover();
    return store;
  }

  async #recover(): Promise<void> {
    const drop = (path: string, why: string) => this.dropped.push({ path, why });
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
    const { layers, blobs } = await this.#collect();
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

  /**
   * Fetches an image, or what of it is not here yet. Callers of the same reference share one run;
   * it is cancelled when the last of them is, and leaves nothing then.
   *
   * @throws RuntimeError `invalid-argument` INVALID_REFERENCE, `not-found` IMAGE_NOT_FOUND or
   *   IMAGE_PLATFORM_MISSING, `unavailable` REGISTRY_UNAVAILABLE, `permission-denied`
   *   REGISTRY_UNAUTHORIZED, `data-loss` DIGEST_MISMATCH, IMAGE_MALFORMED or LAYER_*
   */
  async pull(ref: string, options: PullOptions = {}): Promise<ImageRecord> {
    const reference = parseReference(ref);
    const platform = options.platform ?? this.#options.platform ?? hostPlatform();
    const name = reference.toString();
    // One caller's credential is not another's: only who brings the same shares a run.
    const credential = options.auth ? sha256Of(Buffer.from(JSON.stringify(options.auth))) : "";
    const key = `${name} ${platform.os}/${platform.architecture}/${platform.variant ?? ""} ${credential} ${options.owner ?? ""}`;
    try {
      return await this.#pulls.run(
        key,
        (signal, onProgress) => this.#pull(reference, platform, { ...options, signal, onProgress }),
        { signal: options.signal, onProgress: options.onProgress },
      );
    } catch (err) {
      throw withContext(err, `pull image "${name}"`);
    }
  }

  async #pull(
    reference: ImageReference,
    platform: Platform,
    options: PullOptions & { readonly signal: AbortSignal },
  ): Promise<ImageRecord> {
    const timeline = options.timeline ?? new Timeline();
    const { source, top, image } = await timeline.step("resolve", async () => {
      const repository = await this.#client.repository(reference.registry, reference.repository, {
        auth: options.auth,
      });
      const source = registrySource(repository, this.#options.allowForeignLayers ?? false);
      const top = await repository.manifest(reference.digest ?? reference.tag ?? "latest", options.signal);
      return { source, top, image: await resolveImage(source, top, platform, reference.toString(), options.signal) };
    });
    return this.#store(image, source, [reference], top.digest, { ...options, timeline });
  }

  /**
   * What a pull would do and why: endpoints, credentials by their source, and how they answer.
   *
   * @throws RuntimeError `invalid-argument` INVALID_REFERENCE, SETTINGS_INVALID, DOCKER_CONFIG_INVALID
   *   or INVALID_CREDENTIAL; `unavailable` CREDENTIAL_HELPER_FAILED
   */
  async explain(ref: string, options: Omit<PullOptions, "onProgress" | "timeline"> = {}): Promise<PullExplanation> {
    const platform = options.platform ?? this.#options.platform ?? hostPlatform();
    return explainPull(this.#client, parseReference(ref), platform, {
      auth: options.auth,
      allowForeignLayers: this.#options.allowForeignLayers ?? false,
      signal: options.signal ?? new AbortController().signal,
    });
  }

  /**
   * Loads every image of an OCI layout (directory or tar) or of a `docker save` archive.
   * Images without a full reference in the archive are there by id only.
   *
   * @param from an absolute path, or the bytes of an archive: tar, plain or packed with gzip or zstd
   * @throws RuntimeError `not-found` ARCHIVE_NOT_FOUND, `invalid-argument` ARCHIVE_INVALID, and what `pull` throws of contents
   */
  async loadLayout(from: string | Readable, options: Omit<PullOptions, "auth"> = {}): Promise<ImageRecord[]> {
    const platform = options.platform ?? this.#options.platform ?? hostPlatform();
    const signal = options.signal ?? new AbortController().signal;
    const timeline = options.timeline ?? new Timeline();
    const archive = await timeline.step("read archive", () => openArchive(from, this.#paths.tmp, signal));
    try {
      const records: ImageRecord[] = [];
      for (const entry of archive.images)
        records.push(await this.#load(entry, platform, { ...options, signal, timeline }));
      return records;
    } catch (err) {
      throw withContext(err, `load images of ${typeof from === "string" ? `"${from}"` : "an archive"}`);
    } finally {
      await archive.close();
    }
  }

  async #load(
    entry: ArchivedImage,
    platform: Platform,
    options: PullOptions & { readonly signal: AbortSignal; readonly timeline: Timeline },
  ): Promise<ImageRecord> {
    const { image, topDigest } = await options.timeline.step("resolve", () => entry.resolve(platform, options.signal));
    return this.#store(image, entry.source, entry.references, topDigest, options);
  }

  /** Layers, blobs, record. A failure or cancellation anywhere leaves nothing of it. */
  async #store(
    image: ResolvedImage,
    source: ImageSource,
    references: readonly ImageReference[],
    topDigest: Digest | undefined,
    options: PullOptions & { readonly signal: AbortSignal; readonly timeline: Timeline },
  ): Promise<ImageRecord> {
    const diffIds = image.config.rootfs.diff_ids;
    const unpin = this.#layers.pin(diffIds);
    try {
      const unpacked = await fetchLayers(this.#layers, image, source, options);
      return await options.timeline.step("record image", () =>
        this.#change(() => this.#record(image, unpacked, references, topDigest, options.owner ?? "pod")),
      );
    } finally {
      unpin();
      // What cannot be collected now is swept at the next change or start, and is no failure of this call.
      await this.#change(() => this.#collect()).catch(() => undefined);
    }
  }

  /** Writes blobs and the record, and takes the tags from whoever had them. */
  async #record(
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
    await this.#change(async () => {
      const record = this.resolve(refOrId);
      if (!record) return;
      if (this.#options.isInUse?.(record.id)) {
        const hidden = { ...record, repoTags: [], repoDigests: [], isRemoved: true } as const;
        await this.#records.put(digestHex(record.id), hidden, "remember");
      } else {
        failpoint("forget image");
        await this.#records.remove(digestHex(record.id));
        failpoint("after forget image");
      }
      await this.#collect();
      failpoint("after remove image");
    });
  }

  /** Collects removed images that no container uses any more: to be called after a container has gone. */
  async collectRemoved(): Promise<void> {
    if (this.#all().some(({ isRemoved }) => isRemoved)) await this.#change(() => this.#collect());
  }

  /** Removes records, layers and blobs that nothing names; returns which. Runs alone. */
  async #collect(): Promise<{ readonly layers: readonly Digest[]; readonly blobs: readonly string[] }> {
    for (const { id, isRemoved } of this.#all()) {
      if (isRemoved && !this.#options.isInUse?.(id)) await this.#records.remove(digestHex(id));
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

  #change<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#changes.then(work);
    this.#changes = done.catch(() => undefined);
    return done;
  }

  fsUsage(): ImageFsUsage {
    const layers = this.#layers.list();
    return {
      mountpoint: this.#paths.root,
      usedBytes: layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      usedInodes: layers.reduce((sum, { entries }) => sum + entries, 0),
    };
  }

  /** Waits for pulls under way, then closes connections. */
  async close(): Promise<void> {
    await this.#pulls.idle();
    await this.#layers.idle();
    await this.#changes;
    await this.#client.close();
  }
}
