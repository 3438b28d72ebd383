/**
 * Images on disk: OCI layouts, as directories or tar archives, and the archives of `docker save`.
 *
 * Archives are unpacked with npm `tar` into a directory of ours first; only what lies inside of
 * it is read, whatever links the archive holds. Layers are never unpacked with it.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { lstat, mkdtemp, open, readFile, realpath, rm, stat } from "node:fs/promises";
import { join, sep } from "node:path";
import type { Readable } from "node:stream";
import * as tar from "tar";
import { z } from "zod";
import { hasErrno, RuntimeError, toRuntimeError } from "../base/errors.js";
import { type Digest, digestHex } from "../base/ids.js";
import { ANNOTATION, MEDIA_TYPE, type Platform } from "../oci/image-spec.js";
import {
  type CheckedDescriptor,
  type CheckedIndex,
  type CheckedManifest,
  MAX_CONFIG_BYTES,
  MAX_MANIFEST_BYTES,
  parseConfig,
  parseJson,
  parseManifestOrIndex,
} from "./image-documents.js";
import { type ImageSource, type ResolvedImage, resolveImage } from "./image-source.js";
import { PARTIAL_PREFIX } from "./layer-store.js";
import { type ImageReference, parseReference } from "./reference.js";
import { sha256Of } from "./registry-client.js";
import { unpacked } from "./stored-layer.js";

/** containerd's and nerdctl's annotation of the full reference. */
const CONTAINERD_NAME = "io.containerd.image.name";

export interface ArchivedImage {
  readonly references: readonly ImageReference[];
  readonly source: ImageSource;
  resolve(
    platform: Platform,
    signal: AbortSignal,
  ): Promise<{ readonly image: ResolvedImage; readonly topDigest: Digest | undefined }>;
}

export interface OpenedArchive {
  readonly images: readonly ArchivedImage[];
  close(): Promise<void>;
}

/** Of an archive, unpacked. */
const MAX_ARCHIVE_BYTES = 1024 ** 4;

/**
 * @param from path of a directory or of a tar archive, or an archive's bytes; packed with gzip, zstd or not at all
 * @param tmpDir where an archive is unpacked
 * @throws RuntimeError `not-found` ARCHIVE_NOT_FOUND, `invalid-argument` ARCHIVE_INVALID, `resource-exhausted` NO_SPACE
 */
export async function openArchive(
  from: string | Readable,
  tmpDir: string,
  signal: AbortSignal,
): Promise<OpenedArchive> {
  // A sender may go away before anybody reads; whoever reads is told then.
  if (typeof from !== "string") from.on("error", () => undefined);
  if (typeof from !== "string") return openStream(from, "standard input", tmpDir, signal);
  const path = from;
  const kind = await stat(path).catch((err: unknown) => {
    if (!hasErrno(err, "ENOENT")) throw err;
    throw new RuntimeError(`open image archive "${path}": it does not exist`, {
      kind: "not-found",
      code: "ARCHIVE_NOT_FOUND",
      cause: err,
    });
  });
  if (kind.isDirectory()) return { images: await imagesIn(path), close: async () => undefined };
  return openStream(createReadStream(path, { highWaterMark: 256 * 1024 }), path, tmpDir, signal);
}

async function openStream(source: Readable, path: string, tmpDir: string, signal: AbortSignal): Promise<OpenedArchive> {
  const dir = await mkdtemp(join(tmpDir, `${PARTIAL_PREFIX}archive-`)).catch((err: unknown) => {
    throw toRuntimeError(err);
  });
  const close = () => rm(dir, { recursive: true, force: true });
  try {
    await unpackInto(dir, unpacked(source, MAX_ARCHIVE_BYTES, signal)).catch((err: unknown) => {
      const cause = toRuntimeError(err);
      if (signal.aborted || cause.kind === "resource-exhausted" || cause.code === "CANCELLED") throw cause;
      throw invalid(path, whatIsWrong(cause.message));
    });
    return { images: await imagesIn(dir), close };
  } catch (err) {
    await close();
    throw err;
  }
}

