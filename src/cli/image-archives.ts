/**
 * `minke load` and `minke save`.
 */
import { createWriteStream } from "node:fs";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { resolve } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { RuntimeError } from "../base/errors.js";
import type { MinkeClient } from "../client/index.js";
import type { SaveCompression, SaveFormat } from "../client/images.js";
import { connectTo, type GlobalOptions, print } from "./context.js";
import { printJson } from "./image-list.js";

const COMPRESSIONS: readonly string[] = ["gzip", "zstd"] satisfies SaveCompression[];

/** What a format of the command is on the wire, and whether it ends as a directory. */
const FORMATS: Readonly<Record<string, { readonly archive: SaveFormat; readonly isDirectory: boolean }>> = {
  "docker-archive": { archive: "docker-archive", isDirectory: false },
  "oci-archive": { archive: "oci-archive", isDirectory: false },
  "docker-dir": { archive: "docker-archive", isDirectory: true },
  "oci-dir": { archive: "oci-archive", isDirectory: true },
};

export async function load(
  path: string | undefined,
  options: GlobalOptions & { readonly input?: string; readonly output?: string },
): Promise<void> {
  if (path !== undefined && options.input !== undefined)
    throw badOption("give the path once: as argument or as --input");
  const from = path ?? options.input ?? "-";
  if (from === "-" && process.stdin.isTTY)
    throw badOption("standard input is a terminal: name a file, or redirect one (minke load < image.tar)");
  const client = await connectTo(options);
  const items = await (from === "-" ? client.image.load(process.stdin) : client.loadImages(resolve(from)));
  if (options.output === "json") return printJson({ items });
  for (const { id, repoTags } of items) print(`loaded ${repoTags.join(", ") || id}`);
}

export async function save(
  names: readonly string[],
  options: GlobalOptions & { readonly output?: string; readonly format: string; readonly compress?: string },
): Promise<void> {
  const format = FORMATS[options.format];
  if (!format) throw badOption(`option --format: "${options.format}" is none of ${Object.keys(FORMATS).join(", ")}`);
  const { compress, output } = options;
  if (compress !== undefined && !COMPRESSIONS.includes(compress))
    throw badOption(`option --compress: "${compress}" is neither gzip nor zstd`);
  if (format.isDirectory && (output === undefined || compress !== undefined))
    throw badOption(`format ${options.format} needs --output with a directory, and packs nothing`);
  if (output === undefined && process.stdout.isTTY)
    throw badOption("standard output is a terminal: use --output, or redirect it");
  const client = await connectTo(options);
  const archive = () => open(client, names, format.archive, compress);
  if (output === undefined) {
    await pipeline(await archive(), process.stdout, { end: false });
  } else if (format.isDirectory) {
    await saveDirectory(archive, resolve(output));
  } else if (isSpecialFile(output)) {
    await pipeline(await archive(), createWriteStream(output));
  } else {
    await saveFile(archive, resolve(output));
  }
}

function open(
  client: MinkeClient,
  names: readonly string[],
  format: SaveFormat,
  compress: string | undefined,
): Promise<Readable> {
  return client.image.save(names, { format, compression: (compress ?? "none") as SaveCompression });
}

/** `/dev/stdout` and the like are written to, never replaced. */
function isSpecialFile(path: string): boolean {
  return path.startsWith("/dev/");
}

/** The file is whole or not there. */
async function saveFile(archive: () => Promise<Readable>, path: string): Promise<void> {
  const partial = `${path}.${process.pid}.partial`;
  try {
    await pipeline(await archive(), createWriteStream(partial, { flags: "wx" }));
    await rename(partial, path);
  } catch (err) {
    await rm(partial, { force: true });
    throw err;
  }
}

/** The directory must be empty or not there: an archive's files among others are no layout. */
async function saveDirectory(archive: () => Promise<Readable>, path: string): Promise<void> {
  await mkdir(path, { recursive: true });
  if ((await readdir(path)).length > 0) throw badOption(`save to "${path}": the directory is not empty`);
  const { x } = await import("tar");
  const source = await archive();
  await new Promise<void>((done, reject) => {
    const target = x({ cwd: path, strict: true });
    target.on("error", reject);
    target.on("close", () => done());
    source.on("error", reject);
    source.pipe(target);
  });
}

function badOption(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "invalid-argument", code: "INVALID_REQUEST" });
}
