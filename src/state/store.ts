/**
 * One JSON file per object: `{version, sha256, body}`, the hash over the body's bytes as written.
 *
 * Two classes. *durable*: data, fsync, rename, fsync of the directory; survives a power cut.
 * *boot*: no fsync; survives any death of the daemon, and carries the boot id in its body; written
 * through spare files, empty ones that stay beside the records (native/file-steps.ts, `RecordStep`).
 * An unreadable file is moved to quarantine and reported; it never stops the start. All reads
 * are from memory; a record is visible only once its file is in place.
 */
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import { type FileStep, tryFileSteps, writeAtomically } from "../native/index.js";
import { LaterSaves } from "./later-saves.js";
import { decodeRecord, encodeRecord } from "./record-text.js";

/** What users of a store need; tests of theirs may keep it in memory. */
export interface RecordStore<T> {
  /**
   * Writes or replaces. Calls for one id take effect in the order they were made.
   *
   * @param whenFull where the disk takes nothing: `fail` with NO_SPACE and keep the old record, or
   *   `remember` the new one and write it as soon as that is possible. The latter is for what the
   *   kernel or an exit file says as well, and for removals, which are what gives space back.
   */
  put(id: string, body: T, whenFull?: "fail" | "remember"): Promise<void>;
  get(id: string): T | undefined;
  list(): { readonly id: string; readonly body: T }[];
  /** Removing what is not there succeeds. */
  remove(id: string): Promise<void>;
}

/** Steps on files that go with the write of a record. */
export interface RecordSurroundings {
  readonly first?: readonly FileStep[];
  readonly last?: readonly FileStep[];
}

/** A step after the record that failed; those behind it were not tried. */
export interface RefusedStep {
  /** its place in `last`. */
  readonly index: number;
  readonly error: RuntimeError;
}

/** @returns which step after the record's file failed @throws RuntimeError why its file could not be removed */
export type RemoveFileAnd = (steps: readonly FileStep[]) => Promise<RefusedStep | undefined>;

/** Records of what the kernel has, which belong together and are found without a walk over all. */
export interface GroupedStore<T> extends RecordStore<T> {
  /**
   * Shows a record from now on, without writing it: for what the next daemon finds out from the kernel
   * and from monitors as well. No other write of this id may be under way but `save`.
   */
  show(id: string, body: T): void;
  /**
   * Writes what is shown, a little later and once for all that is shown until then; later still where the disk
   * is full; not at all where the record is removed first. Settles then.
   */
  save(id: string): Promise<void>;
  /** Writes at once what waits to be saved. */
  saveAll(): Promise<void>;
  /**
   * As `put`, with steps on files before and after it at the price of one. Boot class only.
   *
   * @returns which step after it failed: the record is there then
   * @throws RuntimeError why a step before it, or the write, failed: the record is as it was
   */
  putWith(id: string, body: T, steps: RecordSurroundings): Promise<RefusedStep | undefined>;
  /**
   * Removes a record with what it stands for. `work` does so by the function it is given, which removes the
   * record's file and then, at the price of one, what the steps remove: what a death of the daemon leaves belongs
   * to no record. The record is shown until `work` is done. Boot class only.
   *
   * @throws what `work` throws: the record is written again, as it is shown
   */
  removeWith(id: string, work: (removeFileAnd: RemoveFileAnd) => Promise<void>): Promise<void>;
  /** The records of a group, in the order they came. */
  group(key: string): T[];
}

export type StoreClass = "durable" | "boot";

/** A record that could not be read at open, and where it is now. */
export interface QuarantinedRecord {
  readonly file: string;
  readonly movedTo: string;
  readonly problem: string;
}

export interface FileStoreOptions<T> {
  /** Directory of this noun's files; made where missing. */
  readonly dir: string;
  readonly storeClass: StoreClass;
  /** Directory for unreadable files. */
  readonly quarantine: string;
  /** Body version that this program writes. */
  readonly version: number;
  /** Turns a parsed body of `version` (this one or older) into a record; throws where it is none. */
  readonly parse?: (body: unknown, version: number) => T;
  /** The group of a record, for `group`; without it there are none. */
  readonly groupOf?: (body: T) => string;
}

/** How long a record that a full disk refused waits for its next try. */
const RETRY_MS = 1_000;
const FILE_SUFFIX = ".json";
const SPARE_PREFIX = ".spare-";
/** A block of the disk each; more are not kept when many records go at once. */
const MAX_SPARES = 128;
const SAFE_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,250}$/;

export class FileStore<T> implements GroupedStore<T> {
  readonly #options: FileStoreOptions<T>;
  readonly #records = new Map<string, T>();
  /** Ids by group. */
  readonly #groups = new Map<string, Set<string>>();
  /** Tail of the writes under way, by id: later calls wait for earlier ones. */
  readonly #writes = new Map<string, Promise<unknown>>();
  /** Records that are newer in memory than on the disk, which was full. */
  readonly #unwritten = new Set<string>();
  /** Files of records that went, which the next ones are written to (`RecordStep`). */
  readonly #spares: string[] = [];
  #spareCount = 0;
  readonly #saves = new LaterSaves((id) => this.#enqueue(id, () => this.#writeShown(id)));
  #retryTimer: NodeJS.Timeout | undefined;
  readonly quarantined: QuarantinedRecord[] = [];
  /** Files that a dead writer had not finished: removed at open. */
  readonly unfinished: string[] = [];

