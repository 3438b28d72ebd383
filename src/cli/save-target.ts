/**
 * Where `minke save` writes: standard output, a file, a device or pipe, a directory.
 *
 * A file or directory has its name when it is whole, or not at all: what fails, is interrupted or
 * finds no space goes again. Knows nothing of images; the archive is a stream that may fail.
 */
import { createWriteStream } from "node:fs";
import { mkdir, mkdtemp, readdir, realpath, rename, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";
import { onBrokenOutput } from "./context.js";

/** Writes an archive, once it is asked for. */
export type SaveTarget = (archive: Readable) => Promise<void>;

/** Last: a directory without them is no layout, whatever happens to the machine meanwhile. */
const LAST_NAMES = ["index.json", "manifest.json"];
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Looks at the target before anything is fetched.
 *
 * @param path absolute; `undefined` is standard output
 * @throws RuntimeError `invalid-argument` INVALID_REQUEST where it cannot be what is asked for
 */
export async function saveTarget(path: string | undefined, isDirectory: boolean): Promise<SaveTarget> {
  if (path === undefined) return inContext("save to standard output", toStandardOutput);
  const clause = `save to "${path}"`;
  const kind = await stat(path).catch((err: unknown) => {
    if (hasErrno(err, "ENOENT")) return undefined;
    throw withContext(err, clause);
  });
  if (isDirectory) {
    if (kind && !kind.isDirectory()) throw badTarget(`${clause}: it is there and is no directory`);
    if (kind && (await readdir(path)).length > 0) throw badTarget(`${clause}: the directory is not empty`);
    return inContext(clause, (archive) => toDirectory(archive, path, kind !== undefined));
  }
  if (kind?.isDirectory()) throw badTarget(`${clause}: it is a directory (--format oci-dir or docker-dir fills one)`);
  // A device or pipe is written to, never replaced.
  if (kind && !kind.isFile()) return inContext(clause, (archive) => pipeline(archive, createWriteStream(path)));
  // A link goes on leading to the file.
  const target = kind ? await realpath(path) : path;
  const folder = await stat(dirname(target)).catch(() => undefined);
  if (!folder?.isDirectory()) throw badTarget(`${clause}: there is no directory "${dirname(target)}"`);
  return inContext(clause, (archive) => toFile(archive, target));
}

function inContext(clause: string, write: SaveTarget): SaveTarget {
  return (archive) =>
    write(archive).catch((err: unknown) => {
      throw withContext(err, clause);
    });
}

async function toStandardOutput(archive: Readable): Promise<void> {
  // Half an archive is no normal end, also where it is the reader who went away.
  process.stdout.off("error", onBrokenOutput);
  await pipeline(archive, process.stdout, { end: false });
}

async function toFile(archive: Readable, path: string): Promise<void> {
  const partial = `${path}.${process.pid}.partial`;
  await undoneUnlessWhole(
    async (signal) => {
      await pipeline(archive, createWriteStream(partial, { flags: "wx", flush: true }), { signal });
      await rename(partial, path);
    },
    () => rm(partial, { force: true }),
  );
}

/** Into a directory inside of it, as it may be a mount point, which cannot be replaced. */
async function toDirectory(archive: Readable, path: string, wasThere: boolean): Promise<void> {
  if (!wasThere) await mkdir(path, { recursive: true });
  const partial = await mkdtemp(join(path, ".partial-"));
  let names: string[] = [];
  await undoneUnlessWhole(
    async (signal) => {
      await unpackInto(partial, archive, signal);
      names = await readdir(partial);
      names.sort((a, b) => LAST_NAMES.indexOf(a) - LAST_NAMES.indexOf(b));
      for (const name of names) await rename(join(partial, name), join(path, name));
      await rmdir(partial);
    },
    async () => {
      for (const name of names) await rm(join(path, name), { recursive: true, force: true });
      await rm(partial, { recursive: true, force: true });
      if (!wasThere) await rmdir(path);
    },
  );
}

/** Node's pipeline does not know npm tar's streams: their end is an event of their own. */
async function unpackInto(dir: string, archive: Readable, signal: AbortSignal): Promise<void> {
  const { x } = await import("tar");
  await new Promise<void>((done, reject) => {
    const target = x({ cwd: dir, strict: true });
    const fail = (err: unknown) => {
      archive.destroy();
      reject(err instanceof Error ? err : new Error(String(err)));
    };
    signal.addEventListener("abort", () => fail(signal.reason), { once: true });
    target.on("error", fail);
    target.on("close", () => done());
    archive.on("error", fail);
    archive.pipe(target);
  });
}

/** Runs `undo` where `write` fails, and also where a signal ends the command, which it then does. */
async function undoneUnlessWhole(
  write: (signal: AbortSignal) => Promise<void>,
  undo: () => Promise<unknown>,
): Promise<void> {
  const stop = new AbortController();
  const stopBy = (name: NodeJS.Signals) => stop.abort(name);
  for (const name of SIGNALS) process.once(name, stopBy);
  try {
    await write(stop.signal);
  } catch (err) {
    await undo();
    if (stop.signal.aborted) {
      for (const name of SIGNALS) process.off(name, stopBy);
      process.kill(process.pid, stop.signal.reason as NodeJS.Signals);
    }
    throw err;
  } finally {
    for (const name of SIGNALS) process.off(name, stopBy);
  }
}

function badTarget(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "invalid-argument", code: "INVALID_REQUEST" });
}
