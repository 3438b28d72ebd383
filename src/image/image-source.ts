/**
 * Where the parts of one image come from: a registry, a layout on disk or an archive. The
 * store asks for documents and layer streams and does not care which.
 */
import type { Readable } from "node:stream";
import { RuntimeError } from "../base/errors.js";
import type { Digest } from "../base/ids.js";
import type { Platform } from "../oci/image-spec.js";
import {
  type CheckedConfig,
  type CheckedDescriptor,
  type CheckedManifest,
  choosePlatform,
  FOREIGN_LAYER_TYPES,
  INDEX_TYPES,
  type ManifestOrIndex,
  parseConfig,
  parseManifestOrIndex,
} from "./image-documents.js";

/** An index may hold indexes, but nobody nests them deeper. */
const MAX_INDEX_DEPTH = 3;

export interface ImageSource {
  /** Layers may come from the addresses that their descriptors name. */
  readonly allowsForeignLayers?: boolean | undefined;
  /** Bytes of a manifest or index whose digest holds. */
  document(item: CheckedDescriptor, signal: AbortSignal): Promise<Buffer>;
  /** Bytes of a config whose digest and size hold. */
  config(item: CheckedDescriptor, signal: AbortSignal): Promise<Buffer>;
  /** The stream of a layer, not yet hashed. */
  layer(item: CheckedDescriptor, signal: AbortSignal): Promise<Readable>;
}

/** One image of one platform, its documents checked, its layers not fetched. */
export interface ResolvedImage {
  readonly manifestDigest: Digest;
  readonly manifestBytes: Buffer;
  readonly manifest: CheckedManifest;
  readonly configBytes: Buffer;
  readonly config: CheckedConfig;
}

/**
 * Follows indexes down to the manifest of the platform and reads its config.
 *
 * @param top what the reference points at: bytes, their digest, and the media type that was said with them
 * @throws RuntimeError `not-found` IMAGE_PLATFORM_MISSING, `data-loss` IMAGE_MALFORMED, `unimplemented` IMAGE_UNSUPPORTED
 */
export async function resolveImage(
  source: ImageSource,
  top: { readonly bytes: Buffer; readonly digest: Digest; readonly mediaType: string | undefined },
  platform: Platform,
  subject: string,
  signal: AbortSignal,
): Promise<ResolvedImage> {
  let { bytes, digest } = top;
  let document: ManifestOrIndex = parseManifestOrIndex(bytes, top.mediaType, subject);
  for (let depth = 0; document.kind === "index"; depth++) {
    if (depth === MAX_INDEX_DEPTH) throw malformed(subject, `indexes nested deeper than ${MAX_INDEX_DEPTH}`);
    const chosen = choosePlatform(document.index.manifests, platform, subject);
    bytes = await source.document(chosen, signal);
    digest = chosen.digest;
    document = parseManifestOrIndex(bytes, chosen.mediaType, subject);
    if (INDEX_TYPES.includes(chosen.mediaType) !== (document.kind === "index"))
      throw malformed(subject, "an index that points at something else");
  }
  const { manifest } = document;
  for (const layer of manifest.layers) {
    if (!FOREIGN_LAYER_TYPES.includes(layer.mediaType) || source.allowsForeignLayers) continue;
    throw new RuntimeError(
      `read image "${subject}": layer ${layer.digest} is to be had from a foreign address only, which the settings do not allow (allow-foreign-layers of [images])`,
      { kind: "unimplemented", code: "IMAGE_UNSUPPORTED" },
    );
  }
  const configBytes = await source.config(manifest.config, signal);
  const config = parseConfig(configBytes, manifest.layers.length, subject);
  checkPlatform(config, platform, subject);
  return { manifestDigest: digest, manifestBytes: bytes, manifest, configBytes, config };
}

function checkPlatform(config: CheckedConfig, platform: Platform, subject: string): void {
  if (
    (config.os === "" || config.os === platform.os) &&
    (config.architecture === "" || config.architecture === platform.architecture)
  )
    return;
  throw new RuntimeError(
    `choose platform of image "${subject}": it is for ${config.os}/${config.architecture}, this machine is ${platform.os}/${platform.architecture}`,
    { kind: "not-found", code: "IMAGE_PLATFORM_MISSING" },
  );
}

function malformed(subject: string, problem: string): RuntimeError {
  return new RuntimeError(`read image "${subject}": ${problem}`, { kind: "data-loss", code: "IMAGE_MALFORMED" });
}
