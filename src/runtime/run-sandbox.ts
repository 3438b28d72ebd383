/**
 * RunPodSandbox, step by step: record, files and cgroups, beside them namespaces and network, the monitor, ready.
 *
 * Every step pushes its undo before the next one starts, so a failure anywhere leaves nothing
 * behind. The record is written before anything is made that outlives the daemon: after a crash, recover.ts finds
 * every sandbox that may own something. Knows no gRPC and no caller; cri/ and pod/ both come
 * through here.
 */
import { chown } from "node:fs/promises";
import { CleanupStack } from "../base/cleanup.js";
import { nowNs } from "../base/clock.js";
import { RuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { newSandboxId, type SandboxId, shortId } from "../base/ids.js";
import { settleAll } from "../base/settle.js";
import { Timeline } from "../base/timeline.js";
import { MonitorClient } from "../monitor/monitor-client.js";
import type { Fd } from "../native/fd.js";
import {
  createSandboxNamespaces,
  type FileStep,
  MONITOR_FD,
  openDirectory,
  removeTree,
  runFileSteps,
  type SandboxNamespaceFds,
} from "../native/index.js";
import type { PlannedLink, Reserved } from "../network/networks.js";
import type { IdMaps, MonitorProcess, SandboxConfig, SandboxNetwork, SandboxRecord } from "../state/sandbox.js";
import {
  cgroupDir,
  cgroupSteps,
  makeCgroup,
  makeRefusedCgroups,
  monitorCgroup,
  removeCgroup,
  sandboxCgroup,
} from "./cgroups.js";
import type { StillWanted, TellStage } from "./in-flight.js";
import { emit, requireMonitor, type RuntimeContext, sandboxKey } from "./context.js";
import { adoptMonitor, endMonitor } from "./monitors.js";
import { processStartTicks } from "./proc.js";
import { checkRuntimeHandler, runtimeHandler } from "./runtime-handlers.js";
import {
  checkSandboxFiles,
  giveSandboxFiles,
  NO_HOST_FILES,
  readHostFiles,
  sandboxFileSteps,
} from "./sandbox-files.js";
import { attachShm, detachedShmBytes, removeShm } from "./shm.js";
import { mappedRoot, takeIdMaps } from "./user-namespaces.js";
import { unwound } from "./unwound.js";

const DEFAULT_SHM_BYTES = 64 * 1024 * 1024;

/** See `Runtime.runSandbox`. */
export function runSandbox(ctx: RuntimeContext, config: SandboxConfig, signal?: AbortSignal): Promise<SandboxId> {
  const { namespace, name } = config.metadata;
  const key = sandboxKey(config.metadata);
  const work = async (stillWanted: StillWanted, tellStage: TellStage) => {
    const existing = ctx.sandboxes.group(key)[0];
    if (existing?.state === "ready") return existing.id;
    if (existing) {
      throw new RuntimeError(
        `run sandbox "${namespace}/${name}": sandbox ${shortId(existing.id)} of this name and attempt is ${existing.state}`,
        {
          kind: "already-exists",
          code: "NAME_IN_USE",
        },
      );
    }
    const timeline = new Timeline();
    tellStage(() => timeline.stage);
    return makeSandbox(ctx, config, stillWanted, timeline);
  };
  return ctx.inFlight.join(`sandbox ${key}`, work, signal);
}

async function makeSandbox(
  ctx: RuntimeContext,
  config: SandboxConfig,
  stillWanted: StillWanted,
  timeline: Timeline,
): Promise<SandboxId> {
  checkSandboxFiles(config);
  await checkRuntimeHandler(ctx, config);
  const id = newSandboxId();
  const cleanup = new CleanupStack();
  ctx.timelines.set(id, timeline);
  cleanup.push("forget timeline", () => void ctx.timelines.delete(id));
  try {
    await timeline.step("run sandbox", () => build({ ctx, id, config, cleanup, timeline, stillWanted }));
    cleanup.commit();
    emit(ctx, { type: "sandbox-ready", sandboxId: id, owner: config.owner });
    return id;
  } catch (err) {
    await undoSandbox(ctx, id, cleanup);
    throw withContext(err, `run sandbox "${config.metadata.namespace}/${config.metadata.name}"`);
  } finally {
    ctx.nri.sandboxSettled(id);
  }
}

/** The record goes last, and only where nothing else is left: Remove finds the rest by it. */
async function undoSandbox(ctx: RuntimeContext, id: SandboxId, cleanup: CleanupStack): Promise<void> {
  const isUndone = await unwound(ctx, cleanup, { sandboxId: id });
  const record = ctx.sandboxes.get(id);
  if (!record) return;
  try {
    if (isUndone) await ctx.sandboxes.remove(id);
    else await ctx.sandboxes.put(id, { ...record, state: "removing" }, "remember");
  } catch (err) {
    ctx.log.error(
      { sandboxId: id, err: String(err) },
      "could not undo the record of a sandbox, leaving it to RemovePodSandbox",
    );
  }
}

interface Making {
  readonly ctx: RuntimeContext;
  readonly id: SandboxId;
  readonly config: SandboxConfig;
  readonly cleanup: CleanupStack;
  readonly timeline: Timeline;
  readonly stillWanted: StillWanted;
}

async function build({ ctx, id, config, cleanup, timeline, stillWanted }: Making): Promise<void> {
  const idMaps = takeIdMaps(ctx, id, config);
  const creating: SandboxRecord = {
    id,
    bootId: ctx.bootId,
    config,
    state: "creating",
    createdAtNs: nowNs().toString(),
    cgroupPath: sandboxCgroup(ctx.cgroups, id, config.cgroupParent),
    ...(idMaps && { idMaps }),
  };
  // The monitor inherits copies; ours are closed at the end, whatever happened.
  const opened: Fd[] = [];
  try {
    // Namespaces are descriptors of this process, and links end with them: they need not wait for the
    // record. What outlives the daemon does.
    const reserved = reserveNetwork(ctx, id, config, cleanup);
    const made = reserved.then((network) =>
      timeline.step("namespaces", () => makeNamespaces(ctx, creating, { link: network?.link, opened, cleanup })),
    );
    // Behind it: the thread that it starts is what everything waits for.
    const recorded = reserved.then((network) => {
      const files = earlyFiles(ctx, creating, network);
      const written = timeline.step("record", () => recordSandbox(ctx, creating, files, cleanup));
      ctx.network.record(id);
      return written;
    });
    const connect = async (): Promise<SandboxNetwork | undefined> => {
      const [network, namespaces] = await settleAll([reserved, made]);
      stillWanted();
      return timeline.step("network", () => setUpNetwork(ctx, creating, namespaces, network?.link));
    };
    const watch = async (): Promise<MonitorProcess> => {
      const [namespaces] = await settleAll([made, recorded]);
      stillWanted();
      const shm = await openShm(ctx, creating, { made: namespaces.shm, opened, cleanup });
      return timeline.step("monitor", () => startMonitor(ctx, creating, { ...namespaces, shm }, cleanup));
    };
    const [monitor, network] = await settleAll([watch(), connect()]);
    stillWanted();
    const initPid =
      config.namespaces.pid === "pod" ? await timeline.step("init", () => startInit(ctx, creating)) : undefined;
    stillWanted();
    const ready = { ...creating, state: "ready", network, monitor, ...(initPid !== undefined && { initPid }) } as const;
    if (ctx.nri.hasPlugins) {
      cleanup.push("tell plugins", () => ctx.nri.sandboxEvent("RemovePodSandbox", ready));
      await timeline.step("NRI plugins", () => ctx.nri.sandboxEvent("RunPodSandbox", ready));
    }
    const files = (await reserved) && !idMaps ? [] : await lateFiles(ctx, ready, cleanup);
    if (idMaps) await timeline.step("files", () => writeFilesFor(idMaps, ctx.paths.sandbox(id), files));
    await timeline.step("record ready", () => ctx.sandboxes.putWith(id, ready, idMaps ? {} : { first: files }));
    // It may have died before there was a ready sandbox to be stopped.
    if (!ctx.monitors.has(id)) {
      throw new RuntimeError("its monitor died", { kind: "unavailable", code: "MONITOR_UNREACHABLE" });
    }
  } finally {
    ctx.takenIds.delete(id);
    for (const fd of opened) fd.close();
  }
}

/** Where the network is known ahead they go with the record, which is there before the namespaces are. */
function earlyFiles(
  ctx: RuntimeContext,
  { id, config, idMaps }: SandboxRecord,
  known: Reserved | undefined,
): FileStep[] {
  return known && !idMaps ? sandboxFileSteps(ctx.paths.sandbox(id), config, known.network, NO_HOST_FILES) : [];
}

/** Those of the host's network, and of one that CNI plugins have made. */
async function lateFiles(
  ctx: RuntimeContext,
  { id, config, network }: SandboxRecord,
  cleanup: CleanupStack,
): Promise<FileStep[]> {
  const dir = ctx.paths.sandbox(id);
  cleanup.push("remove files", () => removeTree(dir));
  return sandboxFileSteps(dir, config, network, await readHostFiles(config));
}

async function writeFilesFor(idMaps: IdMaps, dir: string, files: readonly FileStep[]): Promise<void> {
  await runFileSteps(files);
  await giveSandboxFiles(dir, idMaps);
}

/** The record, and behind it the files and the cgroups. */
async function recordSandbox(
  ctx: RuntimeContext,
  record: SandboxRecord,
  files: readonly FileStep[],
  cleanup: CleanupStack,
): Promise<void> {
  const monitors = monitorCgroup(ctx.cgroups, record.id);
  const wanted = [
    { cgroup: record.cgroupPath, handDown: true },
    { cgroup: monitors, handDown: false },
  ];
  cleanup.push("remove cgroups", async () => {
    await removeCgroup(ctx.cgroups, record.cgroupPath);
    await removeCgroup(ctx.cgroups, monitors);
  });
  if (files.length > 0) cleanup.push("remove files", () => removeTree(ctx.paths.sandbox(record.id)));
  const cgroups = cgroupSteps(ctx.cgroups, wanted);
  const refusal = await ctx.sandboxes.putWith(record.id, record, { last: [...files, ...cgroups] });
  if (!refusal) return;
  if (refusal.index < files.length) throw refusal.error;
  await makeRefusedCgroups(ctx.cgroups, wanted, refusal.error);
}

interface Makings {
  /** Descriptors to be closed in the end. */
  readonly opened: Fd[];
  readonly cleanup: CleanupStack;
}

async function makeNamespaces(
  ctx: RuntimeContext,
  { config, idMaps }: SandboxRecord,
  { link, opened, cleanup }: Makings & { readonly link: PlannedLink | undefined },
): Promise<SandboxNamespaceFds> {
  const hasOwnNetwork = config.namespaces.network === "pod";
  const made = await createSandboxNamespaces({
    network: hasOwnNetwork,
    ipc: config.namespaces.ipc === "pod",
    uts: hasOwnNetwork,
    hostname: config.hostname,
    domainname: config.domainname ?? "",
    sysctls: config.sysctls,
    idMaps,
    shmBytes:
      config.namespaces.ipc === "pod"
        ? detachedShmBytes(shmBytes(config), runtimeHandler(ctx, config.runtimeHandler))
        : 0,
    link,
  });
  for (const fd of [made.net, made.ipc, made.uts, made.netlink, made.user, made.shm]) if (fd) opened.push(fd);
  const { link: linked } = made;
  // Before the network is taken back: a link that is made after that would be nobody's until its namespace goes.
  if (linked) cleanup.push("wait for link", () => linked.then(ignored, ignored));
  return made;
}

function ignored(): void {}

function shmBytes(config: SandboxConfig): number {
  return config.shmSizeBytes || DEFAULT_SHM_BYTES;
}

/** What the namespaces' thread has made, or what can only be made now that there is a record. */
async function openShm(
  ctx: RuntimeContext,
  record: SandboxRecord,
  { made, opened, cleanup }: Makings & { readonly made: Fd | undefined },
): Promise<Fd | undefined> {
  const { config, idMaps } = record;
  if (config.namespaces.ipc !== "pod") return undefined;
  cleanup.push("remove shared memory", () => removeShm(ctx, record.id));
  failpoint("shared memory");
  const handler = runtimeHandler(ctx, config.runtimeHandler);
  const fd = made ?? (await attachShm(ctx, record.id, shmBytes(config), handler));
  if (!made) opened.push(fd);
  // Everybody may write to it, but what says so must be an id that is known inside.
  if (idMaps) await chown(`/proc/self/fd/${fd.number}`, ...mappedRoot(idMaps));
  return fd;
}

async function reserveNetwork(
  ctx: RuntimeContext,
  id: SandboxId,
  config: SandboxConfig,
  cleanup: CleanupStack,
): Promise<Reserved | undefined> {
  if (config.namespaces.network !== "pod") return undefined;
  cleanup.push("remove network", () => ctx.network.teardown(id));
  return ctx.network.reserve(id, config);
}

async function setUpNetwork(
  ctx: RuntimeContext,
  { id, config }: SandboxRecord,
  made: SandboxNamespaceFds,
  link: PlannedLink | undefined,
): Promise<SandboxNetwork | undefined> {
  if (!made.net || !made.netlink) return undefined;
  const planned = link && made.link && { link, replies: made.link };
  return ctx.network.setup(id, { netns: made.net, netlink: made.netlink, config, planned });
}

async function startMonitor(
  ctx: RuntimeContext,
  record: SandboxRecord,
  made: Omit<SandboxNamespaceFds, "shm"> & { readonly shm: Fd | undefined },
  cleanup: CleanupStack,
): Promise<MonitorProcess> {
  const cgroup = openDirectory(cgroupDir(ctx.cgroups, monitorCgroup(ctx.cgroups, record.id)));
  try {
    const { pid, pidfd, control } = await ctx.forkServer.fork({
      sandboxId: record.id,
      socketPath: ctx.paths.monitorSocket(record.id),
      cgroup,
      fds: { net: made.net, ipc: made.ipc, uts: made.uts, shm: made.shm, user: made.user },
    });
    cleanup.push("end monitor", () => endMonitor(ctx, record.id, { pidfd }));
    failpoint("monitor hello");
    const greeting = MonitorClient.fromFd(control);
    greeting.catch(ignored);
    // Asked while it comes up, rather than once it has said hello.
    const startTicks = processStartTicks(pid);
    adoptMonitor(ctx, record.id, await greeting, pidfd);
    return {
      pid,
      startTicks,
      netFd: made.net && MONITOR_FD.net,
      ipcFd: made.ipc && MONITOR_FD.ipc,
      utsFd: made.uts && MONITOR_FD.uts,
      shmFd: made.shm && MONITOR_FD.shm,
      userFd: made.user && MONITOR_FD.user,
    };
  } finally {
    cgroup.close();
  }
}

/** Pid 1 of a shared PID namespace, in a cgroup of its own beside the containers'; it ends with the monitor. */
async function startInit(ctx: RuntimeContext, record: SandboxRecord): Promise<number> {
  const cgroup = `${record.cgroupPath}/init`;
  await makeCgroup(ctx.cgroups, cgroup, { handDown: false });
  const { pid } = await requireMonitor(ctx, record.id).startInit({ cgroup: cgroupDir(ctx.cgroups, cgroup) });
  return pid;
}
