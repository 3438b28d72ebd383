/**
 * Index, manifest and config as they come from a registry or an archive: limits first, then
 * JSON, then shape. Nothing else in src/image looks at bytes that nobody has checked.
 *
 * One document must be one kind of thing whoever reads it: the media types of the response,
 * the descriptor and the document itself must agree (CVE-2021-41190).
 */
import { z } from "zod";
import { RuntimeError } from "../base/errors.js";
import { type Digest, isDigest } from "../base/ids.js";
import {
  type Descriptor,
  type ImageConfig,
  type ImageIndex,
  type ImageManifest,
  MEDIA_TYPE,
  type Platform,
} from "../oci/image-spec.js";
import { beyondJsonLimits } from "./json-limits.js";

export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
export const MAX_CONFIG_BYTES = 8 * 1024 * 1024;
/** Overlayfs takes at most 500 lower directories. */
const MAX_LAYERS = 500;
const MAX_INDEX_ENTRIES = 1000;

export const INDEX_TYPES: readonly string[] = [MEDIA_TYPE.index, MEDIA_TYPE.dockerManifestList];
export const MANIFEST_TYPES: readonly string[] = [MEDIA_TYPE.manifest, MEDIA_TYPE.dockerManifest];
const CONFIG_TYPES: readonly string[] = [MEDIA_TYPE.config, MEDIA_TYPE.dockerConfig];
const LAYER_TYPES: readonly string[] = [
  MEDIA_TYPE.layer,
  MEDIA_TYPE.layerGzip,
  MEDIA_TYPE.layerZstd,
  MEDIA_TYPE.dockerLayerGzip,
  "application/vnd.docker.image.rootfs.diff.tar",
  "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
/** Layers that registries may not hand out: their descriptors name other addresses. */
export const FOREIGN_LAYER_TYPES: readonly string[] = [
  "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
  "application/vnd.oci.image.layer.nondistributable.v1.tar",
  "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
  "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
];

/** A descriptor whose digest and size have been looked at. */
export interface CheckedDescriptor extends Descriptor {
  digest: Digest;
}

export interface CheckedManifest extends ImageManifest {
  config: CheckedDescriptor;
  layers: CheckedDescriptor[];
}

export interface CheckedIndex extends ImageIndex {
  manifests: CheckedDescriptor[];
}

export type CheckedConfig = ImageConfig & { rootfs: { diff_ids: Digest[] } };

const digest = z.custom<Digest>(
  (value) => typeof value === "string" && isDigest(value),
  "not sha256: and 64 lower-case hex digits",
);
const platform = z.looseObject({ architecture: z.string(), os: z.string(), variant: z.string().optional() });
const descriptor = z.looseObject({
  mediaType: z.string(),
  digest,
  size: z.int().nonnegative(),
  urls: z.array(z.string()).optional(),
  platform: platform.optional(),
  annotations: z.record(z.string(), z.string()).optional(),
});
const index = z.looseObject({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  manifests: z.array(descriptor).max(MAX_INDEX_ENTRIES),
});
const manifest = z.looseObject({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  config: descriptor,
  layers: z.array(descriptor).max(MAX_LAYERS),
});
// A NUL would end an argument or a variable early in the kernel.
const text = z.string().refine((value) => !value.includes("\0"), "holds a NUL");
const texts = z.array(text).nullish();
const keys = z.record(text, z.unknown()).nullish();
const config = z.looseObject({
  created: z.string().nullish(),
  architecture: z.string().default(""),
  os: z.string().default(""),
  variant: z.string().optional(),
  config: z
    .looseObject({
      User: text.nullish(),
      Env: texts,
      Entrypoint: texts,
      Cmd: texts,
      WorkingDir: text.nullish(),
      StopSignal: text.nullish(),
      Volumes: keys,
      ExposedPorts: keys,
      Labels: z.record(z.string(), z.string()).nullish(),
    })
    .nullish(),
  rootfs: z.looseObject({ type: z.literal("layers"), diff_ids: z.array(digest).max(MAX_LAYERS) }),
});

export type ManifestOrIndex =
  | { readonly kind: "index"; readonly mediaType: string; readonly index: CheckedIndex }
  | { readonly kind: "manifest"; readonly mediaType: string; readonly manifest: CheckedManifest };

/**
 * @param said media type of the response or the descriptor; `undefined` where nobody said one
 * @param subject for messages: the reference or digest
 * @throws RuntimeError `data-loss` IMAGE_MALFORMED, `unimplemented` IMAGE_UNSUPPORTED
 */
export function parseManifestOrIndex(bytes: Buffer, said: string | undefined, subject: string): ManifestOrIndex {
  const document = parseJson(bytes, MAX_MANIFEST_BYTES, subject, "manifest");
  const own = typeof document["mediaType"] === "string" ? document["mediaType"] : undefined;
  if (own !== undefined && said !== undefined && own !== said) {
    throw malformed(subject, `it says media type "${own}", but was given as "${said}"`);
  }
  // OCI lets a document leave its type out; then its keys tell, and may tell one thing only.
  const mediaType = own ?? said ?? ("manifests" in document ? MEDIA_TYPE.index : MEDIA_TYPE.manifest);
  const isIndex = INDEX_TYPES.includes(mediaType);
  if (!isIndex && !MANIFEST_TYPES.includes(mediaType)) {
    throw new RuntimeError(`read manifest of "${subject}": media type "${mediaType}" is not supported`, {
      kind: "unimplemented",
      code: "IMAGE_UNSUPPORTED",
    });
  }
  if ("manifests" in document && ("layers" in document || "config" in document)) {
    throw malformed(subject, "it is a manifest and an index at once");
  }
  if (isIndex) return { kind: "index", mediaType, index: check<CheckedIndex>(index, document, subject) };
  const checked = check<CheckedManifest>(manifest, document, subject);
  checkMediaTypes(checked, subject);
  return { kind: "manifest", mediaType, manifest: checked };
}

function checkMediaTypes(checked: CheckedManifest, subject: string): void {
  for (const [what, item, types] of [
    ["config", checked.config, CONFIG_TYPES] as const,
    ...checked.layers.map((layer) => ["layer", layer, [...LAYER_TYPES, ...FOREIGN_LAYER_TYPES]] as const),
  ]) {
    if (types.includes(item.mediaType)) continue;
    throw new RuntimeError(
      `read manifest of "${subject}": ${what} of media type "${item.mediaType}" is not supported`,
      {
        kind: "unimplemented",
        code: "IMAGE_UNSUPPORTED",
      },
    );
  }
}

/** @throws RuntimeError `data-loss` IMAGE_MALFORMED */
export function parseConfig(bytes: Buffer, layerCount: number, subject: string): CheckedConfig {
  const document = parseJson(bytes, MAX_CONFIG_BYTES, subject, "config");
  const checked = check<CheckedConfig>(config, document, subject);
  if (checked.rootfs.diff_ids.length !== layerCount) {
    throw malformed(subject, `the config names ${checked.rootfs.diff_ids.length} layers, the manifest ${layerCount}`);
  }
  return checked;
}

/**
 * @param part of the subject that this is, for messages
 * @throws RuntimeError `data-loss` IMAGE_MALFORMED
 */
export function parseJson(bytes: Buffer, capBytes: number, subject: string, part: string): Record<string, unknown> {
  const problem = (what: string) => malformed(subject, `the ${part} ${what}`);
  if (bytes.length > capBytes) throw problem(`has ${bytes.length} bytes, more than the ${capBytes} that are allowed`);
  const beyond = beyondJsonLimits(bytes);
  if (beyond !== undefined) throw problem(beyond);
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString("utf8"));
  } catch {
    throw problem("is not JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw problem("is not a JSON object");
  return value as Record<string, unknown>;
}

function check<T>(schema: z.ZodType, document: unknown, subject: string): T {
  const result = schema.safeParse(document);
  if (result.success) return result.data as T;
  const issue = result.error.issues[0];
  throw malformed(subject, `${issue?.path.join(".") ?? ""}: ${issue?.message ?? "invalid"}`);
}

function malformed(subject: string, problem: string): RuntimeError {
  return new RuntimeError(`read image "${subject}": ${problem}`, { kind: "data-loss", code: "IMAGE_MALFORMED" });
}

const GO_ARCHITECTURES: Readonly<Record<string, string>> = {
  x64: "amd64",
  ia32: "386",
  arm64: "arm64",
  arm: "arm",
  s390x: "s390x",
  ppc64: "ppc64le",
  riscv64: "riscv64",
};

/** What this machine runs. */
export function hostPlatform(): Platform {
  return { os: "linux", architecture: GO_ARCHITECTURES[process.arch] ?? process.arch };
}

/** Preference of a variant for a wanted one, less is better; `undefined`: cannot run. */
function variantRank(
  architecture: string,
  wanted: string | undefined,
  offered: string | undefined,
): number | undefined {
  if (offered === wanted || offered === undefined) return offered === wanted ? 0 : 1;
  if (architecture === "arm64") return offered === "v8" && wanted === undefined ? 0 : undefined;
  if (architecture === "amd64") return offered === "v1" && wanted === undefined ? 0 : undefined;
  if (architecture !== "arm") return undefined;
  // A 32-bit ARM runs what was built for older ones (v5 to v8).
  const [want, offer] = [Number((wanted ?? "v7").slice(1)), Number(offered.slice(1))];
  return offer <= want ? 2 + want - offer : undefined;
}

/**
 * The manifest of an index that fits the platform best; among equals the first, as the index orders them.
 *
 * @throws RuntimeError `not-found` IMAGE_PLATFORM_MISSING, with what there is
 */
export function choosePlatform(
  candidates: readonly CheckedDescriptor[],
  wanted: Platform,
  subject: string,
): CheckedDescriptor {
  let best: { rank: number; item: CheckedDescriptor } | undefined;
  for (const item of candidates) {
    // Without a platform it is for any, but only if nothing names ours.
    const offered = item.platform;
    const fits = offered === undefined || (offered.os === wanted.os && offered.architecture === wanted.architecture);
    const rank = !fits
      ? undefined
      : offered === undefined
        ? 100
        : variantRank(wanted.architecture, wanted.variant, offered.variant);
    if (rank !== undefined && (best === undefined || rank < best.rank)) best = { rank, item };
  }
  if (best) return best.item;
  const offered = candidates.map(({ platform: p }) => [p?.os, p?.architecture, p?.variant].filter(Boolean).join("/"));
  throw new RuntimeError(
    `choose platform of image "${subject}": no manifest for ${wanted.os}/${wanted.architecture} (there are: ${[...new Set(offered)].join(", ") || "none"})`,
    { kind: "not-found", code: "IMAGE_PLATFORM_MISSING" },
  );
}
