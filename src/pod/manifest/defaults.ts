/**
 * What Kubernetes fills in where a manifest says nothing (pkg/apis/core/v1/defaults.go).
 */
import type { PodContainer, PodManifest, PodSpec, PodVolume, Probe } from "./schema.js";

/** A container with everything set that the engine relies on. */
export interface Container extends PodContainer {
  readonly image: string;
  readonly imagePullPolicy: "Always" | "IfNotPresent" | "Never";
  readonly terminationMessagePath: string;
  readonly terminationMessagePolicy: "File" | "FallbackToLogsOnError";
}

export type Volume = PodVolume;

/** A pod with everything set that the engine relies on. */
export interface Pod {
  readonly apiVersion: "v1";
  readonly kind: "Pod";
  readonly metadata: PodManifest["metadata"] & { readonly name: string; readonly namespace: string };
  readonly spec: Omit<PodSpec, "containers" | "initContainers"> & {
    readonly containers: readonly Container[];
    readonly initContainers?: readonly Container[] | undefined;
    readonly restartPolicy: "Always" | "OnFailure" | "Never";
    readonly terminationGracePeriodSeconds: number;
    readonly dnsPolicy: "ClusterFirst" | "ClusterFirstWithHostNet" | "Default" | "None";
  };
}

/** @param namespace for a manifest that names none */
export function applyDefaults(manifest: PodManifest, namespace: string): Pod {
  const { metadata } = manifest;
  const { initContainers, containers, ...spec } = manifest.spec;
  const hostNetwork = spec.hostNetwork === true;
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { ...metadata, name: metadata.name ?? "", namespace: metadata.namespace ?? namespace },
    spec: {
      ...spec,
      ...(initContainers && { initContainers: initContainers.map((c) => containerDefaults(c, hostNetwork)) }),
      containers: containers.map((c) => containerDefaults(c, hostNetwork)),
      ...(spec.volumes && { volumes: spec.volumes.map(volumeDefaults) }),
      restartPolicy: spec.restartPolicy ?? "Always",
      terminationGracePeriodSeconds: spec.terminationGracePeriodSeconds ?? 30,
      dnsPolicy: spec.dnsPolicy ?? "ClusterFirst",
    },
  };
}

function containerDefaults(container: PodContainer, hostNetwork: boolean): Container {
  const image = container.image ?? "";
  return {
    ...container,
    image,
    imagePullPolicy: container.imagePullPolicy ?? defaultPullPolicy(image),
    terminationMessagePath: container.terminationMessagePath || "/dev/termination-log",
    terminationMessagePolicy: container.terminationMessagePolicy ?? "File",
    ...(container.livenessProbe && { livenessProbe: probeDefaults(container.livenessProbe) }),
    ...(container.readinessProbe && { readinessProbe: probeDefaults(container.readinessProbe) }),
    ...(container.startupProbe && { startupProbe: probeDefaults(container.startupProbe) }),
    ...(container.ports && {
      ports: container.ports.map((port) => ({
        ...port,
        protocol: port.protocol ?? "TCP",
        ...(hostNetwork && { hostPort: port.hostPort ?? port.containerPort }),
      })),
    }),
  };
}

function probeDefaults(probe: Probe): Probe {
  const { httpGet, grpc } = probe;
  return {
    ...probe,
    ...(httpGet && { httpGet: { ...httpGet, path: httpGet.path ?? "/", scheme: httpGet.scheme ?? "HTTP" } }),
    ...(grpc && { grpc: { ...grpc, service: grpc.service ?? "" } }),
    timeoutSeconds: probe.timeoutSeconds ?? 1,
    periodSeconds: probe.periodSeconds ?? 10,
    successThreshold: probe.successThreshold ?? 1,
    failureThreshold: probe.failureThreshold ?? 3,
  };
}

/** A volume without a source is an emptyDir; a file in a volume is 0644 where nothing is said. */
function volumeDefaults(volume: PodVolume): PodVolume {
  const { configMap, secret, downwardAPI, projected, image } = volume;
  const mode = <T extends { defaultMode?: number | null | undefined }>(source: T) => ({
    ...source,
    defaultMode: source.defaultMode ?? 0o644,
  });
  if (configMap) return { ...volume, configMap: mode(configMap) };
  if (secret) return { ...volume, secret: mode(secret) };
  if (downwardAPI) return { ...volume, downwardAPI: mode(downwardAPI) };
  if (projected) return { ...volume, projected: mode(projected) };
  if (image)
    return { ...volume, image: { ...image, pullPolicy: image.pullPolicy ?? defaultPullPolicy(image.reference ?? "") } };
  return volume.hostPath ? volume : { ...volume, emptyDir: volume.emptyDir ?? {} };
}

/** `Always` for the tag `latest` and for no tag, else `IfNotPresent`; a digest never moves. */
export function defaultPullPolicy(image: string): "Always" | "IfNotPresent" {
  if (image.includes("@")) return "IfNotPresent";
  const tag = /:([^/:]+)$/.exec(image)?.[1];
  return tag === undefined || tag === "latest" ? "Always" : "IfNotPresent";
}