  private constructor(options: FileStoreOptions<T>) {
    this.#options = options;
  }

  /** Loads every record of the directory and sweeps half-written files. */
  static async open<T>(options: FileStoreOptions<T>): Promise<FileStore<T>> {
    const store = new FileStore<T>(options);
    if (options.storeClass === "durable") await makeDurableDirectory(options.dir);
    else await mkdir(options.dir, { recursive: true, mode: 0o700 });
    for (const name of await readdir(options.dir)) {
      const file = join(options.dir, name);
      // Temporary files of a dead writer; a record's own name never starts with a dot.
      if (name.startsWith(".")) {
        await rm(file, { force: true });
        if (!name.startsWith(SPARE_PREFIX)) store.unfinished.push(file);
      } else if (name.endsWith(FILE_SUFFIX)) await store.#load(name.slice(0, -FILE_SUFFIX.length), file);
    }
    return store;
  }

  async #load(id: string, file: string): Promise<void> {
    try {
      this.#set(id, decodeRecord(await readFile(file), this.#options));
    } catch (err) {
      const problem = err instanceof Error ? err.message : String(err);
      this.quarantined.push({ file, movedTo: await this.#putAside(id, file), problem });
    }
  }

  /** Where that is refused, as on a full disk, the file stays where it is and is overwritten or tried again. */
  async #putAside(id: string, file: string): Promise<string> {
    try {
      await mkdir(this.#options.quarantine, { recursive: true, mode: 0o700 });
      const movedTo = join(this.#options.quarantine, `${Date.now()}-${id}${FILE_SUFFIX}`);
      await rename(file, movedTo);
      return movedTo;
    } catch {
      return file;
    }
  }

  get(id: string): T | undefined {
    return this.#records.get(id);
  }

  list(): { readonly id: string; readonly body: T }[] {
    return Array.from(this.#records, ([id, body]) => ({ id, body }));
  }

  group(key: string): T[] {
    return Array.from(this.#groups.get(key) ?? [], (id) => this.#records.get(id)).filter((body) => body !== undefined);
  }

  show(id: string, body: T): void {
    this.#set(id, body);
  }

  put(id: string, body: T, whenFull: "fail" | "remember" = "fail"): Promise<void> {
    this.#fileOf(id);
    const bytes = encodeRecord(body, this.#options.version);
    return this.#enqueue(id, async () => {
      try {
        await this.#write(id, bytes);
      } catch (err) {
        if (whenFull === "fail" || toRuntimeError(err).code !== "NO_SPACE") throw err;
        this.#unwritten.add(id);
        this.#writeLater();
      }
      this.#set(id, body);
    });
  }

  save(id: string): Promise<void> {
    return this.#saves.save(id);
  }

  saveAll(): Promise<void> {
    return this.#saves.saveAll();
  }

  async #writeShown(id: string): Promise<void> {
    const body = this.#records.get(id);
    if (body === undefined) return;
    try {
      await this.#write(id, encodeRecord(body, this.#options.version));
    } catch (err) {
      if (toRuntimeError(err).code !== "NO_SPACE") throw err;
      this.#unwritten.add(id);
      this.#writeLater();
    }
  }

  putWith(id: string, body: T, steps: RecordSurroundings): Promise<RefusedStep | undefined> {
    const bytes = encodeRecord(body, this.#options.version);
    return this.#enqueue(id, async () => {
      const refusal = await this.#writeThroughSpare(this.#fileOf(id), bytes, steps);
      this.#unwritten.delete(id);
      this.#set(id, body);
      return refusal;
    });
  }

  async removeWith(id: string, work: (removeFileAnd: RemoveFileAnd) => Promise<void>): Promise<void> {
    let failure: { readonly reason: unknown } | undefined;
    this.#saves.drop(id);
    await this.#enqueue(id, async () => {
      if (!this.#records.has(id)) return;
      try {
        await work((steps) => this.#removeFileAnd(id, steps));
      } catch (err) {
        failure = { reason: err };
        return this.#writeShown(id);
      }
      this.#delete(id);
      this.#unwritten.delete(id);
    });
    if (failure) throw failure.reason;
  }

  async #write(id: string, bytes: Buffer): Promise<void> {
    const file = this.#fileOf(id);
    if (this.#options.storeClass === "durable") await writeAtomically(file, bytes, { mode: 0o600, isDurable: true });
    else await this.#writeThroughSpare(file, bytes, {});
    this.#unwritten.delete(id);
  }

  /** @throws RuntimeError `internal` for an id that is no safe file name */
  #fileOf(id: string): string {
    if (SAFE_ID.test(id)) return join(this.#options.dir, id + FILE_SUFFIX);
    throw new RuntimeError(`write record "${id}": not a safe file name`, { kind: "internal", code: "INTERNAL" });
  }

  async #writeThroughSpare(
    file: string,
    bytes: Buffer,
    { first = [], last = [] }: RecordSurroundings,
  ): Promise<RefusedStep | undefined> {
    const spare = this.#spares.pop() ?? this.#newSpare();
    const record = { make: "record", path: file, mode: 0o600, bytes, spare } as const;
    const { error, failed = -1, hasSpare } = await tryFileSteps([...first, record, ...last]);
    const isReached = error === undefined || failed >= first.length;
    if (hasSpare || !isReached) this.#spares.push(spare);
    if (error === undefined) return undefined;
    if (failed > first.length) return { index: failed - first.length - 1, error };
    // What the other spares hold may be what is missing.
    if (!isReached || error.code !== "NO_SPACE" || this.#spares.length === 0) throw error;
    await Promise.all(this.#spares.splice(0).map((other) => rm(other, { force: true })));
    return this.#writeThroughSpare(file, bytes, { last });
  }

  #newSpare(): string {
    return join(this.#options.dir, `${SPARE_PREFIX}${this.#spareCount++}`);
  }

  async #removeFileAnd(id: string, steps: readonly FileStep[]): Promise<RefusedStep | undefined> {
    const path = this.#fileOf(id);
    const spare = this.#spares.length < MAX_SPARES ? this.#newSpare() : undefined;
    const removal =
      spare === undefined ? ({ remove: "file", path } as const) : ({ make: "spare", path, spare } as const);
    const { error, failed = -1, hasSpare } = await tryFileSteps([removal, ...steps]);
    if (spare !== undefined && hasSpare) this.#spares.push(spare);
    if (error === undefined) return undefined;
    if (failed > 0) return { index: failed - 1, error };
    throw error;
  }

  async #removeDurably(id: string): Promise<void> {
    await rm(this.#fileOf(id), { force: true });
    await syncDirectory(this.#options.dir);
  }

  remove(id: string): Promise<void> {
    this.#saves.drop(id);
    return this.#enqueue(id, async () => {
      if (!this.#records.has(id)) return;
      if (this.#options.storeClass === "durable") await this.#removeDurably(id);
      else await this.#removeFileAnd(id, []);
      this.#delete(id);
      this.#unwritten.delete(id);
    });
  }

  #set(id: string, body: T): void {
    const { groupOf } = this.#options;
    const before = this.#records.get(id);
    this.#records.set(id, body);
    if (!groupOf) return;
    const key = groupOf(body);
    if (before !== undefined && groupOf(before) !== key) this.#leaveGroup(id, groupOf(before));
    const ids = this.#groups.get(key);
    if (ids) ids.add(id);
    else this.#groups.set(key, new Set([id]));
  }

  #delete(id: string): void {
    const body = this.#records.get(id);
    this.#records.delete(id);
    if (body !== undefined && this.#options.groupOf) this.#leaveGroup(id, this.#options.groupOf(body));
  }

  #leaveGroup(id: string, key: string): void {
    const ids = this.#groups.get(key);
    ids?.delete(id);
    if (ids?.size === 0) this.#groups.delete(key);
  }

