/**
 * Reading CRI-format logs: `<RFC 3339 with ns> <stdout|stderr> <P|F> <text>`, a line each.
 *
 * The monitor writes and rotates (`path` -> `path.1` -> `path.2` …); here they are read in order,
 * oldest first, and followed through a rotation by the open descriptor and the inode. Nothing
 * is read ahead of the consumer, so a slow client costs one buffer.
 */
import { type FSWatcher, watch } from "node:fs";
import { type FileHandle, open, readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { hasErrno, RuntimeError } from "../base/errors.js";

export interface LogOptions {
  readonly follow: boolean;
  /** Whole lines from the end; `undefined`: all. */
  readonly tailLines: number | undefined;
  /** Lines before this Unix time are left out. */
  readonly sinceMs: number | undefined;
  readonly timestamps: boolean;
  /** Output is cut after this many bytes; `undefined`: never. */
  readonly limitBytes: number | undefined;
  readonly signal: AbortSignal;
  /** True once nothing more will be written: following then ends at the end of the file. */
  readonly hasEnded: () => boolean;
}

const CHUNK_BYTES = 64 * 1024;
/** Without an inotify event (a lost one, a file system without) a follower looks this often. */
const POLL_MS = 500;
const NEWLINE = 0x0a;
const SPACE = 0x20;

/** One physical line of a log file. */
export interface LogLine {
  readonly timestamp: string;
  readonly stream: string;
  /** False for a piece of a line that goes on with the next one. */
  readonly isFull: boolean;
  readonly text: Buffer;
}

/** A line without its line feed, or `undefined` where it is not of the format. */
export function parseLogLine(line: Buffer): LogLine | undefined {
  const first = line.indexOf(SPACE);
  const second = line.indexOf(SPACE, first + 1);
  const third = line.indexOf(SPACE, second + 1);
  if (first <= 0 || second < 0 || third < 0) return undefined;
  const tag = line.toString("latin1", second + 1, third);
  return {
    timestamp: line.toString("latin1", 0, first),
    stream: line.toString("latin1", first + 1, second),
    isFull: !tag.split(":").includes("P"),
    text: line.subarray(third + 1),
  };
}

/**
 * The text of a container's log, as `kubectl logs` prints it.
 *
 * @throws RuntimeError `not-found` LOG_NOT_FOUND
 */
export async function* readLog(path: string, options: LogOptions): AsyncGenerator<Buffer> {
  const lines = new LineFormat(options);
  let isFound = false;
  const skip = options.tailLines === undefined ? undefined : await tailStart(path, options.tailLines);
  for (const rotated of await rotatedFiles(path)) {
    if (skip && rotated.number > skip.number) continue;
    const offset = skip?.number === rotated.number ? skip.offset : 0;
    if (rotated.number === 0) break;
    isFound = true;
    const handle = await openLog(rotated.path);
    if (!handle) continue;
    try {
      yield* readFrom(handle, offset, lines);
    } finally {
      await handle.close();
    }
    if (lines.isFull) return;
  }
  yield* readCurrent(path, skip?.number === 0 ? skip.offset : 0, lines, options, isFound);
}

/** The newest file, and with `follow` every one that takes its place. */
async function* readCurrent(
  path: string,
  offset: number,
  lines: LineFormat,
  options: LogOptions,
  isOptional: boolean,
): AsyncGenerator<Buffer> {
  using changes = options.follow ? new FileChanges(path) : undefined;
  let position = offset;
  let handle = await openLog(path);
  while (!handle) {
    if (!changes || options.hasEnded() || options.signal.aborted) {
      if (isOptional) return;
      throw new RuntimeError(`log "${basename(dirname(path))}/${basename(path)}": the container has written none`, {
        kind: "not-found",
        code: "LOG_NOT_FOUND",
      });
    }
    await changes.next(options.signal);
    handle = await openLog(path);
  }
  try {
    for (;;) {
      // Asked before reading: what was written before the end is then read.
      const isEnd = options.hasEnded();
      const before = position;
      for await (const chunk of readChunks(handle, position)) {
        position += chunk.length;
        const text = lines.add(chunk);
        if (text.length > 0) yield text;
        if (lines.isFull || options.signal.aborted) return;
      }
      if (!changes) return;
      const next: FileHandle | undefined = await successor(path, handle);
      if (next) {
        // The old file may have grown between our last read and its rotation.
        for await (const chunk of readChunks(handle, position)) yield lines.add(chunk);
        await handle.close();
        handle = next;
        position = 0;
        continue;
      }
      if (isEnd && position === before) return;
      if (!isEnd) await changes.next(options.signal);
      if (options.signal.aborted) return;
    }
  } finally {
    await handle.close();
  }
}

async function* readFrom(handle: FileHandle, offset: number, lines: LineFormat): AsyncGenerator<Buffer> {
  for await (const chunk of readChunks(handle, offset)) {
    const text = lines.add(chunk);
    if (text.length > 0) yield text;
    if (lines.isFull) return;
  }
}

async function* readChunks(handle: FileHandle, offset: number): AsyncGenerator<Buffer> {
  let position = offset;
  for (;;) {
    const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES, position);
    if (bytesRead === 0) return;
    position += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

async function openLog(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, "r");
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return undefined;
    throw err;
  }
}

/** The file that is at `path` now, where it is another one than `current`. */
async function successor(path: string, current: FileHandle): Promise<FileHandle | undefined> {
  const found = await openLog(path);
  if (!found) return undefined;
  const [now, before] = await Promise.all([found.stat(), current.stat()]);
  if (now.ino !== before.ino) return found;
  await found.close();
  return undefined;
}

