/**
 * The files of configMap, secret, downwardAPI and projected volumes.
 *
 * Kubernetes' rules: all keys where no items are listed, the item's mode before the volume's, and a
 * later source of a projected volume over an earlier one.
 */
import type { VolumeFile } from "../volume/atomic-writer.js";
import type { ConfigSource } from "./config-objects.js";
import { fieldValue, missingKey, type PodFacts, referredContent, resourceValue } from "./env.js";
import type { Pod, Volume } from "./manifest/defaults.js";
import type { FileSource } from "./manifest/schema.js";

export interface FileFacts {
  readonly pod: Pod;
  readonly uid: string;
  readonly configs: ConfigSource;
}

const DEFAULT_MODE = 0o644;

/** Where a volume's files come from; `undefined` for a volume that is not made of such files. */
export function fileSources({ configMap, secret, downwardAPI, projected }: Volume): FileSource[] | undefined {
  if (configMap) return [{ configMap }];
  if (secret) return [{ secret: { ...secret, name: secret.secretName } }];
  if (downwardAPI) return [{ downwardAPI }];
  return projected?.sources;
}

/**
 * @throws RuntimeError `not-found` CONFIG_NOT_FOUND, CONFIG_KEY_MISSING
 */
export function volumeFiles(volume: Volume, sources: readonly FileSource[], facts: FileFacts): VolumeFile[] {
  const { configMap, secret, downwardAPI, projected } = volume;
  const mode = (configMap ?? secret ?? downwardAPI ?? projected)?.defaultMode ?? DEFAULT_MODE;
  const byPath = new Map<string, VolumeFile>();
  for (const source of sources) for (const file of sourceFiles(source, mode, facts)) byPath.set(file.path, file);
  return [...byPath.values()];
}

function sourceFiles({ configMap, secret, downwardAPI }: FileSource, mode: number, facts: FileFacts): VolumeFile[] {
  if (downwardAPI) return downwardFiles(downwardAPI, mode, facts);
  const source = configMap ?? secret;
  if (!source) return [];
  const kind = configMap ? "ConfigMap" : "Secret";
  const content = referredContent(facts.configs, kind, facts.pod.metadata.namespace, source, "all");
  if (!content) return [];
  if (!source.items) return Array.from(content, ([path, bytes]) => ({ path, content: bytes, mode }));
  return source.items.flatMap((item) => {
    const bytes = content.get(item.key);
    if (bytes) return [{ path: item.path, content: bytes, mode: item.mode ?? mode }];
    if (source.optional) return [];
    throw missingKey(kind, source.name, item.key);
  });
}

function downwardFiles(
  { items = [] }: NonNullable<FileSource["downwardAPI"]>,
  mode: number,
  { pod, uid }: FileFacts,
): VolumeFile[] {
  // Fields of the running pod are not for volumes (Kubernetes, "Downward API").
  const facts: PodFacts = { uid, podIps: [], hostIps: [], nodeName: "" };
  return items.map((item) => {
    const text = item.resourceFieldRef
      ? resourceValue(item.resourceFieldRef, pod, undefined)
      : fieldText(item.fieldRef?.fieldPath ?? "", pod, facts);
    return { path: item.path, content: Buffer.from(text), mode: item.mode ?? mode };
  });
}

/** A whole map is a line an entry, sorted, with the value quoted (fieldpath.FormatMap). */
function fieldText(fieldPath: string, pod: Pod, facts: PodFacts): string {
  if (fieldPath !== "metadata.labels" && fieldPath !== "metadata.annotations") return fieldValue(fieldPath, pod, facts);
  const map = (fieldPath === "metadata.labels" ? pod.metadata.labels : pod.metadata.annotations) ?? {};
  return Object.entries(map)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
    .join("\n");
}

/** True where a container of the pod, or one of its volumes, is made from that object. */
export function refersTo(pod: Pod, kind: "ConfigMap" | "Secret", name: string): boolean {
  return (pod.spec.volumes ?? []).some((volume) =>
    fileSources(volume)?.some((source) => (kind === "ConfigMap" ? source.configMap : source.secret)?.name === name),
  );
}
