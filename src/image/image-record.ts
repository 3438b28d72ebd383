/**
 * The image and the layer, as recorded. Durable: written when all that they name is on disk.
 */
import { nowNs } from "../base/clock.js";
import type { Digest } from "../base/ids.js";
import type { ImageConfig } from "../oci/image-spec.js";
import type { ResolvedImage } from "./image-source.js";

/** How to run it: the image config's `config`, with empty values instead of missing ones. */
export interface ImageRunConfig {
  readonly user: string;
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly workingDir: string;
  readonly stopSignal?: string | undefined;
  /** Absolute paths that the image declares as volumes. */
  readonly volumes: readonly string[];
  /** `80/tcp` */
  readonly exposedPorts: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

export interface ImageLayer {
  /** Of the bytes as they travel. */
  readonly digest: Digest;
  /** Of the tar stream; names the directory. */
  readonly diffId: Digest;
  /** Of the tar stream. */
  readonly sizeBytes: number;
}

export type ImageOwner = "cri" | "pod";

export interface ImageRecord {
  /** Digest of the image config. */
  readonly id: Digest;
  /** Of the manifest of this platform. */
  readonly manifestDigest: Digest;
  /** `registry/repository:tag`, sorted. */
  readonly repoTags: readonly string[];
  /** `registry/repository@digest`, sorted; the digest is what the registry's tag pointed at. */
  readonly repoDigests: readonly string[];
  /** Of all layers' tar streams and the config. */
  readonly sizeBytes: number;
  /** Base layer first. */
  readonly layers: readonly ImageLayer[];
  /** Unix ns, decimal: when the image was made, as its config says; 0 where it does not. */
  readonly createdAtNs: string;
  /** Unix ns, decimal: when it was last pulled or loaded here. */
  readonly pulledAtNs: string;
  /** Unix ns, decimal: when a tag was last given to it by hand. The newer record has a tag that two have. */
  readonly taggedAtNs?: string | undefined;
  readonly config: ImageRunConfig;
  /** Whose pulls brought it; without it `pod`. Collection follows the owner. */
  readonly owners?: readonly ImageOwner[] | undefined;
  /** Removed while a container used it: hidden, and collected when none does. */
  readonly isRemoved?: true | undefined;
}

/** An image that went by itself, by age or because the disk was full. */
export interface CollectedImage {
  readonly id: string;
  readonly repoTags: readonly string[];
  readonly reason: "age" | "threshold";
  /** Of its layers that no other image had, as du(1) counts. */
  readonly freedBytes: number;
}

/** When images were last used, all in one record: written now and then, not at each use. */
export interface UseRecord {
  /** When it was written; Unix ms. */
  readonly atMs: number;
  /** By image id; Unix ms. */
  readonly lastUseMs: Readonly<Record<string, number>>;
  /** The last pass of the collector that removed something; Unix ms. */
  readonly lastCollection?: { readonly atMs: number; readonly images: readonly CollectedImage[] } | undefined;
}

/** One unpacked layer, shared by all images that hold it. */
export interface LayerRecord {
  readonly diffId: Digest;
  readonly digest: Digest;
  readonly compressedBytes: number;
  readonly sizeBytes: number;
  readonly entries: number;
  readonly compression: string;
  /** Extended attributes that the file system could not hold. */
  readonly unsupportedXattrs: number;
  /** The record of its archive; layers of before records were kept have none. */
  readonly archive?: { readonly digest: Digest; readonly bytes: number } | undefined;
  /** What a verification found: nothing new is started from the layer, and the next pull fetches it again. */
  readonly damage?: { readonly foundAtNs: string; readonly problems: readonly string[] } | undefined;
  /** Unix ns, decimal. */
  readonly unpackedAtNs: string;
}

/** When the record last took tags: of two with the same one, which a death between two writes leaves, this says whose it is. */
export function namedAtNs({ pulledAtNs, taggedAtNs = "0" }: ImageRecord): bigint {
  const [pulled, tagged] = [BigInt(pulledAtNs), BigInt(taggedAtNs)];
  return tagged > pulled ? tagged : pulled;
}

/** What the record of an image is now: the names that it had stay, unless it was removed. */
export function imageRecordOf(
  image: ResolvedImage,
  unpacked: readonly LayerRecord[],
  names: {
    readonly repoTags: readonly string[];
    readonly repoDigests: readonly string[];
    readonly owners: readonly ImageOwner[];
  },
  known: ImageRecord | undefined,
): ImageRecord {
  const layers = unpacked.map(
    ({ diffId, sizeBytes }, i): ImageLayer => ({
      digest: image.manifest.layers[i]?.digest ?? diffId,
      diffId,
      sizeBytes,
    }),
  );
  const kept = known?.isRemoved ? undefined : known;
  const joined = <T extends string>(old: readonly T[] | undefined, added: readonly T[]) =>
    [...new Set([...(old ?? []), ...added])].sort();
  return {
    id: image.manifest.config.digest,
    manifestDigest: image.manifestDigest,
    repoTags: joined(kept?.repoTags, names.repoTags),
    repoDigests: joined(kept?.repoDigests, names.repoDigests),
    sizeBytes: layers.reduce((sum, layer) => sum + layer.sizeBytes, image.configBytes.length),
    layers,
    createdAtNs: createdAtNsOf(image.config),
    pulledAtNs: String(nowNs()),
    config: runConfigOf(image.config),
    owners: joined(kept && (kept.owners ?? ["pod"]), names.owners),
  };
}

/** @param config validated by image-documents.ts */
export function runConfigOf(config: ImageConfig): ImageRunConfig {
  const run = config.config ?? {};
  return {
    user: run.User ?? "",
    env: run.Env ?? [],
    entrypoint: run.Entrypoint ?? [],
    cmd: run.Cmd ?? [],
    workingDir: run.WorkingDir ?? "",
    ...(run.StopSignal ? { stopSignal: run.StopSignal } : {}),
    volumes: Object.keys(run.Volumes ?? {}).sort(),
    exposedPorts: Object.keys(run.ExposedPorts ?? {}).sort(),
    labels: run.Labels ?? {},
  };
}

/** Unix ns of when an image was made, as a decimal; `"0"` where it says no time that can be read. */
export function createdAtNsOf({ created, history }: ImageConfig): string {
  if (created) return unixNsOf(created);
  // Builders that leave it out still date the last step. Nobody has checked this part of the config.
  const last: { readonly created?: unknown } | null | undefined = Array.isArray(history) ? history.at(-1) : undefined;
  return typeof last?.created === "string" ? unixNsOf(last.created) : "0";
}

function unixNsOf(created: string): string {
  const match = /^(\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2})(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d{2}:\d{2})$/.exec(created);
  const ms = match ? Date.parse(`${match[1]}${match[3]}`) : Number.NaN;
  if (Number.isNaN(ms)) return "0";
  return String(BigInt(ms) * 1_000_000n + BigInt((match?.[2] ?? "").padEnd(9, "0")));
}