/** Files of one log, oldest first; the one being written has the number 0 and comes last. */
async function rotatedFiles(path: string): Promise<{ path: string; number: number }[]> {
  const name = basename(path);
  const entries = await readdir(dirname(path)).catch((err: unknown) => {
    if (hasErrno(err, "ENOENT")) return [];
    throw err;
  });
  const numbers = entries.flatMap((entry) => {
    const suffix = entry.startsWith(`${name}.`) ? entry.slice(name.length + 1) : undefined;
    return suffix !== undefined && /^\d{1,6}$/.test(suffix) ? [Number(suffix)] : [];
  });
  const rotated = numbers
    .sort((a, b) => b - a)
    .map((number) => ({ path: join(dirname(path), `${name}.${number}`), number }));
  return [...rotated, { path, number: 0 }];
}

/** Where the last `count` whole lines begin: a file and an offset in it. `undefined`: at the beginning of all. */
async function tailStart(path: string, count: number): Promise<{ number: number; offset: number } | undefined> {
  let missing = count;
  for (const file of (await rotatedFiles(path)).reverse()) {
    const handle = await openLog(file.path);
    if (!handle) continue;
    try {
      const found = await lineStartFromEnd(handle, missing);
      if (found.offset !== undefined) return { number: file.number, offset: found.offset };
      missing -= found.lines;
    } finally {
      await handle.close();
    }
  }
  return undefined;
}

/** Reads backwards. `offset` is set where `count` lines were found; else `lines` says how many there are. */
async function lineStartFromEnd(handle: FileHandle, count: number): Promise<{ offset?: number; lines: number }> {
  let end = (await handle.stat()).size;
  if (count <= 0) return { offset: end, lines: 0 };
  let lines = 0;
  let tail = Buffer.alloc(0);
  while (end > 0) {
    const size = Math.min(CHUNK_BYTES, end);
    const { buffer } = await handle.read(Buffer.alloc(size), 0, size, end - size);
    end -= size;
    const block: Buffer = Buffer.concat([buffer, tail]);
    let stop = block.length;
    for (;;) {
      const newline = stop >= 2 ? block.lastIndexOf(NEWLINE, stop - 2) : -1;
      if (newline < 0) break;
      const line = parseLogLine(block.subarray(newline + 1, stop - 1));
      // A line begins where the one before it is complete: pieces belong to the line they lead to.
      if (line?.isFull !== false) {
        if (lines === count) return { offset: end + stop, lines };
        lines += 1;
      }
      stop = newline + 1;
    }
    tail = Buffer.from(block.subarray(0, stop));
  }
  if (tail.length > 0 && parseLogLine(tail.subarray(0, -1))?.isFull !== false) {
    if (lines === count) return { offset: tail.length, lines };
    lines += 1;
  }
  return lines === count ? { offset: 0, lines } : { lines };
}

/** From bytes of a file to what the reader gets: prefix off, pieces joined, old lines out. */
class LineFormat {
  readonly #options: Pick<LogOptions, "sinceMs" | "timestamps" | "limitBytes">;
  #rest: Buffer = Buffer.alloc(0);
  /** By stream: the piece before did not end a line, so the next has no timestamp of its own. */
  readonly #openStreams = new Set<string>();
  #written = 0;

  constructor(options: Pick<LogOptions, "sinceMs" | "timestamps" | "limitBytes">) {
    this.#options = options;
  }

  /** True once `limitBytes` have been given out. */
  get isFull(): boolean {
    return this.#options.limitBytes !== undefined && this.#written >= this.#options.limitBytes;
  }

  add(chunk: Buffer): Buffer {
    const bytes = this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    const parts: Buffer[] = [];
    let start = 0;
    for (let end = bytes.indexOf(NEWLINE, start); end >= 0; end = bytes.indexOf(NEWLINE, start)) {
      this.#addLine(bytes.subarray(start, end), parts);
      start = end + 1;
    }
    this.#rest = Buffer.from(bytes.subarray(start));
    const text = Buffer.concat(parts);
    const left = (this.#options.limitBytes ?? Infinity) - this.#written;
    const given = text.length > left ? text.subarray(0, left) : text;
    this.#written += given.length;
    return given;
  }

  #addLine(bytes: Buffer, parts: Buffer[]): void {
    const line = parseLogLine(bytes);
    if (!line) return;
    const { sinceMs, timestamps } = this.#options;
    const isContinued = this.#openStreams.has(line.stream);
    if (line.isFull) this.#openStreams.delete(line.stream);
    else this.#openStreams.add(line.stream);
    if (sinceMs !== undefined && Date.parse(line.timestamp) < sinceMs) return;
    if (timestamps && !isContinued) parts.push(Buffer.from(`${line.timestamp} `));
    parts.push(line.text);
    if (line.isFull) parts.push(LINE_FEED);
  }
}

const LINE_FEED = Buffer.from("\n");

/** Waits for a change of a file's directory, or for a while. */
class FileChanges implements Disposable {
  #watcher: FSWatcher | undefined;
  #wake: (() => void) | undefined;
  #hasChanged = false;

  constructor(path: string) {
    try {
      const name = basename(path);
      this.#watcher = watch(dirname(path), { persistent: false }, (_type, file) => {
        if (file !== null && !file.startsWith(name)) return;
        this.#hasChanged = true;
        this.#wake?.();
      });
      this.#watcher.on("error", () => this.#watcher?.close());
    } catch {
      // Out of inotify watches: polling alone still follows.
    }
  }

  async next(signal: AbortSignal): Promise<void> {
    if (!this.#hasChanged && !signal.aborted) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, POLL_MS);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
        signal.addEventListener("abort", this.#wake, { once: true });
      });
      if (this.#wake) signal.removeEventListener("abort", this.#wake);
      this.#wake = undefined;
    }
    this.#hasChanged = false;
  }

  [Symbol.dispose](): void {
    this.#watcher?.close();
  }
}
