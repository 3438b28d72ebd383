/**
 * One JSON file per object: `{version, sha256, body}`, the hash over the body's bytes as written.
 *
 * Two classes. *durable*: data, fsync, rename, fsync of the directory; survives a power cut.
 * *boot*: no fsync; survives any death of the daemon, and carries the boot id in its body; written
 * through spare files, empty ones that stay beside the records (native/file-steps.ts, `RecordStep`).
 * An unreadable file is moved to quarantine and reported; it never stops the start. All reads
 * are from memory; a record is visible only once its file is in place.
 */
import { hash } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { hasErrno, RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import { type FileStep, retireToSpare, tryFileSteps, writeAtomically } from "../native/index.js";

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

/** Records of what the kernel has, which belong together and are found without a walk over all. */
export interface GroupedStore<T> extends RecordStore<T> {
  /**
   * Shows a record from now on, without writing it: for what the next daemon finds out from the kernel
   * and from monitors as well. No other write of this id may be under way but `save`.
   */
  show(id: string, body: T): void;
  /** Writes what is shown when its turn comes, later where the disk is full. */
  save(id: string): Promise<void>;
  /**
   * As `put`, with steps on files before and after it at the price of one. Boot class only.
   *
   * @returns which step after it failed: the record is there then
   * @throws RuntimeError why a step before it, or the write, failed: the record is as it was
   */
  putWith(id: string, body: T, steps: RecordSurroundings): Promise<RefusedStep | undefined>;
  /**
   * Removes a record with what it stands for: first its file, so that what a death of the daemon leaves
   * belongs to no record; then, by `work`, the rest. It is shown until that is done. Boot class only.
   *
   * @throws what `work` throws: the record is written again, as it is shown
   */
  removeWith(id: string, work: () => Promise<void>): Promise<void>;
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
const MAX_RECORD_BYTES = 16 * 1024 * 1024;
const SAFE_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,250}$/;
const HEADER = /^\{"version":(\d{1,9}),"sha256":"([0-9a-f]{64})","body":/;

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
    return this.#enqueue(id, () => this.#writeShown(id));
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

  async removeWith(id: string, work: () => Promise<void>): Promise<void> {
    let failure: { readonly reason: unknown } | undefined;
    await this.#enqueue(id, async () => {
      if (!this.#records.has(id)) return;
      await this.#removeFileIfThere(id);
      try {
        await work();
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

  async #removeFile(file: string): Promise<void> {
    if (this.#options.storeClass === "durable" || this.#spares.length >= MAX_SPARES) return unlink(file);
    const spare = this.#newSpare();
    await retireToSpare(file, spare);
    this.#spares.push(spare);
  }

  async #removeFileIfThere(id: string): Promise<void> {
    await this.#removeFile(join(this.#options.dir, id + FILE_SUFFIX)).catch((err: unknown) => {
      if (!hasErrno(err, "ENOENT")) throw err;
    });
  }

  remove(id: string): Promise<void> {
    return this.#enqueue(id, async () => {
      if (!this.#records.has(id)) return;
      await this.#removeFileIfThere(id);
      if (this.#options.storeClass === "durable") await syncDirectory(this.#options.dir);
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

function encodeRecord(body: unknown, version: number): Buffer {
  const text = JSON.stringify(body);
  const sha256 = hash("sha256", text);
  return Buffer.from(`{"version":${version},"sha256":"${sha256}","body":${text}}\n`);
}

function decodeRecord<T>(bytes: Buffer, options: FileStoreOptions<T>): T {
  if (bytes.length > MAX_RECORD_BYTES) throw new Error(`larger than ${MAX_RECORD_BYTES} bytes`);
  const text = bytes.toString("utf8");
  const header = HEADER.exec(text);
  if (!header) throw new Error("not a record: no version, checksum and body");
  const version = Number(header[1]);
  if (version > options.version) throw new Error(`version ${version} is newer than this program's ${options.version}`);
  const bodyText = text.slice(header[0].length, text.lastIndexOf("}"));
  const sha256 = hash("sha256", bodyText);
  if (sha256 !== header[2]) throw new Error("the checksum does not match the body");
  const body: unknown = JSON.parse(bodyText);
  return options.parse ? options.parse(body, version) : (body as T);
}

/** The kernel's id of this boot: what makes boot-class records of an earlier one stale. */
export async function readBootId(): Promise<string> {
  return (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
}
