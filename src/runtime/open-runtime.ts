/**
 * Puts the verbs together: opens the stores, recovers, and hands out the one `Runtime`.
 */
import { EventEmitter } from "node:events";
import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { Duplex } from "node:stream";
import { Socket } from "node:net";
import { RuntimeError, withContext } from "../base/errors.js";
import type { SandboxId } from "../base/ids.js";
import type { Logger } from "../base/log.js";
import { settleAll } from "../base/settle.js";
import type { ImageStore } from "../image/image-store.js";
import { dialInNetns, sealedExecutable, spreadSubdirectories } from "../native/index.js";
import type { Networks } from "../network/networks.js";
import type { Nri } from "../nri/nri.js";
import type { Paths } from "../settings/paths.js";
import { DEFAULT_DEVICE_RULES } from "../spec/default-devices.js";
import type { ContainerRecord } from "../state/container.js";
import type { SandboxRecord } from "../state/sandbox.js";
import { ForkServer } from "../monitor/fork-server.js";
import { FileStore, type QuarantinedRecord, readBootId } from "../state/store.js";
import { removeCgroup } from "./cgroups.js";
import {
  describeContainer,
  describeSandbox,
  monitorFdPath,
  requireMonitor,
  requireRunning,
  requireSandbox,
  type RuntimeContext,
  sandboxKey,
} from "./context.js";
import { createContainer } from "./create-container.js";
import { attach, exec, execSync } from "./exec.js";
import { containerFigures, sandboxFigures } from "./figures.js";
import type { Host } from "./host.js";
import { InFlight } from "./in-flight.js";
import { tellOfExit } from "./nri-events.js";
import { nriHost } from "./nri-host.js";
import { type Recovered, recover } from "./recover.js";
import { removeContainer } from "./remove-container.js";
import { removeSandbox } from "./remove-sandbox.js";
import { runSandbox } from "./run-sandbox.js";
import type { Runtime, RuntimeEvent } from "./runtime.js";
import type { RuntimeHandler } from "./runtime-handlers.js";
import { startContainer } from "./start-container.js";
import { containerStatus, listContainers, listSandboxes, sandboxStatus } from "./status.js";
import { stopContainer } from "./stop-container.js";
import { stopSandbox } from "./stop-sandbox.js";
import type { IdRangeSettings } from "./user-namespaces.js";
import { updateContainerResources } from "./update-container.js";
import { updateSandboxResources } from "./update-sandbox.js";
import { containerUsage, sandboxUsage } from "./usage.js";
import { watchInits } from "./watch-init.js";

export interface RuntimeOptions {
  readonly paths: Paths;
  readonly host: Host;
  readonly images: ImageStore;
  readonly network: Networks;
  /** Its plugins connect once the runtime is open. */
  readonly nri: Nri;
  readonly idRanges: IdRangeSettings;
  readonly cdiDirs: readonly string[];
  readonly runtimeHandlers: ReadonlyMap<string, RuntimeHandler>;
  readonly log: Logger;
}

export interface OpenedRuntime {
  readonly runtime: Runtime;
  readonly recovered: Recovered;
  /** What recovery found to have happened: nobody could subscribe before. */
  readonly missedEvents: readonly RuntimeEvent[];
  readonly quarantined: readonly QuarantinedRecord[];
  /** True while a container of any owner uses the image. */
  usesImage(imageId: string): boolean;
  /** Whose containers use the image, for people: `pod default/web`. */
  imageUsers(imageId: string): string[];
  /** Container id to what people call it. */
  containerNames(): Map<string, string>;
  /** Drops the connections; sandboxes and containers go on. */
  close(options: { readonly removeCgroups: boolean }): Promise<void>;
}

/** Where the build puts it, seen from dist/runtime/. */
const EXECUTABLE = fileURLToPath(new URL("../../build/Release/minke-oci", import.meta.url));

