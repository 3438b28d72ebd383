/**
 * What the engine needs of images: one that is here, by pull policy. The image store is behind it.
 */
import { RuntimeError } from "../base/errors.js";

export type PullPolicy = "Always" | "IfNotPresent" | "Never";

/** An image that is here now. */
export interface EnsuredImage {
  readonly id: string;
  /** `repository@digest` where known, else the id: what `imageID` of a container status says. */
  readonly digestReference: string;
  /** The user of the image's config; empty is root. */
  readonly user: string;
  readonly wasPulled: boolean;
}

export interface Images {
  /**
   * Makes sure that an image is here.
   *
   * @throws RuntimeError `not-found` IMAGE_NOT_FOUND, `invalid-argument` INVALID_REFERENCE, and what a pull throws
   */
  ensure(reference: string, policy: PullPolicy, signal: AbortSignal): Promise<EnsuredImage>;
}

/** The part of an image record that is read here; `ImageRecord` of src/image has it. */
export interface StoredImage {
  readonly id: string;
  readonly repoDigests: readonly string[];
  readonly config: { readonly user?: string | undefined };
}

export interface PullingStore {
  resolve(reference: string): StoredImage | undefined;
  pull(reference: string, options: { readonly signal: AbortSignal }): Promise<StoredImage>;
}

/** Pull policies on top of an image store. */
export function imagesOf(store: PullingStore): Images {
  return {
    async ensure(reference, policy, signal) {
      const present = store.resolve(reference);
      if (present && policy !== "Always") return ensured(present, false);
      if (policy === "Never") {
        throw new RuntimeError(`image "${reference}" is not present with imagePullPolicy Never`, {
          kind: "not-found",
          code: "IMAGE_NOT_FOUND",
        });
      }
      return ensured(await store.pull(reference, { signal }), true);
    },
  };
}

function ensured(image: StoredImage, wasPulled: boolean): EnsuredImage {
  return { id: image.id, digestReference: image.repoDigests[0] ?? image.id, user: image.config.user ?? "", wasPulled };
}