/** npm tar's words for what is no archive tell nobody what to do. */
function whatIsWrong(message: string): string {
  if (message.startsWith("TAR_BAD_ARCHIVE: Truncated")) return "it ends in the middle of an entry";
  if (message.startsWith("TAR_BAD_ARCHIVE: Unrecognized")) return "it is empty, or no tar archive";
  if (/^TAR_ENTRY_INVALID|base256/.test(message)) return `it is no tar archive: ${message.replace(/^\w+: /, "")}`;
  return message;
}

/** Node's pipeline does not know npm tar's streams: their end is an event of their own. */
function unpackInto(dir: string, source: Readable): Promise<void> {
  return new Promise((resolve, reject) => {
    const target = tar.x({ cwd: dir, strict: true, preserveOwner: false, noMtime: true });
    const fail = (err: unknown) => {
      source.destroy();
      reject(err instanceof Error ? err : new Error(String(err)));
    };
    target.on("error", fail);
    target.on("close", () => resolve());
    source.on("error", fail);
    source.pipe(target);
  });
}

async function imagesIn(dir: string): Promise<ArchivedImage[]> {
  if (await isFile(join(dir, "index.json"))) return layoutImages(dir);
  if (await isFile(join(dir, "manifest.json"))) return dockerImages(dir);
  throw invalid(dir, "neither index.json of an OCI layout nor manifest.json of docker save is in it");
}

async function layoutImages(dir: string): Promise<ArchivedImage[]> {
  const layout = parseJson(await readInside(dir, "oci-layout", 4096), 4096, dir, "oci-layout file");
  if (layout["imageLayoutVersion"] !== "1.0.0")
    throw invalid(dir, `layout of version "${String(layout["imageLayoutVersion"])}"`);
  const top = parseManifestOrIndex(
    await readInside(dir, "index.json", MAX_MANIFEST_BYTES),
    MEDIA_TYPE.index,
    "index.json",
  );
  const { manifests } = (top as { index: CheckedIndex }).index;
  const source = layoutSource(dir);
  return manifests.map((item) => ({
    references: referencesOf(item),
    source,
    resolve: async (platform, signal) => {
      const bytes = await source.document(item, signal);
      const image = await resolveImage(
        source,
        { bytes, digest: item.digest, mediaType: item.mediaType },
        platform,
        item.digest,
        signal,
      );
      return { image, topDigest: item.digest };
    },
  }));
}

/** A tag alone names no repository, so it names nothing here. */
function referencesOf(item: CheckedDescriptor): ImageReference[] {
  const name = item.annotations?.[CONTAINERD_NAME] ?? item.annotations?.[ANNOTATION.refName];
  return name !== undefined && /[/:]/.test(name) ? [parseReference(name)] : [];
}

function layoutSource(dir: string): ImageSource {
  const blob = (digest: Digest) => join("blobs/sha256", digestHex(digest));
  const checked = async (item: CheckedDescriptor, capBytes: number) => {
    const bytes = await readInside(dir, blob(item.digest), capBytes);
    const digest = sha256Of(bytes);
    if (digest === item.digest && bytes.length === item.size) return bytes;
    throw new RuntimeError(`read blob ${item.digest}: digest is ${digest}, size ${bytes.length} of ${item.size}`, {
      kind: "data-loss",
      code: "DIGEST_MISMATCH",
    });
  };
  return {
    document: (item) => checked(item, MAX_MANIFEST_BYTES),
    config: (item) => checked(item, MAX_CONFIG_BYTES),
    layer: async (item) => streamInside(dir, blob(item.digest)),
  };
}

const dockerManifest = z.array(
  z.looseObject({ Config: z.string(), RepoTags: z.array(z.string()).nullish(), Layers: z.array(z.string()).max(500) }),
);

