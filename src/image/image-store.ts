/**
 * All images of a daemon: pull, load, look up, remove. Images are records over shared layers
 * (image-catalog.ts); the id is the digest of the config.
 *
 * Order of writes: layers (LayerStore), then manifest and config blobs, then the record. So a
 * record never names what is not there, and whatever a dead run left is swept at the next start.
 * Knows no container: `isInUse` says whether one needs an image.
 */
import type { Readable } from "node:stream";
import { withContext } from "../base/errors.js";
import type { Digest } from "../base/ids.js";
import { Timeline } from "../base/timeline.js";
import type { ImageConfig, Platform } from "../oci/image-spec.js";
import type { Paths } from "../settings/paths.js";
import { FileStore, type QuarantinedRecord, type RecordStore } from "../state/store.js";
import type { AuthConfig } from "./credentials.js";
import { fetchLayers, type LayerProgress } from "./fetch-layers.js";
import { Flights } from "./flight.js";
import { hostPlatform } from "./image-documents.js";
import { ImageCare } from "./image-care.js";
import { ImageCatalog } from "./image-catalog.js";
import { type ArchivedImage, openArchive } from "./image-archive.js";
import type { ImageOwner, ImageRecord, LayerRecord, UseRecord } from "./image-record.js";
import { type ImageSource, type ResolvedImage, resolveImage } from "./image-source.js";
import { type Dropped, LayerStore } from "./layer-store.js";
import { parseReference, type ImageReference } from "./reference.js";
import { explainPull, type PullExplanation } from "./pull-explanation.js";
import { RegistryClient, type RegistryOptions, sha256Of } from "./registry-client.js";
import { registrySource } from "./registry-source.js";

export type { LayerProgress };

const DEFAULT_MAX_LAYER_BYTES = 64 * 1024 ** 3;
const DEFAULT_MAX_LAYER_ENTRIES = 4_000_000;
const DEFAULT_PARALLEL_LAYERS = 4;
const UNFINISHED = "a run ended before it was finished";

export interface ImageStoreOptions extends RegistryOptions {
  /** Fetch layers from the foreign addresses that their descriptors name; refused otherwise. */
  readonly allowForeignLayers?: boolean | undefined;
  /** True while a container needs the image; its layers are kept then. */
  readonly isInUse?: ((imageId: Digest) => boolean) | undefined;
  /** Who needs an image, for people: `pod default/web`. Asked before an image is removed by name or collected. */
  readonly usersOf?: ((imageId: Digest) => readonly string[]) | undefined;
  /** Called when a pull or a load has ended, well or not. */
  readonly afterTransfer?: (() => void) | undefined;
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
  readonly #catalog: ImageCatalog;
  readonly #layers: LayerStore;
  readonly #pulls = new Flights<ImageRecord, LayerProgress>();
  readonly #client: RegistryClient;
  /** Names, archives, verification and collection. */
  readonly care: ImageCare;
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
    this.#catalog = new ImageCatalog(paths, records, layers, (id) => options.isInUse?.(id) ?? false);
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
      change: (work) => this.#catalog.change(work),
      collect: async () => void (await this.#catalog.collect()),
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
    await store.#catalog.recover((path, why) => dropped.push({ path, why }));
    return store;
  }

  /** Images as users see them; what is only kept for a running container is not among them. */
  list(): ImageRecord[] {
    return this.#catalog.list();
  }

  /** By tag, by digest, by image id, or by at least 12 digits of one. An invalid reference is not found. */
  resolve(refOrId: string): ImageRecord | undefined {
    return this.#catalog.resolve(refOrId);
  }

  /** See `ImageCatalog.lowerDirs`. */
  lowerDirs(imageId: string): string[] {
    return this.#catalog.lowerDirs(imageId);
  }

  /** See `ImageCatalog.config`. */
  config(imageId: string): Promise<ImageConfig> {
    return this.#catalog.config(imageId);
  }

  /** See `ImageCatalog.remove`. */
  remove(refOrId: string): Promise<void> {
    return this.#catalog.remove(refOrId);
  }

  /** See `ImageCatalog.collectRemoved`. */
  collectRemoved(): Promise<void> {
    return this.#catalog.collectRemoved();
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
    } finally {
      this.#options.afterTransfer?.();
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
      this.#options.afterTransfer?.();
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
        this.#catalog.change(() =>
          this.#catalog.record(image, unpacked, references, topDigest, options.owner ?? "pod"),
        ),
      );
    } finally {
      unpin();
      // What cannot be collected now is swept at the next change or start, and is no failure of this call.
      await this.#catalog.change(() => this.#catalog.collect()).catch(() => undefined);
    }
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
    await this.#catalog.idle();
    await this.#client.close();
  }
}
