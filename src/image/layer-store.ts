/**
 * Unpacked layers, one directory per diffID, shared by all images. A layer is visible when it
 * is whole: both digests held, its data is on disk, and then its directory is renamed into
 * place (DESIGN 7: data, sync, rename, sync of the directory, record).
 *
 * Knows no image and no registry. A pin says that somebody is about to name a layer in an image record.
 */
import { mkdir, mkdtemp, readdir, rename } from "node:fs/promises";
import type { Readable } from "node:stream";
import { dirname, join } from "node:path";
import { nowNs } from "../base/clock.js";
import { hasErrno, RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { type Digest, digestHex, isDigest } from "../base/ids.js";
import type { Timeline } from "../base/timeline.js";
import type { Paths } from "../settings/paths.js";
import { makeDurableDirectory, type RecordStore, syncDirectory } from "../state/store.js";
import { Flights } from "./flight.js";
import type { LayerRecord } from "./image-record.js";
import { removeTree, syncFileSystem, unpackLayer } from "./minke-layer.js";
import { wasResumed } from "./resumed-streams.js";
import { Semaphore } from "./semaphore.js";

/** Prefix of this store's things in `paths.tmp`. */
export const PARTIAL_PREFIX = "layer-";

/** Prefix of damaged layers in `paths.quarantine`; the digest's hex digits and a time follow. */
export const QUARANTINED_PREFIX = "layer-";

export interface LayerLimits {
  /** Of one layer's tar stream, and of its files together. */
  readonly maxBytes: number;
  readonly maxEntries: number;
  /** Layers fetched and unpacked at once, over all images. */
  readonly parallelLayers: number;
}

export interface LayerRequest {
  readonly diffId: Digest;
  /** Of the stream that `open` gives. */
  readonly digest: Digest;
  open(signal: AbortSignal): Promise<Readable>;
  /** Bytes of the stream so far. */
  readonly onBytes?: ((bytes: number) => void) | undefined;
  readonly signal: AbortSignal;
  readonly timeline?: Timeline | undefined;
}

/** What `open` found and removed, since a dead run had not finished it or a crash had spoiled it. */
export interface Dropped {
  readonly path: string;
  readonly why: string;
}

export class LayerStore {
  readonly dropped: Dropped[] = [];
  readonly #paths: Paths;
  readonly #records: RecordStore<LayerRecord>;
  readonly #limits: LayerLimits;
  readonly #flights = new Flights<LayerRecord, number>();
  readonly #slots: Semaphore;
  readonly #renewed = new Set<Digest>();
  readonly #pins = new Map<Digest, number>();
  /** Removals under way: a layer is fetched again only after its old directory is gone. */
  readonly #removals = new Map<Digest, Promise<void>>();
  #sync: { running: Promise<void>; next: Promise<void> | undefined } | undefined;

  private constructor(paths: Paths, records: RecordStore<LayerRecord>, limits: LayerLimits) {
    this.#paths = paths;
    this.#records = records;
    this.#limits = limits;
    this.#slots = new Semaphore(limits.parallelLayers);
  }

  /** Sweeps what a dead run left, directories without a record and records without a directory. */
  static async open(paths: Paths, records: RecordStore<LayerRecord>, limits: LayerLimits): Promise<LayerStore> {
    const store = new LayerStore(paths, records, limits);
    for (const dir of [paths.layers, paths.tmp]) await makeDurableDirectory(dir);
    for (const name of await readdir(paths.tmp)) {
      if (name.startsWith(PARTIAL_PREFIX)) await store.#drop(join(paths.tmp, name), "unfinished");
    }
    const present = new Set(await readdir(paths.layers));
    for (const { id, body } of records.list()) {
      // A damaged layer may have been put aside and its successor not yet be in place.
      if (isDigest(body.diffId) && (present.delete(digestHex(body.diffId)) || body.damage)) continue;
      await records.remove(id);
      store.dropped.push({ path: paths.durableRecord("layers", id), why: "its layer is missing" });
    }
    for (const orphan of present) await store.#drop(join(paths.layers, orphan), "a layer without a record");
    return store;
  }

  /** What cannot be removed now is in nobody's way, and no reason not to start. */
  async #drop(path: string, why: string): Promise<void> {
    const problem = await removeTree(path).then(
      () => "",
      (err: unknown) => `; not removed yet: ${toRuntimeError(err).message}`,
    );
    this.dropped.push({ path, why: why + problem });
  }

  get(diffId: Digest): LayerRecord | undefined {
    return this.#removals.has(diffId) ? undefined : this.#records.get(digestHex(diffId));
  }

  /** Marks a layer as damaged, or with `undefined` as sound again. */
  async markDamaged(diffId: Digest, problems: readonly string[] | undefined): Promise<void> {
    const record = this.get(diffId);
    if (!record || (problems === undefined && !record.damage)) return;
    const { damage: _, ...sound } = record;
    const marked = problems === undefined ? sound : { ...sound, damage: { foundAtNs: String(nowNs()), problems } };
    // What was found is true whether or not the disk takes it.
    await this.#records.put(digestHex(diffId), marked, "remember");
  }

  /**
   * Has the next `ensure` of a layer fetch it again, whatever its record says. Nothing on disk says so:
   * a layer that cannot be fetched, or a death meanwhile, leaves it as it is.
   *
   * @returns to be called when that try is over
   */
  renew(diffId: Digest): () => void {
    this.#renewed.add(diffId);
    return () => this.#renewed.delete(diffId);
  }

  /** The layer, unless it is damaged or to be renewed. */
  usable(diffId: Digest): LayerRecord | undefined {
    const present = this.get(diffId);
    return present && !present.damage && !this.#renewed.has(diffId) ? present : undefined;
  }

  list(): LayerRecord[] {
    return this.#records.list().map(({ body }) => body);
  }

  /** Keeps layers, there or not yet there, from being collected until the returned function is called. */
  pin(diffIds: readonly Digest[]): () => void {
    for (const diffId of diffIds) this.#pins.set(diffId, (this.#pins.get(diffId) ?? 0) + 1);
    let isPinned = true;
    return () => {
      if (!isPinned) return;
      isPinned = false;
      for (const diffId of diffIds) {
        const left = (this.#pins.get(diffId) ?? 1) - 1;
        if (left === 0) this.#pins.delete(diffId);
        else this.#pins.set(diffId, left);
      }
    };
  }

  /**
   * Makes sure that a layer is here; joins a fetch of the same layer that is under way. Pin it first.
   *
   * @throws RuntimeError what `open`, its stream and `unpackLayer` throw
   */
  async ensure(request: LayerRequest): Promise<LayerRecord> {
    await this.#removals.get(request.diffId)?.catch(() => undefined);
    const present = this.usable(request.diffId);
    if (present) return present;
    return this.#flights.run(
      request.diffId,
      (signal, onBytes) => this.#slots.run(signal, () => this.#fetchAgain(request, signal, onBytes)),
      { signal: request.signal, onProgress: request.onBytes },
    );
  }

  /** Parts of several answers that do not make the layer are no proof that the registry has it wrong: once more, whole. */
  async #fetchAgain(
    request: LayerRequest,
    signal: AbortSignal,
    onBytes: (bytes: number) => void,
  ): Promise<LayerRecord> {
    let source: Readable | undefined;
    const open = async (openSignal: AbortSignal) => (source = await request.open(openSignal));
    try {
      return await this.#fetch({ ...request, open }, signal, onBytes);
    } catch (err) {
      const isWrong = err instanceof RuntimeError && err.kind === "data-loss";
      if (!isWrong || source === undefined || !wasResumed(source) || signal.aborted) throw err;
      return this.#fetch(request, signal, onBytes);
    }
  }

  async #fetch(request: LayerRequest, signal: AbortSignal, onBytes: (bytes: number) => void): Promise<LayerRecord> {
    const { diffId } = request;
    // Someone may have finished while this waited for its turn.
    const usable = this.usable(diffId);
    if (usable) return usable;
    const isReplaced = this.get(diffId) !== undefined;
    const step = <T>(name: string, work: () => Promise<T>) => request.timeline?.step(name, work, diffId) ?? work();
    const partial = await mkdtemp(join(this.#paths.tmp, PARTIAL_PREFIX));
    const final = dirname(this.#paths.layer(diffId));
    try {
      const dest = join(partial, "fs");
      await mkdir(dest, { mode: 0o755 });
      const unpacked = await step("unpack layer", async () => {
        const source = await request.open(signal);
        const { maxBytes, maxEntries } = this.#limits;
        return unpackLayer({
          dest,
          recordIn: partial,
          source,
          onBytes,
          expectDigest: request.digest,
          expectDiffId: diffId,
          maxBytes,
          maxEntries,
          signal,
        });
      });
      await step("sync layer", () => this.#syncData());
      if (isReplaced) await step("quarantine layer", () => this.#quarantine(diffId));
      await step("commit layer", async () => {
        await removeTree(final);
        await rename(partial, final);
        await syncDirectory(this.#paths.layers);
      });
      const { bytes: sizeBytes, recordDigest, recordBytes, ...facts } = unpacked;
      const archive = recordDigest && { digest: recordDigest, bytes: recordBytes ?? 0 };
      const record: LayerRecord = { ...facts, sizeBytes, ...(archive && { archive }), unpackedAtNs: String(nowNs()) };
      await this.#records.put(digestHex(diffId), record, isReplaced ? "remember" : "fail");
      this.#renewed.delete(diffId);
      return record;
    } catch (err) {
      // In place already, and its record found no space: nobody would ever know of it.
      const isUnknown = !this.#records.get(digestHex(diffId));
      for (const left of isUnknown ? [partial, final] : [partial]) await removeTree(left).catch(() => undefined);
      throw withContext(err, `unpack layer ${request.digest}`);
    }
  }

  /**
   * Puts a damaged layer aside. Containers that run on it keep its directory, whatever its name:
   * their overlay holds it. It is removed when nothing uses an image of it (image-prune.ts).
   */
  async #quarantine(diffId: Digest): Promise<void> {
    // A layer without its directory keeps its record, and so its images, over a death only with the mark.
    if (!this.get(diffId)?.damage) await this.markDamaged(diffId, ["it is being replaced"]);
    await makeDurableDirectory(this.#paths.quarantine);
    const aside = join(this.#paths.quarantine, `${QUARANTINED_PREFIX}${digestHex(diffId)}-${Date.now()}`);
    await rename(dirname(this.#paths.layer(diffId)), aside).catch((err: unknown) => {
      if (!hasErrno(err, "ENOENT")) throw err;
    });
    await syncDirectory(this.#paths.quarantine);
  }

  /**
   * One syncfs for all that ask while one runs. Whoever asks during a run waits for the next:
   * the one under way may have passed its data already.
   */
  async #syncData(): Promise<void> {
    const start = () => syncFileSystem(this.#paths.layers);
    if (!this.#sync) {
      const sync = { running: start(), next: undefined as Promise<void> | undefined };
      this.#sync = sync;
      return sync.running.finally(() => this.#syncEnded());
    }
    const { running } = this.#sync;
    this.#sync.next ??= running
      .catch(() => undefined)
      .then(() => {
        this.#sync = { running: start(), next: undefined };
        return this.#sync.running.finally(() => this.#syncEnded());
      });
    return this.#sync.next;
  }

  #syncEnded(): void {
    if (this.#sync && this.#sync.next === undefined) this.#sync = undefined;
  }

  /** Removes every layer that is neither pinned nor in `used`; returns which. */
  async collect(used: ReadonlySet<Digest>): Promise<Digest[]> {
    const unused = this.list().filter(
      ({ diffId }) => !used.has(diffId) && !this.#pins.has(diffId) && !this.#removals.has(diffId),
    );
    await Promise.all(unused.map(({ diffId }) => this.#remove(diffId)));
    return unused.map(({ diffId }) => diffId);
  }

  #remove(diffId: Digest): Promise<void> {
    // The record goes first: a directory without a record is swept at the next start.
    const done = (async () => {
      failpoint("forget layer");
      await this.#records.remove(digestHex(diffId));
      failpoint("after forget layer");
      // In place: a directory to move it to could not be made on a full disk.
      await removeTree(dirname(this.#paths.layer(diffId)));
    })().finally(() => this.#removals.delete(diffId));
    this.#removals.set(diffId, done);
    return done;
  }

  /** Settles when no fetch is under way. */
  async idle(): Promise<void> {
    await this.#flights.idle();
  }
}