  #writeLater(): void {
    if (this.#retryTimer !== undefined) return;
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined;
      for (const id of this.#unwritten) this.#writeNewest(id).catch(() => this.#writeLater());
    }, RETRY_MS).unref();
  }

  /** The record as it is when its turn comes: what was put or removed meanwhile must not be undone. */
  #writeNewest(id: string): Promise<void> {
    return this.#enqueue(id, async () => {
      const body = this.#records.get(id);
      if (body !== undefined && this.#unwritten.has(id))
        await this.#write(id, encodeRecord(body, this.#options.version));
    });
  }

  #enqueue<R>(id: string, work: () => Promise<R>): Promise<R> {
    const before = this.#writes.get(id);
    const done = (before ? before.catch(() => undefined).then(work) : work()).catch((err: unknown) => {
      throw withContext(err, `write record "${id}"`);
    });
    this.#writes.set(id, done);
    const forget = () => {
      if (this.#writes.get(id) === done) this.#writes.delete(id);
    };
    done.then(forget, forget);
    return done;
  }
}

/**
 * Makes a directory and those above it, mode 0700, where they are missing. What is written into
 * it durably is only there after a power cut if the directory's own name is.
 */
export async function makeDurableDirectory(dir: string): Promise<void> {
  const first = (await mkdir(dir, { recursive: true, mode: 0o700 })) ?? dir;
  for (let at = dir; at.length >= first.length; at = dirname(at)) await syncDirectory(dirname(at));
}

/** fsync(2) of a directory: makes the renames and removals in it durable. */
export async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The kernel's id of this boot: what makes boot-class records of an earlier one stale. */
export async function readBootId(): Promise<string> {
  return (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
}
