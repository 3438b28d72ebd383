/**
 * What the verbs share: stores, the monitors' connections, the host's abilities, events.
 *
 * One per daemon. Holds no policy; each verb is a function of this folder that takes it first.
 */
import type { EventEmitter } from "node:events";
import { RuntimeError } from "../base/errors.js";
import { type ContainerId, type SandboxId, shortId } from "../base/ids.js";
import type { Logger } from "../base/log.js";
import { Timeline } from "../base/timeline.js";
import type { ImageStore } from "../image/image-store.js";
import type { ForkServer } from "../monitor/fork-server.js";
import type { MonitorClient } from "../monitor/monitor-client.js";
import type { Fd } from "../native/fd.js";
import type { Networks } from "../network/networks.js";
import type { Nri } from "../nri/nri.js";
import type { Process } from "../oci/index.js";
import type { Paths } from "../settings/paths.js";
import type { HostAbilities } from "../spec/container-spec.js";
import type { ContainerRecord, ExitRecord } from "../state/container.js";
import type { IdMaps, SandboxConfig, SandboxRecord } from "../state/sandbox.js";
import type { GroupedStore } from "../state/store.js";
import type { CgroupLayout } from "./cgroups.js";
import type { FigureSources } from "./figure-sources.js";
import type { InFlight } from "./in-flight.js";
import type { RuntimeEvent } from "./runtime.js";
import type { AppArmorProfile } from "./apparmor.js";
import type { RuntimeHandler } from "./runtime-handlers.js";
import type { IdRangeSettings } from "./user-namespaces.js";

export interface RuntimeContext {
  readonly paths: Paths;
  readonly bootId: string;
  readonly host: HostAbilities;
  readonly appArmor: AppArmorProfile | undefined;
  readonly cgroups: CgroupLayout;
  readonly figureSources: FigureSources;
  /** In groups by `sandboxKey`. */
  readonly sandboxes: GroupedStore<SandboxRecord>;
  /** In groups by sandbox id. */
  readonly containers: GroupedStore<ContainerRecord>;
  readonly images: ImageStore;
  readonly network: Networks;
  readonly nri: Nri;
  /** Those of the settings, by name. */
  readonly runtimeHandlers: ReadonlyMap<string, RuntimeHandler>;
  /** Makes the monitors, from a sealed memfd of minke-oci. */
  readonly forkServer: ForkServer;
  readonly log: Logger;
  readonly inFlight: InFlight;
  readonly events: EventEmitter<{ event: [RuntimeEvent] }>;
  /** Connections to the monitors of ready sandboxes. */
  readonly monitors: Map<SandboxId, MonitorHandle>;
  /** How containers ended, as their exit files say; loaded at recovery. */
  readonly exits: Map<ContainerId, ExitRecord>;
  /** Of containers that have ended: their own is removed already. */
  readonly goneCgroups: Set<ContainerId>;
  /** Resolved when a container's exit has been recorded. */
  readonly exitWaiters: Map<ContainerId, Deferred<void>>;
  readonly timelines: Map<SandboxId, Timeline>;
  /** Of sandboxes that have no record yet; the records hold those of the others. */
  readonly takenIds: Map<SandboxId, IdMaps>;
  readonly idRanges: IdRangeSettings;
  /** Directories of CDI specifications; the last one wins. */
  readonly cdiDirs: readonly string[];
  /** User databases by image id: an image never changes. */
  readonly userFiles: Map<string, UserFiles>;
  /** What an exec inherits from its container; read from the bundle when first needed. */
  readonly processes: Map<ContainerId, Process>;
}

/** Text of an image's /etc/passwd and /etc/group; empty where it has none. */
export interface UserFiles {
  readonly passwd: string;
  readonly group: string;
}

/** A monitor that this daemon is connected to. */
export interface MonitorHandle {
  readonly client: MonitorClient;
  readonly pidfd: Fd;
}

export interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
}

export function deferred<T>(): Deferred<T> {
  let resolve: (value: T) => void = () => undefined;
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

/** @throws RuntimeError `not-found` SANDBOX_NOT_FOUND */
export function requireSandbox(ctx: RuntimeContext, id: SandboxId): SandboxRecord {
  const record = ctx.sandboxes.get(id);
  if (record) return record;
  throw new RuntimeError(`sandbox "${shortId(id)}": no sandbox has this id`, {
    kind: "not-found",
    code: "SANDBOX_NOT_FOUND",
  });
}

/** @throws RuntimeError `not-found` CONTAINER_NOT_FOUND */
export function requireContainer(ctx: RuntimeContext, id: ContainerId): ContainerRecord {
  const record = ctx.containers.get(id);
  if (record) return record;
  throw new RuntimeError(`container "${shortId(id)}": no container has this id`, {
    kind: "not-found",
    code: "CONTAINER_NOT_FOUND",
  });
}

/** @throws RuntimeError `failed-precondition` CONTAINER_NOT_RUNNING */
export function requireRunning(ctx: RuntimeContext, id: ContainerId): ContainerRecord {
  const record = requireContainer(ctx, id);
  if (record.state === "running") return record;
  throw new RuntimeError(`container ${describeContainer(record)} is ${record.state}, not running`, {
    kind: "failed-precondition",
    code: "CONTAINER_NOT_RUNNING",
  });
}

/** @throws RuntimeError `unavailable` MONITOR_UNREACHABLE */
export function requireMonitor(ctx: RuntimeContext, id: SandboxId): MonitorClient {
  const monitor = ctx.monitors.get(id);
  if (monitor) return monitor.client;
  throw new RuntimeError(`sandbox "${shortId(id)}": its monitor is gone; the sandbox can only be stopped and removed`, {
    kind: "unavailable",
    code: "MONITOR_UNREACHABLE",
  });
}

/** `3f9c2a… ("web", attempt 2)`: how messages name a container. */
export function describeContainer(record: ContainerRecord): string {
  const { name, attempt } = record.config.metadata;
  return `${shortId(record.id)} ("${name}", attempt ${attempt})`;
}

/** `3f9c2a… ("default/web")`: how messages name a sandbox. */
export function describeSandbox(record: SandboxRecord): string {
  const { namespace, name } = record.config.metadata;
  return `${shortId(record.id)} ("${namespace}/${name}")`;
}

export function containersOf(ctx: RuntimeContext, sandboxId: SandboxId): ContainerRecord[] {
  return ctx.containers.group(sandboxId);
}

/** What no two sandboxes share. */
export function sandboxKey({ namespace, name, uid, attempt }: SandboxConfig["metadata"]): string {
  return JSON.stringify([namespace, name, uid, attempt]);
}

/** The sandbox's timeline; a new one after a restart of the daemon. */
export function timelineOf(ctx: RuntimeContext, id: SandboxId): Timeline {
  const timeline = ctx.timelines.get(id) ?? new Timeline();
  ctx.timelines.set(id, timeline);
  return timeline;
}

export function emit(ctx: RuntimeContext, event: RuntimeEvent): void {
  ctx.events.emit("event", event);
}

/** `/proc/<monitor>/fd/<n>`: the path of a namespace or mount that a sandbox's monitor holds. */
export function monitorFdPath(record: SandboxRecord, fd: number | undefined): string | undefined {
  return record.monitor && fd !== undefined ? `/proc/${record.monitor.pid}/fd/${fd}` : undefined;
}
