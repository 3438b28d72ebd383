/**
 * Sandboxes and containers as NRI's plugins see them. Pure.
 */
import type { Linux, Spec } from "../oci/index.js";
import type { ContainerRecord, ExitRecord } from "../state/container.js";
import type { SandboxRecord } from "../state/sandbox.js";
import {
  Container,
  type ContainerAdjustment,
  ContainerState,
  Hooks,
  IOPrioClass,
  LinuxContainer,
  type LinuxContainerAdjustment,
  LinuxResources,
  PodSandbox,
  SecurityProfile_ProfileType,
} from "./generated/nri/v1alpha1/nri.js";
import { removalOf } from "./owners.js";
import { toNriResources } from "./resources.js";

/** A container with what it is made of. */
export interface NriContainer {
  readonly sandbox: SandboxRecord;
  readonly container: ContainerRecord;
  /** `undefined` where its bundle cannot be read any more. */
  readonly spec?: Spec | undefined;
  readonly exit?: ExitRecord | undefined;
}

export function toPodSandbox(sandbox: SandboxRecord): PodSandbox {
  const { metadata, labels, annotations, runtimeHandler, cgroupParent, overhead, resources } = sandbox.config;
  const { monitor } = sandbox;
  const path = (fd: number | undefined) => (monitor && fd !== undefined ? `/proc/${monitor.pid}/fd/${fd}` : undefined);
  const namespaces = Object.entries({
    network: path(monitor?.netFd),
    ipc: path(monitor?.ipcFd),
    uts: path(monitor?.utsFd),
    pid: sandbox.initPid === undefined ? undefined : `/proc/${sandbox.initPid}/ns/pid`,
  }).flatMap(([type, target]) => (target === undefined ? [] : [{ type, path: target }]));
  return PodSandbox.fromPartial({
    id: sandbox.id,
    name: metadata.name,
    uid: metadata.uid,
    namespace: metadata.namespace,
    labels: { ...labels },
    annotations: { ...annotations },
    runtimeHandler,
    linux: {
      cgroupParent,
      cgroupsPath: sandbox.cgroupPath,
      namespaces,
      ...(overhead && { podOverhead: toNriResources(overhead) }),
      ...(resources && { podResources: toNriResources(resources) }),
    },
    pid: sandbox.initPid ?? 0,
    ips: [...(sandbox.network?.ips ?? [])],
  });
}

const STATES = {
  created: ContainerState.CONTAINER_CREATED,
  starting: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  exited: ContainerState.CONTAINER_STOPPED,
  removing: ContainerState.CONTAINER_STOPPED,
} as const satisfies Record<ContainerRecord["state"], ContainerState>;

export function toContainer({ sandbox, container, spec, exit }: NriContainer): Container {
  const { config, startError } = container;
  const hasEnded = container.state === "exited" || container.state === "removing";
  return Container.fromPartial({
    id: container.id,
    podSandboxId: sandbox.id,
    name: config.metadata.name,
    state: STATES[container.state],
    labels: { ...config.labels },
    annotations: { ...config.annotations, ...spec?.annotations },
    args: [...(spec?.process?.args ?? [])],
    env: [...(spec?.process?.env ?? [])],
    mounts: (spec?.mounts ?? []).map(({ destination, type = "", source = "", options = [] }) => ({
      destination,
      type,
      source,
      options: [...options],
    })),
    hooks: toHooks(spec),
    linux: toLinux(spec, container),
    pid: container.pid ?? 0,
    rlimits: (spec?.process?.rlimits ?? []).map(({ type, hard, soft }) => ({
      type,
      hard: BigInt(hard),
      soft: BigInt(soft),
    })),
    createdAt: BigInt(container.createdAtNs),
    startedAt: BigInt(container.startedAtNs ?? 0),
    finishedAt: hasEnded ? BigInt(exit?.finishedAtNs ?? 0) : 0n,
    exitCode: hasEnded ? (startError?.exitCode ?? exit?.exitCode ?? 255) : 0,
    statusReason: startError?.reason ?? "",
    statusMessage: startError?.message ?? exit?.unknown ?? "",
    ...(container.user && {
      user: {
        uid: container.user.uid,
        gid: container.user.gid,
        additionalGids: [...container.user.supplementalGroups],
      },
    }),
    image: { name: container.imageRef, configDigest: container.imageId },
  });
}

function toHooks({ hooks = {} }: Partial<Spec> = {}): Hooks {
  const kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] as const;
  return Hooks.fromPartial(
    Object.fromEntries(
      kinds.map((kind) => [
        kind,
        (hooks[kind] ?? []).map(({ path, args = [], env = [], timeout }) => ({
          path,
          args,
          env,
          ...(timeout !== undefined && { timeout: { value: BigInt(timeout) } }),
        })),
      ]),
    ),
  );
}

const PROFILE_TYPES = {
  "runtime-default": SecurityProfile_ProfileType.RUNTIME_DEFAULT,
  unconfined: SecurityProfile_ProfileType.UNCONFINED,
  localhost: SecurityProfile_ProfileType.LOCALHOST,
} as const;

