/**
 * The daemon: reads the settings, takes the lock, recovers what runs, and serves its sockets.
 *
 * The only place that knows every part. It ends on SIGTERM, SIGINT or by request; sandboxes and
 * containers go on without it unless the request says otherwise.
 */
import { mkdir, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { openMetrics } from "./api/daemon-metrics.js";
import { CleanupStack } from "./base/cleanup.js";
import { RuntimeError, toRuntimeError } from "./base/errors.js";
import { createLog, type Logger } from "./base/log.js";
import { endSparingStart } from "./base/start-memory.js";
import { WhenQuiet } from "./base/when-quiet.js";
import { type Daemon, openNri, openSockets, type StopRequest } from "./daemon-sockets.js";
import { collectImages } from "./image/collect-images.js";
import { ImageStore, type ImageStoreOptions } from "./image/image-store.js";
import { type Fd, giveBackMemory, isMountPoint, lockFile, mountTmpfs, unmount } from "./native/index.js";
import type { AttachmentRecord } from "./network/cni/cni-network.js";
import { Networks } from "./network/networks.js";
import type { NetworkRecord } from "./network/pod-network.js";
import { Nri } from "./nri/nri.js";
import { ConfigObjects, type ConfigRecord } from "./pod/config-objects.js";
import { PodEngine } from "./pod/engine.js";
import type { HistoryRecord } from "./pod/history.js";
import { imagesOf } from "./pod/images.js";
import type { PodRecord } from "./pod/record.js";
import { readHost, removeEmptyCgroups } from "./runtime/host.js";
import { type OpenedRuntime, openRuntime } from "./runtime/open-runtime.js";
import { readRuntimeHandlers } from "./runtime/runtime-handlers.js";
import { rememberSettingsFile } from "./settings/last-settings-file.js";
import { Paths } from "./settings/paths.js";
import { loadSettings, type Settings } from "./settings/settings.js";
import { VERSION } from "./settings/version.js";
import { FileStore } from "./state/store.js";

/** After the last pull or start, memory that it has freed goes back to the kernel. */
const QUIET_MS = 2_000;

export interface DaemonOptions {
  /** Data: absolute. */
  readonly root: string;
  /** Sockets and our own tmpfs: absolute. */
  readonly run: string;
  /** Replaces `<run>/api.sock`. */
  readonly api?: string | undefined;
  /** Replaces `<run>/cri.sock`. */
  readonly cri?: string | undefined;
  /** A settings file that must exist; without it the default one, which may be missing. */
  readonly config?: string | undefined;
}

/**
 * Runs until it is stopped, then returns.
 *
 * @throws RuntimeError where it cannot start: `permission-denied` NOT_ROOT, `failed-precondition`
 *   ALREADY_RUNNING, and what settings, network and sockets refuse
 */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  if (process.geteuid?.() !== 0) {
    throw new RuntimeError("start the daemon: minke must run as root", { kind: "permission-denied", code: "NOT_ROOT" });
  }
  process.umask(0o022);
  const settings = await loadSettings(options.config);
  const log = createLog(settings.logLevel);
  const paths = new Paths(options.root, options.run);
  for (const dir of [paths.root, paths.run, paths.tmp, paths.tmpfs]) await mkdir(dir, { recursive: true, mode: 0o700 });
  const lock = await takeLock(paths);
  await rememberSettingsFile(paths, options.config).catch((err: unknown) => {
    // As on a full disk: that must not keep a daemon from looking after what runs.
    log.warn({ err: String(err) }, "could not keep the path of the settings file for the next daemon, going on");
  });
  // Newest first on the way down, also where a later part fails to start.
  const parts = new CleanupStack();
  parts.push("release the lock", () => lock.close());
  let failure: unknown;
  try {
    const daemon = await open(options, settings, paths, log, parts);
    const request = await stopRequested(daemon);
    log.info({ pods: request.pods }, "stopping");
    if (request.pods) {
      await deletePods(daemon);
      daemon.leavesNothing = true;
    }
  } catch (err) {
    failure = err;
  }
  for (const { step, error } of await parts.unwind())
    log.warn({ step, err: error.message }, "could not shut a part down");
  if (failure !== undefined) throw failure;
  log.info("stopped");
}

