/**
 * What `minke image inspect` and `history` show: Docker's words for what Docker knows, ours under
 * `Minke`. Shapes are documented in README.md, "Images", and stay.
 */
import { readFile } from "node:fs/promises";
import type { History, ImageConfig } from "../oci/image-spec.js";
import { requireImage, type StoreParts } from "./store-parts.js";

export interface ImageDetails {
  readonly Id: string;
  readonly RepoTags: readonly string[];
  readonly RepoDigests: readonly string[];
  /** Of the manifest. */
  readonly Digest: string;
  /** RFC 3339, as the image says it; empty where it does not. */
  readonly Created: string;
  readonly Author: string;
  readonly Architecture: string;
  readonly Variant: string;
  readonly Os: string;
  /** Bytes of all layers, unpacked, and the config. */
  readonly Size: number;
  readonly Config: object;
  readonly RootFS: { readonly Type: "layers"; readonly Layers: readonly string[] };
  readonly Minke: {
    /** RFC 3339: when it was last pulled or loaded. */
    readonly Pulled: string;
    readonly Owners: readonly string[];
    readonly UsedBy: readonly string[];
    readonly Pinned: boolean;
    readonly Layers: readonly {
      readonly DiffId: string;
      readonly Digest: string;
      readonly Size: number;
      readonly PackedSize: number;
      readonly Entries: number;
      readonly Damaged: boolean;
    }[];
  };
}

/** One step of how an image was made, newest first. */
export interface HistoryEntry {
  /** RFC 3339; empty where the image does not say. */
  readonly created: string;
  readonly createdBy: string;
  readonly comment: string;
  /** Absent where the step made no layer. */
  readonly diffId?: string | undefined;
  readonly sizeBytes: number;
}

async function configOf(parts: StoreParts, name: string): Promise<ImageConfig> {
  return JSON.parse(await readFile(parts.paths.blob(requireImage(parts, name).id), "utf8")) as ImageConfig;
}

/** @throws RuntimeError `not-found` IMAGE_NOT_FOUND */
export async function imageDetails(parts: StoreParts, name: string): Promise<ImageDetails> {
  const record = requireImage(parts, name);
  const config = await configOf(parts, record.id);
  return {
    Id: record.id,
    RepoTags: record.repoTags,
    RepoDigests: record.repoDigests,
    Digest: record.manifestDigest,
    Created: config.created ?? "",
    Author: text(config.author),
    Architecture: config.architecture,
    Variant: config.variant ?? "",
    Os: config.os,
    Size: record.sizeBytes,
    Config: config.config ?? {},
    RootFS: { Type: "layers", Layers: record.layers.map(({ diffId }) => diffId) },
    Minke: {
      Pulled: new Date(Number(BigInt(record.pulledAtNs) / 1_000_000n)).toISOString(),
      Owners: record.owners ?? ["pod"],
      UsedBy: parts.usersOf(record.id),
      Pinned: parts.isPinned(record),
      Layers: record.layers.map(({ diffId, digest, sizeBytes }) => {
        const layer = parts.layers.get(diffId);
        return {
          DiffId: diffId,
          Digest: digest,
          Size: sizeBytes,
          PackedSize: layer?.compressedBytes ?? 0,
          Entries: layer?.entries ?? 0,
          Damaged: layer === undefined || layer.damage !== undefined,
        };
      }),
    },
  };
}

/** @throws RuntimeError `not-found` IMAGE_NOT_FOUND */
export async function imageHistory(parts: StoreParts, name: string): Promise<HistoryEntry[]> {
  const record = requireImage(parts, name);
  const { history } = await configOf(parts, record.id);
  // Nobody has checked this part of the config.
  const steps: (Partial<History> | null)[] = Array.isArray(history) ? history : [];
  const layers = [...record.layers];
  const entries = steps.map((step): HistoryEntry => {
    const layer = step?.empty_layer === true ? undefined : layers.shift();
    return {
      created: text(step?.created),
      createdBy: text(step?.created_by),
      comment: text(step?.comment),
      ...(layer && { diffId: layer.diffId }),
      sizeBytes: layer?.sizeBytes ?? 0,
    };
  });
  // Builders may leave the history out, or leave it shorter than the layers are.
  for (const { diffId, sizeBytes } of layers) {
    entries.push({ created: "", createdBy: "", comment: "", diffId, sizeBytes });
  }
  return entries.reverse();
}

const text = (value: unknown): string => (typeof value === "string" ? value : "");
