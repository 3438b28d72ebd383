/**
 * The parts of an image from a repository of a registry.
 */
import type { ImageSource } from "./image-source.js";
import type { Repository } from "./registry-client.js";

/** @param allowForeignLayers fetch layers that name other addresses from there, where the registry has none */
export function registrySource(repository: Repository, allowForeignLayers: boolean): ImageSource {
  return {
    allowsForeignLayers: allowForeignLayers,
    document: async (item, signal) => (await repository.manifest(item.digest, signal)).bytes,
    config: (item, signal) => repository.blob(item, signal),
    layer: (item, signal) =>
      allowForeignLayers && (item.urls?.length ?? 0) > 0
        ? repository.foreignStream(item, signal)
        : repository.blobStream(item, signal),
  };
}
