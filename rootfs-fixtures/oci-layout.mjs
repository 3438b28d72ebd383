// @ts-check
/**
 * Writes OCI image layouts (image-spec "image-layout.md") that skopeo and podman read:
 * `oci-layout`, `index.json` with `org.opencontainers.image.ref.name`, and blobs by digest.
 *
 * Same layers and configs, same bytes. Knows nothing of what is inside a layer.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const LAYER = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG = "application/vnd.oci.image.config.v1+json";
const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const INDEX = "application/vnd.oci.image.index.v1+json";
const CREATED = "1970-01-01T00:00:00Z";

/** @typedef {{ mediaType: string, digest: string, size: number }} Descriptor */
/** @typedef {{ tar: Buffer, comment: string }} Layer */
/**
 * @typedef {{
 *   ref: string,
 *   layers: readonly Layer[],
 *   architecture: string,
 *   config: { Entrypoint?: string[], Cmd?: string[], Env?: string[], User?: string, WorkingDir?: string,
 *     ExposedPorts?: Record<string, {}>, StopSignal?: string, Labels?: Record<string, string>, Volumes?: Record<string, {}> },
 * }} Image
 */

/**
 * Replaces `outDir` by a layout of these images. A layer that several images hold is
 * compressed and stored once.
 *
 * @param {string} outDir absolute
 * @param {readonly Image[]} images
 */
export function writeLayout(outDir, images) {
  const building = `${outDir}.building-${process.pid}`;
  rmSync(building, { recursive: true, force: true });
  mkdirSync(join(building, "blobs/sha256"), { recursive: true });
  /** @type {Map<Layer, { descriptor: Descriptor, diffId: string }>} */
  const packed = new Map();
  for (const layer of images.flatMap((image) => image.layers)) {
    if (packed.has(layer)) continue;
    const descriptor = writeBlob(building, LAYER, gzipped(layer.tar));
    packed.set(layer, { descriptor, diffId: sha256(layer.tar) });
  }
  const manifests = images.map((image) => {
    const layers = image.layers.map((layer) => /** @type {{ descriptor: Descriptor, diffId: string }} */ (packed.get(layer)));
    const config = writeJsonBlob(building, CONFIG, {
      created: CREATED,
      architecture: image.architecture,
      os: "linux",
      config: image.config,
      rootfs: { type: "layers", diff_ids: layers.map((layer) => layer.diffId) },
      history: image.layers.map((layer) => ({ created: CREATED, created_by: layer.comment })),
    });
    const manifest = { schemaVersion: 2, mediaType: MANIFEST, config, layers: layers.map((layer) => layer.descriptor) };
    return {
      ...writeJsonBlob(building, MANIFEST, manifest),
      platform: { architecture: image.architecture, os: "linux" },
      annotations: { "org.opencontainers.image.ref.name": image.ref },
    };
  });
  writeFileSync(join(building, "index.json"), JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests }));
  writeFileSync(join(building, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  rmSync(outDir, { recursive: true, force: true });
  renameSync(building, outDir);
}

/**
 * GNU gzip, since zlib's output differs between the versions that Node.js carries.
 *
 * @param {Buffer} tar
 */
function gzipped(tar) {
  const { status, stdout, error } = spawnSync("gzip", ["-n", "-9", "-c"], { input: tar, maxBuffer: 1 << 30 });
  if (status !== 0) throw new Error(`compress a layer: gzip: ${error?.message ?? `exit ${status}`}`);
  return stdout;
}

/** @param {string} dir @param {string} mediaType @param {unknown} body */
function writeJsonBlob(dir, mediaType, body) {
  return writeBlob(dir, mediaType, Buffer.from(JSON.stringify(body)));
}

/** @param {string} dir @param {string} mediaType @param {Buffer} bytes @returns {Descriptor} */
function writeBlob(dir, mediaType, bytes) {
  const digest = sha256(bytes);
  writeFileSync(join(dir, "blobs/sha256", digest.slice("sha256:".length)), bytes);
  return { mediaType, digest, size: bytes.length };
}

/** @param {Buffer} bytes */
function sha256(bytes) {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}
