/**
 * Sandboxes, containers and images as CRI shows them. Pure.
 */
import type { ImageRecord } from "../../image/image-record.js";
import type { ContainerMount, ContainerResources, ContainerStatus } from "../../state/container.js";
import type { SandboxConfig, SandboxStatus } from "../../state/sandbox.js";
import {
  type Container,
  type ContainerStatus as CriContainerStatus,
  ContainerState,
  type Image,
  type ImageSpec,
  type Mount,
  MountPropagation,
  NamespaceMode,
  type NamespaceOption,
  type PodSandbox,
  PodSandboxState,
  type PodSandboxStatus,
} from "../generated/runtime/v1/api.js";
import { toCriResources } from "./resources.js";
import { toCriSignal } from "./signals.js";

export function toSandboxState(sandbox: SandboxStatus): PodSandboxState {
  return sandbox.state === "ready" ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;
}

export function toPodSandbox(sandbox: SandboxStatus): PodSandbox {
  const { config } = sandbox;
  return {
    id: sandbox.id,
    metadata: config.metadata,
    state: toSandboxState(sandbox),
    createdAt: BigInt(sandbox.createdAtNs),
    labels: config.labels,
    annotations: config.annotations,
    runtimeHandler: config.runtimeHandler,
  };
}

export function toPodSandboxStatus(sandbox: SandboxStatus): PodSandboxStatus {
  const [ip = "", ...more] = sandbox.network?.ips ?? [];
  return {
    ...toPodSandbox(sandbox),
    network: { ip, additionalIps: more.map((address) => ({ ip: address })) },
    linux: { namespaces: { options: toNamespaceOption(sandbox) } },
  };
}

function toNamespaceOption({ config: { namespaces }, idMaps }: SandboxStatus): NamespaceOption {
  const modes = { pod: NamespaceMode.POD, container: NamespaceMode.CONTAINER, node: NamespaceMode.NODE } as const;
  return {
    network: modes[namespaces.network],
    pid: modes[namespaces.pid],
    ipc: modes[namespaces.ipc],
    targetId: "",
    usernsOptions: idMaps
      ? { mode: NamespaceMode.POD, uids: [...idMaps.uids], gids: [...idMaps.gids] }
      : { mode: NamespaceMode.NODE, uids: [], gids: [] },
  };
}

const CONTAINER_STATES = {
  created: ContainerState.CONTAINER_CREATED,
  starting: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  exited: ContainerState.CONTAINER_EXITED,
  removing: ContainerState.CONTAINER_EXITED,
} as const satisfies Record<ContainerStatus["state"], ContainerState>;

export function toContainerState({ state }: ContainerStatus): ContainerState {
  return CONTAINER_STATES[state];
}

/** @param image `undefined` where it has been removed since */
export function toContainer(container: ContainerStatus, image: ImageRecord | undefined): Container {
  const { config } = container;
  return {
    id: container.id,
    podSandboxId: container.sandboxId,
    metadata: config.metadata,
    image: toImageSpec(config.image),
    imageRef: imageRefOf(container, image),
    imageId: container.imageId,
    state: toContainerState(container),
    createdAt: BigInt(container.createdAtNs),
    labels: config.labels,
    annotations: config.annotations,
  };
}

/** What CRI calls image_ref: a repository digest, for people; or the id, where an image came from no registry. */
function imageRefOf(container: ContainerStatus, image: ImageRecord | undefined): string {
  return image?.repoDigests[0] ?? container.imageId;
}

export function toImageSpec(image: string): ImageSpec {
  return { image, annotations: {}, userSpecifiedImage: image, runtimeHandler: "", imageRef: "" };
}