async function dockerImages(dir: string): Promise<ArchivedImage[]> {
  const text = (await readInside(dir, "manifest.json", MAX_MANIFEST_BYTES)).toString("utf8");
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    throw invalid(dir, "manifest.json is not JSON");
  }
  const checked = dockerManifest.safeParse(document);
  if (!checked.success) throw invalid(dir, "manifest.json is not one of docker save");
  return checked.data.map((entry) => {
    const files = new Map<Digest, string>();
    const source: ImageSource = {
      document: () => Promise.reject(invalid(dir, "an index in an archive of docker save")),
      config: () => readInside(dir, entry.Config, MAX_CONFIG_BYTES),
      layer: (item) => streamInside(dir, files.get(item.digest) ?? ""),
    };
    return {
      references: (entry.RepoTags ?? []).map(parseReference),
      source,
      resolve: async (platform, signal) => {
        const top = await manifestOf(dir, entry.Config, entry.Layers, files, signal);
        const image = await resolveImage(
          source,
          { ...top, mediaType: MEDIA_TYPE.manifest },
          platform,
          entry.Config,
          signal,
        );
        // The manifest is ours: no registry knows its digest.
        return { image, topDigest: undefined };
      },
    };
  });
}

/** docker save writes no manifest: the one of the same config and the layers as they are in the archive. */
async function manifestOf(
  dir: string,
  configName: string,
  layerNames: readonly string[],
  files: Map<Digest, string>,
  signal: AbortSignal,
): Promise<{ bytes: Buffer; digest: Digest }> {
  const configBytes = await readInside(dir, configName, MAX_CONFIG_BYTES);
  parseConfig(configBytes, layerNames.length, configName);
  const layers: CheckedManifest["layers"] = [];
  for (const name of layerNames) {
    signal.throwIfAborted();
    const layer = await describeLayer(dir, name);
    files.set(layer.digest, name);
    layers.push(layer);
  }
  const config = { mediaType: MEDIA_TYPE.config, digest: sha256Of(configBytes), size: configBytes.length };
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPE.manifest, config, layers }));
  return { bytes, digest: sha256Of(bytes) };
}

async function describeLayer(dir: string, name: string): Promise<CheckedDescriptor> {
  const hash = createHash("sha256");
  let size = 0;
  let head: Buffer | undefined;
  for await (const chunk of await streamInside(dir, name)) {
    head ??= chunk as Buffer;
    hash.update(chunk as Buffer);
    size += (chunk as Buffer).length;
  }
  const magic = head?.subarray(0, 4).toString("hex") ?? "";
  const mediaType = magic.startsWith("1f8b")
    ? MEDIA_TYPE.layerGzip
    : magic === "28b52ffd"
      ? MEDIA_TYPE.layerZstd
      : MEDIA_TYPE.layer;
  return { mediaType, digest: `sha256:${hash.digest("hex")}` as Digest, size };
}

async function isFile(path: string): Promise<boolean> {
  return lstat(path).then(
    (entry) => entry.isFile(),
    () => false,
  );
}

/** Path of a regular file below `dir`; links in it may not lead out. */
async function pathInside(dir: string, name: string): Promise<string> {
  const root = await realpath(dir);
  const path = await realpath(join(root, name)).catch((err: unknown) => {
    throw invalid(dir, hasErrno(err, "ENOENT") ? `"${name}" is not in it` : `"${name}" cannot be read`);
  });
  if (!path.startsWith(root + sep)) throw invalid(dir, `"${name}" leads out of it`);
  if (!(await lstat(path)).isFile()) throw invalid(dir, `"${name}" is not a file`);
  return path;
}

async function readInside(dir: string, name: string, capBytes: number): Promise<Buffer> {
  const path = await pathInside(dir, name);
  const { size } = await stat(path);
  if (size > capBytes) throw invalid(dir, `"${name}" has ${size} bytes, more than the ${capBytes} that are allowed`);
  return readFile(path);
}

async function streamInside(dir: string, name: string): Promise<Readable> {
  const handle = await open(await pathInside(dir, name), "r");
  return createReadStream("", { fd: handle, highWaterMark: 256 * 1024 });
}

function invalid(path: string, problem: string): RuntimeError {
  return new RuntimeError(`open image archive "${path}": ${problem}`, {
    kind: "invalid-argument",
    code: "ARCHIVE_INVALID",
  });
}