async function takeLock(paths: Paths): Promise<Fd> {
  try {
    return await lockFile(paths.lock);
  } catch (err) {
    if (toRuntimeError(err).code !== "LOCKED") throw err;
    throw new RuntimeError(
      `start the daemon: one with the root "${paths.root}" runs already; give this one another --root and --run`,
      {
        kind: "failed-precondition",
        code: "ALREADY_RUNNING",
        cause: err,
      },
    );
  }
}

/** Opens every part in the order in which they need each other. */
async function open(
  options: DaemonOptions,
  settings: Settings,
  paths: Paths,
  log: Logger,
  parts: CleanupStack,
): Promise<Daemon> {
  let daemon: Daemon | undefined;
  const leavesNothing = () => daemon?.leavesNothing ?? false;
  // A mounted one holds the secrets of pods that run; one that is made here, and a start that fails, hold none.
  const isNew = !(await isMountPoint(paths.tmpfs));
  if (isNew) await mountTmpfs(paths.tmpfs, { sizeBytes: 0, mode: 0o700 });
  parts.push("remove the run directory", async () => {
    if (leavesNothing() || (isNew && !daemon)) await unmount(paths.tmpfs, { detach: true });
    if (leavesNothing()) await rm(paths.run, { recursive: true, force: true });
  });
  const host = await readHost(settings, paths);
  parts.push("remove empty cgroups", async () => {
    if (!daemon) await removeEmptyCgroups(host.cgroups);
  });
  parts.push("stop loading the AppArmor profile", () => host.appArmor?.close());
  // Beside the start, which it would hold up where the parser is slow; the first container waits for it.
  void host.appArmor?.ready().then((found) => {
    if ("why" in found) log.warn({ why: found.why }, "no default AppArmor profile: containers go on without one");
  });
  const leases = await FileStore.open<NetworkRecord>({
    dir: paths.bootState("leases"),
    storeClass: "boot",
    quarantine: paths.quarantine,
    version: 1,
  });
  const attachments = await FileStore.open<AttachmentRecord>({
    dir: paths.durableState("attachments"),
    storeClass: "durable",
    quarantine: paths.quarantine,
    version: 1,
  });
  const { mode, cni } = settings.network;
  const network = await Networks.open({
    mode,
    builtin: { ...settings.network, owner: paths.root },
    cni: { ...cni, netnsDir: cni.netnsDir ?? paths.netns },
    leases,
    attachments,
    log,
  });
  parts.push("close the network", () => network.close({ removeAll: leavesNothing() }));
  let opened: OpenedRuntime | undefined;
  // Until the containers are known, each image may be somebody's root file system.
  const isInUse = (id: string) => opened?.usesImage(id) ?? true;
  let engineOf: () => PodEngine | undefined = () => undefined;
  const usersOf = (id: string) => [
    ...new Set([
      ...(opened?.imageUsers(id) ?? []),
      ...podsWithImage(engineOf(), (name) => images.resolve(name)?.id, id),
    ]),
  ];
  const spareMemory = new WhenQuiet(QUIET_MS, giveBackMemory);
  parts.push("stop giving memory back", () => spareMemory.close());
  const images: ImageStore = await ImageStore.open(paths, {
    ...imageOptions(settings),
    ...{ isInUse, usersOf, afterTransfer: spareMemory.touch },
  });
  const nri = new Nri({ ...settings.nri, runtimeVersion: VERSION, log });
  const runtimeHandlers = await readRuntimeHandlers(settings.runtimeHandlers, log);
  const runtime = await openRuntime({
    paths,
    host,
    images,
    network,
    nri,
    runtimeHandlers,
    idRanges: settings.userNamespaces,
    cdiDirs: settings.cdiDirs,
    log,
  });
  opened = runtime;
  runtime.runtime.subscribe(spareMemory.touch);
  for (const { path, why } of images.dropped) log.warn({ path, why }, "dropped from the image store");
  parts.push("close the runtime", () => runtime.close({ removeCgroups: leavesNothing() }));
  log.info(runtime.recovered, "recovered");
  const pods = await FileStore.open<PodRecord>({
    dir: paths.durableState("pods"),
    storeClass: "durable",
    quarantine: paths.quarantine,
    version: 1,
  });
  const history = await FileStore.open<HistoryRecord>({
    dir: paths.bootState("history"),
    storeClass: "boot",
    quarantine: paths.quarantine,
    version: 1,
  });
  const [configMaps, secrets] = await Promise.all(
    (["configmaps", "secrets"] as const).map((noun) =>
      FileStore.open<ConfigRecord>({
        dir: paths.durableState(noun),
        storeClass: "durable",
        quarantine: paths.quarantine,
        version: 1,
      }),
    ),
  );
  if (!configMaps || !secrets) throw new Error("two stores are opened");
  const stores = [leases, attachments, images, runtime, pods, history, configMaps, secrets];
  for (const record of stores.flatMap(({ quarantined }) => quarantined)) {
    log.error(record, "a record could not be read and was put aside");
  }
  // Before the first container is made, by the engine or through a socket: they may have to see each.
  if (settings.nri.enabled && settings.nri.pluginDir !== undefined) {
    parts.push("end the NRI plugins", () => nri.close());
    await nri.startInstalled(settings.nri.pluginDir);
  }
  const engine = await PodEngine.open({
    runtime: runtime.runtime,
    images: imagesOf(images),
    store: pods,
    history,
    configMaps: new ConfigObjects("ConfigMap", configMaps),
    secrets: new ConfigObjects("Secret", secrets),
    paths,
    mounts: { mountTmpfs, unmount },
    settings: {
      restartBackoffBaseMs: settings.backoff.baseMs,
      restartBackoffMaxMs: settings.backoff.maxMs,
      logMaxBytes: settings.logs.maxBytes,
      logMaxFiles: settings.logs.maxFiles,
    },
    log,
  });
  engineOf = () => engine;
  parts.push("close the pod engine", () => engine.close());
  const metrics = await openMetrics(settings.metrics, parts, {
    version: VERSION,
    runtime: runtime.runtime,
    images: () => images.list().length,
    nriPlugins: () => nri.plugins.length,
  });
  const stopCollecting = collectImages(images, settings.images.collection, log);
  parts.push("stop the collection of images", stopCollecting);
  daemon = {
    ...{ settings, paths, host, images, log, runtime, engine, runtimeHandlers, network, metrics },
    leavesNothing: false,
    onStop: () => undefined,
  };
  if (settings.nri.enabled) await openNri(nri, settings.nri.socketPath ?? paths.nriSocket, parts);
  const { cri: criSocket = paths.criSocket, api: apiSocket = paths.apiSocket } = options;
  endSparingStart();
  giveBackMemory();
  await openSockets(daemon, { cri: criSocket, api: apiSocket }, parts);
  return daemon;
}

