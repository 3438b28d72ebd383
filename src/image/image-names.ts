/**
 * Tags of images, and the removal of images by name: what a person asks for. CRI's removal, which
 * takes an image with all of its tags and never refuses, is `ImageStore.remove`.
 */
import { nowNs } from "../base/clock.js";
import { RuntimeError } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { digestHex } from "../base/ids.js";
import type { Timeline } from "../base/timeline.js";
import type { ImageRecord } from "./image-record.js";
import { parseReference, repoTagOf } from "./reference.js";
import { requireImage, type StoreParts } from "./store-parts.js";

export interface RemovedImage {
  readonly id: string;
  readonly untagged: readonly string[];
  /** False: only a tag went, the image has others. */
  readonly isRemoved: boolean;
}

/**
 * Gives an image one more name; whoever had it loses it.
 *
 * @throws RuntimeError `not-found` IMAGE_NOT_FOUND, `invalid-argument` INVALID_REFERENCE: the new name has a digest
 */
export async function tagImage(
  parts: StoreParts,
  source: string,
  target: string,
  timeline: Timeline,
): Promise<ImageRecord> {
  const tag = repoTagOf(parseReference(target));
  if (tag === undefined) {
    throw new RuntimeError(`tag image "${source}" as "${target}": a name with a digest is no tag`, {
      kind: "invalid-argument",
      code: "INVALID_REFERENCE",
    });
  }
  return parts.change(() =>
    timeline.step("tag image", async () => {
      const record = requireImage(parts, source);
      if (record.repoTags.includes(tag)) return record;
      const tagged = { ...record, repoTags: [...record.repoTags, tag].sort(), taggedAtNs: String(nowNs()) };
      await parts.records.put(digestHex(record.id), tagged);
      failpoint("after write tag");
      for (const other of parts.list()) {
        if (other.id !== record.id && other.repoTags.includes(tag)) await putWithoutTag(parts, other, tag);
      }
      return tagged;
    }),
  );
}

/**
 * Removes a tag, or the image with its last one; by id or digest the image.
 *
 * @param force by id: also where the image has several tags
 * @throws RuntimeError `not-found` IMAGE_NOT_FOUND, `failed-precondition` IMAGE_IN_USE or IMAGE_HAS_TAGS
 */
export async function removeByName(
  parts: StoreParts,
  name: string,
  force: boolean,
  timeline: Timeline,
): Promise<RemovedImage> {
  return parts.change(() =>
    timeline.step("remove image", async () => {
      const record = requireImage(parts, name);
      const tag = tagIn(record, name);
      if (tag !== undefined && record.repoTags.length > 1) {
        await putWithoutTag(parts, record, tag);
        return { id: record.id, untagged: [tag], isRemoved: false };
      }
      const users = parts.usersOf(record.id);
      if (users.length > 0) throw inUse(name, users);
      if (tag === undefined && record.repoTags.length > 1 && !force) {
        throw new RuntimeError(
          `remove image "${name}": it has the tags ${record.repoTags.join(", ")} (remove one of them, or all with --force)`,
          { kind: "failed-precondition", code: "IMAGE_HAS_TAGS" },
        );
      }
      await parts.records.remove(digestHex(record.id));
      await parts.collect();
      return { id: record.id, untagged: record.repoTags, isRemoved: true };
    }),
  );
}

/** The record's tag that the name says; an id or a digest says none. */
function tagIn(record: ImageRecord, name: string): string | undefined {
  let tag: string | undefined;
  try {
    tag = repoTagOf(parseReference(name));
  } catch {
    return undefined;
  }
  return record.repoTags.find((own) => own === tag);
}

/** Needs no space: on a full disk the record is written when there is some, as ImageStore does with a tag that moves. */
async function putWithoutTag(parts: StoreParts, record: ImageRecord, tag: string): Promise<void> {
  const repoTags = record.repoTags.filter((own) => own !== tag);
  await parts.records.put(digestHex(record.id), { ...record, repoTags }, "remember");
}

function inUse(name: string, users: readonly string[]): RuntimeError {
  return new RuntimeError(`remove image "${name}": it is used by ${users.join(", ")}`, {
    kind: "failed-precondition",
    code: "IMAGE_IN_USE",
  });
}
