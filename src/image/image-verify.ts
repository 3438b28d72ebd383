/**
 * Verification: every byte that is stored against what was recorded when it was unpacked, layer by
 * layer, at the lowest priority and one at a time, so that nothing else waits for it.
 *
 * A damaged layer is marked: nothing new is started from it (ImageStore.lowerDirs refuses), and
 * the next pull or load of an image with it puts it into quarantine and takes its place. Repair is
 * that pull, by the digest that the image was pulled by.
 */
import { readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { toRuntimeError } from "../base/errors.js";
import type { Digest } from "../base/ids.js";
import type { Timeline } from "../base/timeline.js";
import type { ImageRecord } from "./image-record.js";
import { sha256Of } from "./registry-client.js";
import { compareLayer, type LayerComparison } from "./stored-layer.js";
import { requireImage, type StoreParts } from "./store-parts.js";

export interface VerifiedPart {
  /** `layer` by its diffID; `document`: a manifest or config by its digest. */
  readonly kind: "layer" | "document";
  readonly digest: string;
  /** Ids of the verified images that need it. */
  readonly images: readonly string[];
  /** `unrecorded`: a layer from before records were kept; nothing can be said of it. */
  readonly state: "sound" | "damaged" | "repaired" | "unrecorded";
  /** The first ones: `etc/passwd: content: is too short`. */
  readonly problems: readonly string[];
  readonly problemCount: number;
  readonly bytes: number;
  /** Why it was not repaired, where that was asked for. */
  readonly repairError?: string | undefined;
}

export interface VerifyRequest {
  /** Empty: every image. */
  readonly names: readonly string[];
  readonly repair: boolean;
  readonly signal: AbortSignal;
  readonly timeline: Timeline;
  readonly onPart: (part: VerifiedPart) => void;
}

type Findings = Pick<VerifiedPart, "state" | "problems" | "problemCount" | "bytes">;

/** @throws RuntimeError `not-found` IMAGE_NOT_FOUND, `cancelled` CANCELLED */
export async function verifyImages(parts: StoreParts, request: VerifyRequest): Promise<void> {
  const images = request.names.length > 0 ? request.names.map((name) => requireImage(parts, name)) : parts.list();
  const unpin = parts.layers.pin(images.flatMap(({ layers }) => layers.map(({ diffId }) => diffId)));
  try {
    for (const [digest, owners] of byDigest(images, ({ id, manifestDigest }) => [manifestDigest, id])) {
      const found = await verifyDocument(parts, digest);
      request.onPart(await finished(parts, request, "document", digest, owners, found));
    }
    for (const [diffId, owners] of byDigest(images, ({ layers }) => layers.map((layer) => layer.diffId))) {
      const found = await request.timeline.step(
        "verify layer",
        () => verifyLayer(parts, diffId, request.signal),
        diffId,
      );
      request.onPart(await finished(parts, request, "layer", diffId, owners, found));
    }
  } finally {
    unpin();
  }
}

function byDigest(images: readonly ImageRecord[], digestsOf: (image: ImageRecord) => readonly Digest[]) {
  const owners = new Map<Digest, ImageRecord[]>();
  for (const image of images) {
    for (const digest of new Set(digestsOf(image))) owners.set(digest, [...(owners.get(digest) ?? []), image]);
  }
  return owners;
}

async function verifyDocument(parts: StoreParts, digest: Digest): Promise<Findings> {
  const bytes = await readFile(parts.paths.blob(digest)).catch((err: unknown) => toRuntimeError(err));
  if (!Buffer.isBuffer(bytes)) return damaged([`cannot be read: ${bytes.message}`], 1, 0);
  if (sha256Of(bytes) !== digest) return damaged([`its digest is ${sha256Of(bytes)}`], 1, bytes.length);
  return { state: "sound", problems: [], problemCount: 0, bytes: bytes.length };
}

const damaged = (problems: readonly string[], problemCount: number, bytes: number): Findings => ({
  state: "damaged",
  problems,
  problemCount,
  bytes,
});

async function verifyLayer(parts: StoreParts, diffId: Digest, signal: AbortSignal): Promise<Findings> {
  const record = parts.layers.get(diffId);
  if (!record) return damaged(["the layer is gone"], 1, 0);
  if (!record.archive) return { state: "unrecorded", problems: [], problemCount: 0, bytes: 0 };
  const compared = await compareLayer(dirname(parts.paths.layer(diffId)), signal);
  const problems = problemsOf(compared, diffId, record.archive.digest);
  const count = Math.max(compared.damageCount, problems.length);
  await parts.layers.markDamaged(diffId, count > 0 ? problems.slice(0, 10) : undefined);
  if (count > 0) return damaged(problems, count, compared.bytes);
  return { state: "sound", problems: [], problemCount: 0, bytes: compared.bytes };
}

function problemsOf(compared: LayerComparison, diffId: Digest, recordDigest: Digest): string[] {
  const problems = compared.damage.map(({ kind, path, message }) => `${path || "/"}: ${kind}: ${message}`);
  // A record that parses is still not the one that was written, if its digest is another.
  if (compared.recordDigest !== "" && compared.recordDigest !== recordDigest)
    problems.push(`/: record: its digest is ${compared.recordDigest}, was ${recordDigest}`);
  if (compared.diffId !== "" && compared.diffId !== diffId && problems.length === 0)
    problems.push(`/: content: the archive made again has the digest ${compared.diffId}`);
  return problems;
}

async function finished(
  parts: StoreParts,
  request: VerifyRequest,
  kind: VerifiedPart["kind"],
  digest: Digest,
  owners: readonly ImageRecord[],
  found: Findings,
): Promise<VerifiedPart> {
  const part = { kind, digest, images: owners.map(({ id }) => id), ...found };
  if (!request.repair || found.state === "sound") return part;
  // What could not be told to be damaged must not become unusable because a registry is down.
  const giveUp = kind === "layer" ? parts.layers.renew(digest) : () => undefined;
  try {
    const repairError = await request.timeline.step(
      "repair",
      () => repair(parts, kind, digest, owners, request.signal),
      digest,
    );
    return repairError === undefined ? { ...part, state: "repaired" } : { ...part, repairError };
  } finally {
    giveUp();
  }
}

/** Pulls the images again until one has brought the part; says why, where none has. */
async function repair(
  parts: StoreParts,
  kind: VerifiedPart["kind"],
  digest: Digest,
  owners: readonly ImageRecord[],
  signal: AbortSignal,
): Promise<string | undefined> {
  let problem = "it came from an archive, so it cannot be fetched again (minke load it again)";
  for (const name of owners.flatMap(({ repoDigests }) => repoDigests)) {
    try {
      await parts.pull(name, { signal });
      const isHere =
        kind === "layer"
          ? parts.layers.usable(digest) !== undefined
          : (await verifyDocument(parts, digest)).state === "sound";
      if (isHere) return undefined;
      problem = `"${name}" is an image without it by now`;
    } catch (err) {
      signal.throwIfAborted();
      problem = toRuntimeError(err).message;
    }
  }
  return problem;
}