/** Opens the stores of `paths`, makes the sealed executable, and brings records and kernel together. */
export async function openRuntime(options: RuntimeOptions): Promise<OpenedRuntime> {
  const { paths, host, log } = options;
  for (const dir of [paths.monitors, paths.shm, ...paths.ofPods]) await mkdir(dir, { recursive: true, mode: 0o700 });
  for (const dir of paths.ofPods) spreadSubdirectories(dir);
  const storeOf = <T>(noun: "sandboxes" | "containers", groupOf: (body: T) => string) =>
    FileStore.open<T>({
      dir: paths.bootState(noun),
      storeClass: "boot",
      quarantine: paths.quarantine,
      version: 1,
      groupOf,
    });
  const sandboxes = await storeOf<SandboxRecord>("sandboxes", ({ config }) => sandboxKey(config.metadata));
  const containers = await storeOf<ContainerRecord>("containers", ({ sandboxId }) => sandboxId);
  const ctx: RuntimeContext = {
    paths,
    bootId: await readBootId(),
    host: host.abilities,
    appArmor: host.appArmor,
    cgroups: host.cgroups,
    figureSources: host.figureSources,
    sandboxes,
    containers,
    images: options.images,
    network: options.network,
    nri: options.nri,
    runtimeHandlers: options.runtimeHandlers,
    forkServer: new ForkServer(await sealedExecutable(EXECUTABLE), DEFAULT_DEVICE_RULES),
    log,
    inFlight: new InFlight(),
    events: new EventEmitter<{ event: [RuntimeEvent] }>().setMaxListeners(0),
    monitors: new Map(),
    exits: new Map(),
    goneCgroups: new Set(),
    exitWaiters: new Map(),
    timelines: new Map(),
    takenIds: new Map(),
    idRanges: options.idRanges,
    cdiDirs: options.cdiDirs,
    userFiles: new Map(),
    processes: new Map(),
  };
  const podOf = (sandboxId: SandboxId) => {
    const sandbox = sandboxes.get(sandboxId);
    if (!sandbox) return `sandbox ${sandboxId}`;
    const { owner, metadata } = sandbox.config;
    return `pod ${metadata.namespace}/${metadata.name}${owner === "cri" ? " of CRI" : ""}`;
  };
  const uses = (record: ContainerRecord, imageId: string) =>
    record.imageId === imageId || (record.mountedImageIds?.some((mounted) => mounted === imageId) ?? false);
  await ctx.forkServer.start();
  watchInits(ctx);
  const missedEvents: RuntimeEvent[] = [];
  const keep = (event: RuntimeEvent) => void missedEvents.push(event);
  ctx.events.on("event", keep);
  const recovered = await recover(ctx);
  ctx.events.off("event", keep);
  ctx.events.on("event", (event) => {
    if (event.type === "container-exited" && ctx.nri.hasPlugins) void tellOfExit(ctx, event.containerId);
  });
  ctx.nri.attach(nriHost(ctx));
  return {
    runtime: bindVerbs(ctx),
    recovered,
    missedEvents,
    quarantined: [...sandboxes.quarantined, ...containers.quarantined],
    usesImage: (imageId) => containers.list().some(({ body }) => uses(body, imageId)),
    imageUsers: (imageId) => [
      ...new Set(containers.list().flatMap(({ body }) => (uses(body, imageId) ? [podOf(body.sandboxId)] : []))),
    ],
    containerNames: () =>
      new Map(
        containers
          .list()
          .map(({ id, body }) => [id, `container "${body.config.metadata.name}" of ${podOf(body.sandboxId)}`]),
      ),
    close: (closeOptions) => close(ctx, closeOptions.removeCgroups),
  };
}

function bindVerbs(ctx: RuntimeContext): Runtime {
  return {
    runSandbox: (config, signal) => runSandbox(ctx, config, signal),
    stopSandbox: (id) => stopSandbox(ctx, id),
    removeSandbox: (id) => removeSandbox(ctx, id),
    sandboxStatus: (id) => sandboxStatus(ctx, id),
    listSandboxes: (owner, id) => listSandboxes(ctx, owner, id),
    createContainer: (sandboxId, config, signal) => createContainer(ctx, sandboxId, config, signal),
    startContainer: (id) => startContainer(ctx, id),
    stopContainer: (id, graceMs) => stopContainer(ctx, id, graceMs),
    removeContainer: (id) => removeContainer(ctx, id),
    containerStatus: (id) => containerStatus(ctx, id),
    listContainers: (owner, sandboxId) => listContainers(ctx, owner, sandboxId),
    updateContainerResources: (id, changes) => updateContainerResources(ctx, id, changes),
    updateSandboxResources: (id, overhead, sum) => updateSandboxResources(ctx, id, overhead, sum),
    containerUsage: (id) => containerUsage(ctx, id),
    sandboxUsage: (id) => sandboxUsage(ctx, id),
    containerFigures: (id) => containerFigures(ctx, id),
    sandboxFigures: (id) => sandboxFigures(ctx, id),
    execSync: (id, command, timeoutMs, signal) => execSync(ctx, id, command, timeoutMs, signal),
    exec: (id, request) => exec(ctx, id, request),
    attach: (id) => attach(ctx, id),
    reopenContainerLog: async (id) => {
      const record = requireRunning(ctx, id);
      await requireMonitor(ctx, record.sandboxId)
        .reopenLog({ containerId: id })
        .catch((err: unknown) => {
          throw withContext(err, `reopen the log of container ${describeContainer(record)}`);
        });
    },
    dialPort: (id, port) => dialPort(ctx, id, port),
    subscribe: (listener) => {
      ctx.events.on("event", listener);
      return () => void ctx.events.off("event", listener);
    },
  };
}

async function dialPort(ctx: RuntimeContext, id: SandboxId, port: number): Promise<Duplex> {
  const record = requireSandbox(ctx, id);
  if (record.state !== "ready") {
    throw new RuntimeError(`sandbox ${describeSandbox(record)} is ${record.state}, not ready`, {
      kind: "failed-precondition",
      code: "SANDBOX_NOT_READY",
    });
  }
  const netns = monitorFdPath(record, record.monitor?.netFd) ?? "/proc/self/ns/net";
  const fd = await dialInNetns(netns, port);
  return new Socket({ fd: fd.take(), readable: true, writable: true, allowHalfOpen: true });
}

async function close(ctx: RuntimeContext, removeCgroups: boolean): Promise<void> {
  const handles = [...ctx.monitors.values()];
  ctx.monitors.clear();
  for (const { client, pidfd } of handles) {
    client.close();
    pidfd.close();
  }
  await settleAll([ctx.forkServer.close(), ctx.sandboxes.saveAll(), ctx.containers.saveAll()]);
  if (removeCgroups) await removeCgroup(ctx.cgroups, `/${ctx.cgroups.root}`);
}
