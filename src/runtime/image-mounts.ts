/**
 * What a container gets of images besides its rootfs: the images that its mounts name, and the
 * volumes that its own image declares. Made with the container, removed with its directory.
 */
import { join, normalize } from "node:path";
import { RuntimeError } from "../base/errors.js";
import type { ContainerId, Digest } from "../base/ids.js";
import { findInLayers } from "../image/layer-lookup.js";
import type { ImageVolume, MountedImage } from "../spec/container-spec.js";
import type { ContainerConfig, ContainerMount } from "../state/container.js";
import type { RuntimeContext } from "./context.js";

/** An overlay without an upper needs two lower directories at least; this one stands below a single one. */
export function emptyLayer(ctx: RuntimeContext, id: ContainerId): string {
  return join(ctx.paths.container(id), "empty");
}

export interface MountedImages {
  readonly trees: ReadonlyMap<ContainerMount, MountedImage>;
  /** Of each name that a mount gives, in the order of the mounts. */
  readonly ids: readonly Digest[];
}

/** @throws RuntimeError `not-found` IMAGE_NOT_FOUND, `failed-precondition` SUB_PATH_MISSING */
export async function mountedImages(
  ctx: RuntimeContext,
  id: ContainerId,
  { mounts }: ContainerConfig,
): Promise<MountedImages> {
  const trees = new Map<ContainerMount, MountedImage>();
  const ids = new Map<string, Digest>();
  for (const mount of mounts) {
    if (mount.image === undefined) continue;
    const image = ctx.images.resolve(mount.image);
    if (!image) {
      throw new RuntimeError(`image "${mount.image}" of a mount is not on this machine; pull it first`, {
        kind: "not-found",
        code: "IMAGE_NOT_FOUND",
      });
    }
    ids.set(mount.image, image.id);
    const found = await findInLayers(ctx.images.lowerDirs(image.id), mount.imageSubPath ?? "");
    if (found?.kind === "file") trees.set(mount, { file: found.path });
    else if (found?.kind === "directory") {
      const { dirs } = found;
      trees.set(mount, { layers: dirs.length === 1 ? [...dirs, emptyLayer(ctx, id)] : dirs });
    } else {
      const what = found ? "is neither a directory nor a file" : "is not there";
      throw new RuntimeError(`image "${mount.image}" of a mount: "${mount.imageSubPath}" in it ${what}`, {
        kind: "failed-precondition",
        code: "SUB_PATH_MISSING",
      });
    }
  }
  return { trees, ids: [...ids.values()] };
}

/** Where what an image says must not decide: the kernel's own trees (the class of CVE-2019-16884). */
const NO_VOLUME = /^\/(?:(?:proc|sys|dev)(?:\/|$)|$)/;

/**
 * A directory for each volume that the image declares and no mount takes the place of.
 *
 * @param declared as the image says: nothing to rely on
 */
export function imageVolumes(
  ctx: RuntimeContext,
  id: ContainerId,
  { mounts }: ContainerConfig,
  declared: readonly string[],
): { readonly made: readonly ImageVolume[]; readonly warnings: readonly string[] } {
  const taken = new Set(mounts.map(({ containerPath }) => withoutEnd(containerPath)));
  const paths = [...new Set(declared.map((path) => withoutEnd(join("/", path))))];
  const refused = paths.filter((path) => NO_VOLUME.test(path));
  const made = paths.filter((path) => !taken.has(path) && !NO_VOLUME.test(path));
  return {
    // Named by number: what an image says is no path of the host's.
    made: made.map((containerPath, i) => ({
      containerPath,
      hostPath: join(ctx.paths.container(id), "volumes", String(i)),
    })),
    warnings: refused.map((path) => `the volume that the image declares at "${path}" is not made`),
  };
}

function withoutEnd(path: string): string {
  return normalize(path).replace(/(?<=.)\/+$/, "");
}