/** @param image `undefined` where it has been removed since */
export function toContainerStatus(container: ContainerStatus, image: ImageRecord | undefined): CriContainerStatus {
  const { config, exit, startError, user } = container;
  const name = image?.repoTags[0] ?? image?.repoDigests[0] ?? config.image;
  const hasEnded = container.state === "exited" || container.state === "removing";
  return {
    id: container.id,
    metadata: config.metadata,
    state: toContainerState(container),
    createdAt: BigInt(container.createdAtNs),
    startedAt: hasEnded || container.state === "running" ? BigInt(container.startedAtNs ?? "0") : 0n,
    // One that could not be started ended when it should have begun; kubelets take 0 for "still runs".
    finishedAt: hasEnded ? BigInt(exit?.finishedAtNs ?? container.startedAtNs ?? container.createdAtNs) : 0n,
    exitCode: hasEnded ? (startError?.exitCode ?? exit?.exitCode ?? 255) : 0,
    image: { ...toImageSpec(name), userSpecifiedImage: config.image },
    imageRef: imageRefOf(container, image),
    imageId: container.imageId,
    reason: container.reason ?? "",
    message: container.message ?? (container.warnings ?? []).join("; "),
    labels: config.labels,
    annotations: config.annotations,
    mounts: config.mounts.map((mount) => toMount(mount, container)),
    logPath: container.logPath,
    resources: { linux: toCriResources(config.resources), windows: undefined },
    user: user && {
      linux: { uid: BigInt(user.uid), gid: BigInt(user.gid), supplementalGroups: user.supplementalGroups.map(BigInt) },
    },
    stopSignal: toCriSignal(container.stopSignal),
  };
}

const PROPAGATION = {
  private: MountPropagation.PROPAGATION_PRIVATE,
  "host-to-container": MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
  bidirectional: MountPropagation.PROPAGATION_BIDIRECTIONAL,
} as const;

function toMount(mount: ContainerMount, container: ContainerStatus): Mount {
  const names = [...new Set(container.config.mounts.flatMap(({ image }) => (image === undefined ? [] : [image])))];
  const imageRef = mount.image === undefined ? "" : (container.mountedImageIds?.[names.indexOf(mount.image)] ?? "");
  return {
    containerPath: mount.containerPath,
    hostPath: mount.hostPath,
    readonly: mount.readonly,
    selinuxRelabel: false,
    propagation: PROPAGATION[mount.propagation],
    uidMappings: [...(mount.uidMappings ?? [])],
    gidMappings: [...(mount.gidMappings ?? [])],
    recursiveReadOnly: mount.recursiveReadonly,
    image: mount.image === undefined ? undefined : { ...toImageSpec(mount.image), imageRef },
    imageSubPath: mount.imageSubPath ?? "",
    mountOptions: [...(mount.options ?? [])],
  };
}

/** @param pinned a kubelet does not collect it then */
export function toImage(image: ImageRecord, pinned: boolean): Image {
  const [user = ""] = image.config.user.split(":");
  const isNumber = /^\d+$/.test(user);
  return {
    id: image.id,
    repoTags: [...image.repoTags],
    repoDigests: [...image.repoDigests],
    size: BigInt(image.sizeBytes),
    uid: isNumber || user === "" ? { value: BigInt(user || 0) } : undefined,
    username: isNumber ? "" : user,
    spec: { image: "", annotations: {}, userSpecifiedImage: "", runtimeHandler: "", imageRef: "" },
    pinned,
  };
}

/** For verbose answers: JSON for people, without environment values. */
export function toInfo(status: SandboxStatus | ContainerStatus): { [name: string]: string } {
  const config =
    "env" in status.config ? { ...status.config, env: status.config.env.map(({ name }) => name) } : status.config;
  const ofPod = "env" in status.config ? {} : toPodResources(status.config);
  return {
    info: JSON.stringify({ ...status, ...ofPod, config }, (_key, value: unknown) =>
      typeof value === "bigint" ? value.toString() : value,
    ),
  };
}

/** Under the names that containerd's verbose status has for them, which clients read. */
function toPodResources({ overhead, resources }: SandboxConfig): { [name: string]: object } {
  const named = (wanted: ContainerResources) => ({
    linux: Object.fromEntries(
      Object.entries(toCriResources(wanted)).flatMap(([field, value]: [string, unknown]) =>
        typeof value === "bigint" && value !== 0n
          ? [[field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), Number(value)]]
          : [],
      ),
    ),
  });
  return { ...(overhead && { overhead: named(overhead) }), ...(resources && { resources: named(resources) }) };
}
