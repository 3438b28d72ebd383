/**
 * Which image a name means. Pure: looks at the records that it is given.
 */
import { digestHex, isDigest } from "../base/ids.js";
import type { ImageRecord } from "./image-record.js";
import { type ImageReference, parseReference, repoDigestOf, repoTagOf } from "./reference.js";

/** Shorter ones are not looked up: crictl shows 13 digits. */
const ID_PREFIX = /^[0-9a-f]{12,64}$/;

/** By tag, by digest, by image id, or by at least 12 digits of one. An invalid reference is not found. */
export function findImage(images: readonly ImageRecord[], refOrId: string): ImageRecord | undefined {
  const hex = refOrId.startsWith("sha256:") ? refOrId.slice("sha256:".length) : refOrId;
  if (ID_PREFIX.test(hex)) {
    const matches = images.filter(({ id }) => digestHex(id).startsWith(hex));
    if (matches.length === 1) return matches[0];
  }
  if (isDigest(refOrId)) return undefined;
  let reference: ImageReference;
  try {
    reference = parseReference(refOrId);
  } catch {
    return undefined;
  }
  if (reference.digest === undefined) {
    const tag = repoTagOf(reference);
    return images.find(({ repoTags }) => tag !== undefined && repoTags.includes(tag));
  }
  const byDigest = repoDigestOf(reference, reference.digest);
  return images.find(({ repoDigests }) => repoDigests.includes(byDigest));
}
