/**
 * The image service.
 */
import { nowNs } from "../base/clock.js";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { ImageRecord } from "../image/image-record.js";
import type { ImageStore } from "../image/image-store.js";
import { PULL_WORD_BY_CODE } from "../image/pull-words.js";
import { inBatches } from "./batches.js";
import { invalidField } from "./convert/fields.js";
import { toImage } from "./convert/status.js";
import type { FilesystemUsage, ImageFilter, ImageSpec } from "./generated/runtime/v1/api.js";
import type { Verbs } from "./verbs.js";

export interface ImageServiceParts {
  readonly images: ImageStore;
  /** What containers' writable layers occupy. */
  readonly containerFsUsage: () => Promise<{
    readonly mountpoint: string;
    readonly usedBytes: bigint;
    readonly usedInodes: bigint;
  }>;
}

export function imageVerbs({ images, containerFsUsage }: ImageServiceParts): Verbs {
  const shown = (image: ImageRecord) => toImage(image, images.care.isPinned(image));
  const list = (filter: ImageFilter | undefined) => {
    const wanted = filter?.image?.image ?? "";
    if (wanted === "") return images.list().map(shown);
    const found = images.resolve(wanted);
    return found ? [shown(found)] : [];
  };
  return {
    listImages: ({ filter }) => ({ images: list(filter) }),
    streamImages: async function* ({ filter }) {
      for (const batch of inBatches(list(filter))) yield { images: batch };
    },
    imageStatus: ({ image, verbose }) => {
      const found = images.resolve(nameOf(image));
      return { image: found && shown(found), info: found && verbose ? toInfo(found) : {} };
    },
    pullImage: async ({ image, auth }, { signal }) => {
      const name = nameOf(image);
      const record = await images.pull(name, { signal, auth, owner: "cri" }).catch((err: unknown) => {
        throw withKubeletWord(err);
      });
      return { imageRef: record.id };
    },
    removeImage: async ({ image }) => {
      await images.remove(nameOf(image)).catch((err: unknown) => {
        // api.proto, RemoveImage: idempotent.
        if (!(err instanceof RuntimeError && err.code === "IMAGE_NOT_FOUND")) throw err;
      });
      return {};
    },
    imageFsInfo: async () => {
      const store = images.fsUsage();
      const timestamp = nowNs();
      const usage = (mountpoint: string, bytes: bigint, inodes: bigint): FilesystemUsage => ({
        timestamp,
        fsId: { mountpoint },
        usedBytes: { value: bytes },
        inodesUsed: { value: inodes },
      });
      const containers = await containerFsUsage();
      return {
        imageFilesystems: [usage(store.mountpoint, BigInt(store.usedBytes), BigInt(store.usedInodes))],
        containerFilesystems: [usage(containers.mountpoint, containers.usedBytes, containers.usedInodes)],
      };
    },
  };
}

/** A kubelet knows some reasons by the first word of the message (cri-api, pkg/errors). */
function withKubeletWord(err: unknown): RuntimeError {
  const inner = toRuntimeError(err);
  const word = PULL_WORD_BY_CODE[inner.code];
  if (word === undefined) return inner;
  const { kind, code, syscall, message } = inner;
  return new RuntimeError(`${word}: ${message}`, { kind, code, syscall, cause: err });
}

function nameOf(image: ImageSpec | undefined): string {
  if (!image || image.image === "") throw invalidField("image.image", "is missing");
  if (image.runtimeHandler !== "")
    throw invalidField(
      "image.runtime_handler",
      `"${image.runtimeHandler}" is not configured; the only one is the default, ""`,
    );
  return image.image;
}

/** For verbose answers. */
function toInfo(image: ImageRecord): { [name: string]: string } {
  return { info: JSON.stringify(image) };
}