/** Credentials are those of the daemon's user where the settings name no file. */
function imageOptions({ registries, registryConfigPath, images }: Settings): ImageStoreOptions {
  const dockerConfigDir = process.env["DOCKER_CONFIG"] || join(homedir(), ".docker");
  return {
    registries,
    registryConfigPath,
    dockerConfigPath: images.dockerConfigPath ?? join(dockerConfigDir, "config.json"),
    allowForeignLayers: images.allowForeignLayers,
    parallelLayers: images.parallelLayers,
    maxLayerBytes: images.maxLayerBytes,
    pinned: images.collection.pinned,
    times: { stallMs: images.progressTimeoutMs },
  };
}

/** Pods whose manifest names the image: their containers may not be there yet, or not any more. */
function podsWithImage(
  engine: PodEngine | undefined,
  idOf: (reference: string) => string | undefined,
  imageId: string,
): string[] {
  return (engine?.list() ?? []).flatMap(({ metadata, spec }) => {
    const containers = [...(spec.initContainers ?? []), ...(spec.containers ?? [])].map(({ image }) => image);
    const volumes = (spec.volumes ?? []).map(({ image }) => image?.reference);
    const uses = [...containers, ...volumes].some((name) => name !== undefined && idOf(name) === imageId);
    return uses ? [`pod ${metadata.namespace}/${metadata.name}`] : [];
  });
}

/** Waits for SIGTERM, SIGINT or the API's stop route. */
function stopRequested(daemon: Daemon): Promise<StopRequest> {
  return new Promise((resolve) => {
    daemon.onStop = resolve;
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve({ pods: false }));
  });
}

async function deletePods({ engine, runtime: { runtime } }: Daemon): Promise<void> {
  await engine.deleteAll();
  for (const owner of ["cri", "pod"] as const) {
    await Promise.all(runtime.listSandboxes(owner).map(({ id }) => runtime.removeSandbox(id)));
  }
}