function toLinux(spec: Spec | undefined, { config, cgroupPath }: ContainerRecord): LinuxContainer {
  const linux: Linux = spec?.linux ?? {};
  const { ioPriority, oomScoreAdj = config.resources.oomScoreAdj } = spec?.process ?? {};
  const { seccomp, privileged } = config.security;
  return LinuxContainer.fromPartial({
    namespaces: (linux.namespaces ?? []).map(({ type, path = "" }) => ({ type, path })),
    devices: (linux.devices ?? []).map(({ path, type, major = 0, minor = 0, fileMode, uid, gid }) => ({
      path,
      type,
      major: BigInt(major),
      minor: BigInt(minor),
      ...(fileMode !== undefined && { fileMode: { value: fileMode } }),
      ...(uid !== undefined && { uid: { value: uid } }),
      ...(gid !== undefined && { gid: { value: gid } }),
    })),
    resources: toNriResources(config.resources),
    ...(oomScoreAdj !== undefined && { oomScoreAdj: { value: BigInt(oomScoreAdj) } }),
    cgroupsPath: linux.cgroupsPath ?? cgroupPath,
    ...(ioPriority && { ioPriority: { class: IOPrioClass[ioPriority.class], priority: ioPriority.priority } }),
    ...(seccomp &&
      !privileged && {
        seccompProfile: { profileType: PROFILE_TYPES[seccomp.type], localhostRef: seccomp.localhostRef },
      }),
    sysctl: { ...linux.sysctl },
    netDevices: Object.fromEntries(
      Object.entries(linux.netDevices ?? {}).map(([key, { name = "" }]) => [key, { name }]),
    ),
  });
}

/** Two adjustments as one, for validators: what the later one sets, replaces or removes is no longer the earlier's. */
export function mergeAdjustments(first: ContainerAdjustment, second: ContainerAdjustment): ContainerAdjustment {
  const [linux, other] = [first.linux, second.linux];
  return {
    annotations: mergeMaps(first.annotations, second.annotations),
    mounts: mergeLists(first.mounts, second.mounts, ({ destination }) => destination),
    env: mergeLists(first.env, second.env, ({ key }) => key),
    hooks: mergeHooks(first.hooks, second.hooks),
    rlimits: mergeLists(first.rlimits, second.rlimits, ({ type }) => type),
    CDIDevices: mergeLists(first.CDIDevices, second.CDIDevices, ({ name }) => name),
    args: second.args.length > 0 ? second.args.slice(second.args[0] === "" ? 1 : 0) : first.args,
    linux: linux && other ? mergeLinux(linux, other) : (other ?? linux),
  };
}

function mergeLinux(first: LinuxContainerAdjustment, second: LinuxContainerAdjustment): LinuxContainerAdjustment {
  return {
    devices: mergeLists(first.devices, second.devices, ({ path }) => path),
    resources: mergeResources(first.resources, second.resources),
    cgroupsPath: second.cgroupsPath || first.cgroupsPath,
    oomScoreAdj: second.oomScoreAdj ?? first.oomScoreAdj,
    ioPriority: second.ioPriority ?? first.ioPriority,
    seccompPolicy: second.seccompPolicy ?? first.seccompPolicy,
    namespaces: mergeLists(first.namespaces, second.namespaces, ({ type }) => type),
    sysctl: mergeMaps(first.sysctl, second.sysctl),
    netDevices: mergeMaps(first.netDevices, second.netDevices),
    scheduler: second.scheduler ?? first.scheduler,
    rdt: second.rdt && !second.rdt.remove ? { ...first.rdt, ...defined(second.rdt) } : (second.rdt ?? first.rdt),
    memoryPolicy: second.memoryPolicy ?? first.memoryPolicy,
  };
}

function mergeResources(first: LinuxResources | undefined, second: LinuxResources | undefined) {
  if (!first || !second) return second ?? first;
  return LinuxResources.fromPartial({
    ...first,
    ...defined(second),
    memory: { ...first.memory, ...defined(second.memory ?? {}) },
    cpu: {
      ...first.cpu,
      ...defined(second.cpu ?? {}),
      cpus: (second.cpu?.cpus ?? "") || (first.cpu?.cpus ?? ""),
      mems: (second.cpu?.mems ?? "") || (first.cpu?.mems ?? ""),
    },
    hugepageLimits: mergeLists(first.hugepageLimits, second.hugepageLimits, ({ pageSize }) => pageSize),
    unified: { ...first.unified, ...second.unified },
    devices: [...first.devices, ...second.devices],
  });
}

function defined<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined)) as T;
}

const bare = (key: string): string => removalOf(key) ?? key;

function mergeLists<T>(first: readonly T[], second: readonly T[], keyOf: (item: T) => string): T[] {
  const later = new Set(second.map((item) => bare(keyOf(item))));
  return [...first.filter((item) => !later.has(bare(keyOf(item)))), ...second];
}

function mergeMaps<T>(first: Readonly<Record<string, T>>, second: Readonly<Record<string, T>>): Record<string, T> {
  return Object.fromEntries(mergeLists(Object.entries(first), Object.entries(second), ([key]) => key));
}

function mergeHooks(first: Hooks | undefined, second: Hooks | undefined): Hooks | undefined {
  if (!first || !second) return second ?? first;
  return {
    prestart: [...first.prestart, ...second.prestart],
    createRuntime: [...first.createRuntime, ...second.createRuntime],
    createContainer: [...first.createContainer, ...second.createContainer],
    startContainer: [...first.startContainer, ...second.startContainer],
    poststart: [...first.poststart, ...second.poststart],
    poststop: [...first.poststop, ...second.poststop],
  };
}
