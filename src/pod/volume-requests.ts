/**
 * Volumes of a manifest as requests to src/volume, and their mounts for one container.
 */
import type { ContainerMount } from "../state/container.js";
import { openFilesSubPath, openSubPath, type VolumeRequest } from "../volume/volumes.js";
import { RuntimeError, withContext } from "../base/errors.js";
import type { Container, Pod, Volume } from "./manifest/defaults.js";
import { quantityValue } from "./manifest/quantity.js";
import type { PodVolumeMount } from "./manifest/schema.js";
import { type FileFacts, fileSources, volumeFiles } from "./volume-files.js";

/**
 * @throws RuntimeError `not-found` CONFIG_NOT_FOUND, CONFIG_KEY_MISSING
 */
export function volumeRequests(facts: FileFacts): VolumeRequest[] {
  // An image is no volume on the host: it is mounted from where it is stored.
  const onHost = (facts.pod.spec.volumes ?? []).filter(({ image }) => !image);
  return onHost.map((volume): VolumeRequest => {
    const { name, hostPath, emptyDir } = volume;
    const sources = fileSources(volume);
    if (sources) {
      try {
        return { kind: "files", name, files: volumeFiles(volume, sources, facts) };
      } catch (err) {
        throw withContext(err, `volume "${name}"`);
      }
    }
    if (hostPath) return { kind: "host", name, path: hostPath.path, type: hostPath.type ?? "" };
    if (emptyDir?.medium === "Memory") {
      return {
        kind: "memory",
        name,
        sizeBytes: emptyDir.sizeLimit === undefined ? undefined : quantityValue(emptyDir.sizeLimit),
      };
    }
    return { kind: "directory", name };
  });
}

const PROPAGATION = { None: "private", HostToContainer: "host-to-container", Bidirectional: "bidirectional" } as const;

/** Mounts of one container. Close them once it has started: a subPath is held open until then. */
export interface OpenMounts {
  readonly mounts: readonly ContainerMount[];
  close(): Promise<void>;
}

/** Image volumes that a container mounts, by name of the volume. */
export function imageVolumesOf(container: Container, pod: Pod): Map<string, NonNullable<Volume["image"]>> {
  const mounted = new Set((container.volumeMounts ?? []).map(({ name }) => name));
  const volumes = (pod.spec.volumes ?? []).filter(({ name, image }) => image && mounted.has(name));
  return new Map(volumes.map(({ name, image }) => [name, image as NonNullable<Volume["image"]>]));
}

/**
 * @param paths host path of each volume by name
 * @param images id of the image of each image volume by name
 */
export async function openMounts(
  container: Container,
  pod: Pod,
  paths: ReadonlyMap<string, string>,
  images: ReadonlyMap<string, string>,
): Promise<OpenMounts> {
  const ofFiles = new Set((pod.spec.volumes ?? []).filter(fileSources).map(({ name }) => name));
  const opened: { close(): Promise<void> }[] = [];
  const close = async () => {
    for (const one of opened.splice(0)) await one.close();
  };
  try {
    const mounts: ContainerMount[] = [];
    for (const mount of container.volumeMounts ?? []) {
      const image = images.get(mount.name);
      if (image !== undefined) {
        mounts.push(imageMount(mount, image));
        continue;
      }
      const volume = paths.get(mount.name);
      if (volume === undefined)
        throw new RuntimeError(`there is no volume "${mount.name}"`, { kind: "internal", code: "INTERNAL" });
      let hostPath = volume;
      if (mount.subPath) {
        const sub = await (ofFiles.has(mount.name) ? openFilesSubPath : openSubPath)(volume, mount.subPath);
        opened.push(sub);
        hostPath = `/proc/${process.pid}/fd/${sub.fd}`;
      }
      mounts.push({
        containerPath: mount.mountPath,
        hostPath,
        // Files that we write are never the container's to change (kubelet, since CVE-2017-1002102).
        readonly: ofFiles.has(mount.name) || (mount.readOnly ?? false),
        recursiveReadonly: mount.recursiveReadOnly !== undefined && mount.recursiveReadOnly !== "Disabled",
        // Without effect but in a user namespace, where the files' ids would not be known.
        mapsIds: true,
        propagation: PROPAGATION[mount.mountPropagation ?? "None"],
      });
    }
    return { mounts, close };
  } catch (err) {
    await close();
    throw err;
  }
}

/** Always read-only (Kubernetes API reference, ImageVolumeSource). */
function imageMount({ mountPath, subPath }: PodVolumeMount, image: string): ContainerMount {
  return {
    containerPath: mountPath,
    hostPath: "",
    image,
    ...(subPath && { imageSubPath: subPath }),
    readonly: true,
    recursiveReadonly: false,
    propagation: "private",
  };
}
