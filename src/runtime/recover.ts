/**
 * Recovery: at start the records are compared with the kernel, which is the truth.
 *
 * What runs is adopted through its monitor; what ended meanwhile gets its exit from the exit
 * file; what was half made is undone; what belongs to no record is removed. Nothing here may
 * stop the start: what cannot be put right is logged and left to Stop and Remove.
 */
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { hasErrno } from "../base/errors.js";
import { isLongId, type SandboxId } from "../base/ids.js";
import { MonitorClient } from "../monitor/monitor-client.js";
import type { ListedContainer } from "../monitor/protocol.js";
import { type Fd, pidfdOpen, removeTree } from "../native/index.js";
import type { ContainerRecord } from "../state/container.js";
import type { SandboxRecord } from "../state/sandbox.js";
import { cgroupDir, childCgroups, killCgroup, removeCgroup } from "./cgroups.js";
import { emitStarted, isThere, readExitFile, recordExit, recordUnknownExit } from "./container-exit.js";
import { containersOf, type RuntimeContext } from "./context.js";
import { hasRun } from "./has-run.js";
import { answerOf } from "./monitor-answer.js";
import { adoptMonitor } from "./monitors.js";
import { processStartTicks } from "./proc.js";
import { removeContainer } from "./remove-container.js";
import { removeSandbox } from "./remove-sandbox.js";
import { forgetKilled } from "./forget-killed.js";
import { removeRootfs } from "./runtime-handlers.js";
import { orphanedShm, removeShm } from "./shm.js";
import { stopSandbox } from "./stop-sandbox.js";

export interface Recovered {
  readonly adopted: number;
  readonly stopped: number;
  readonly undone: number;
  readonly orphans: number;
}

/** Brings records and kernel together; see the module's comment. */
export async function recover(ctx: RuntimeContext): Promise<Recovered> {
  const counts = { adopted: 0, stopped: 0, undone: 0, orphans: 0 };
  const records = ctx.sandboxes.list().map(({ body }) => body);
  await Promise.all(
    records.map(async (record) => {
      try {
        counts[await recoverSandbox(ctx, record)]++;
      } catch (err) {
        ctx.log.error({ sandboxId: record.id, err: String(err) }, "could not recover a sandbox; stop and remove it");
      }
    }),
  );
  for (const { body } of ctx.containers.list()) {
    if (ctx.sandboxes.get(body.sandboxId)) continue;
    await removeContainer(ctx, body.id).catch((err: unknown) => {
      ctx.log.error({ containerId: body.id, err: String(err) }, "could not remove a container without sandbox");
    });
  }
  const ready = ctx.sandboxes.list().filter(({ body }) => body.state === "ready");
  await ctx.network.recover(ready.map(({ body }) => body)).catch((err: unknown) => {
    ctx.log.error({ err: String(err) }, "could not bring the pod network and its leases together");
  });
  counts.orphans = await removeOrphans(ctx);
  return counts;
}

async function recoverSandbox(ctx: RuntimeContext, record: SandboxRecord): Promise<"adopted" | "stopped" | "undone"> {
  await loadExits(ctx, record);
  if (record.state === "creating" || record.state === "removing") {
    await endStrayMonitor(ctx, record.id);
    await removeSandbox(ctx, record.id);
    return "undone";
  }
  if (record.state === "stopped") return "stopped";
  const listed = record.bootId === ctx.bootId ? await connect(ctx, record) : undefined;
  if (listed) {
    for (const container of containersOf(ctx, record.id)) await recoverContainer(ctx, container, listed);
    if (record.state === "ready") {
      await endUnknownContainers(ctx, record, listed);
      return "adopted";
    }
    await stopSandbox(ctx, record.id);
    return "stopped";
  }
  const reason =
    record.bootId === ctx.bootId ? "the sandbox's monitor was gone when minke started" : "the machine was restarted";
  await endWithoutMonitor(ctx, record, reason);
  return "stopped";
}

async function loadExits(ctx: RuntimeContext, sandbox: SandboxRecord): Promise<void> {
  for (const container of containersOf(ctx, sandbox.id)) {
    const exit = container.state === "exited" ? await readExitFile(ctx, container.id) : undefined;
    if (exit) ctx.exits.set(container.id, exit);
  }
}

/** The monitor of the record, where that very process still runs; with the containers it knows. */
async function connect(ctx: RuntimeContext, record: SandboxRecord): Promise<readonly ListedContainer[] | undefined> {
  const { monitor } = record;
  if (!monitor || processStartTicks(monitor.pid) !== monitor.startTicks) return undefined;
  let pidfd: Fd | undefined;
  let client: MonitorClient | undefined;
  try {
    pidfd = pidfdOpen(monitor.pid);
    client = await MonitorClient.connect(ctx.paths.monitorSocket(record.id));
    const { containers } = await answerOf(client, client.list());
    adoptMonitor(ctx, record.id, client, pidfd);
    return containers;
  } catch (err) {
    client?.close();
    pidfd?.close();
    const fields = { sandboxId: record.id, pid: monitor.pid, err: String(err) };
    ctx.log.warn(fields, "a monitor runs but does not answer, killing it and its containers");
    return undefined;
  }
}

/**
 * Containers of a sandbox that goes on and that no record knows, as after damage to a record: nobody
 * could ever stop them.
 */
async function endUnknownContainers(
  ctx: RuntimeContext,
  sandbox: SandboxRecord,
  listed: readonly ListedContainer[],
): Promise<void> {
  const isUnknown = (id: string) => isLongId(id) && id !== sandbox.id && !ctx.containers.get(id);
  const monitor = ctx.monitors.get(sandbox.id)?.client;
  const strays = listed.filter(({ containerId }) => isUnknown(containerId));
  // Of a container that was removed as a whole: the daemon ended before it told the monitor.
  const ended = strays.filter(({ state }) => state === "exited").map(({ containerId }) => containerId);
  const unknown = strays.filter(({ state }) => state !== "exited").map(({ containerId }) => containerId);
  const cgroups = (await childCgroups(ctx.cgroups, sandbox.cgroupPath)).filter(isUnknown);
  try {
    for (const containerId of unknown) await monitor?.kill({ containerId });
    for (const name of cgroups) await removeCgroup(ctx.cgroups, `${sandbox.cgroupPath}/${name}`);
    if (monitor) for (const containerId of [...ended, ...unknown]) await forgetKilled(monitor, containerId);
  } catch (err) {
    ctx.log.warn({ sandboxId: sandbox.id, err: String(err) }, "could not end a container that belongs to no record");
  }
  if (unknown.length > 0)
    ctx.log.error({ sandboxId: sandbox.id, unknown }, "killed containers that belong to no record");
}

async function recoverContainer(
  ctx: RuntimeContext,
  container: ContainerRecord,
  listed: readonly ListedContainer[],
): Promise<void> {
  if (container.state === "removing") return removeContainer(ctx, container.id);
  if (container.state === "exited") return;
  const seen = listed.find(({ containerId }) => containerId === container.id);
  if (seen?.exit) return recordExit(ctx, seen.exit);
  if (seen) {
    const running = { ...container, state: "running", pid: seen.pid, startedAtNs: seen.startedAtNs } as const;
    await ctx.containers.put(container.id, running, "remember");
    if (container.state !== "running") emitStarted(ctx, running);
    return;
  }
  const exit = await readExitFile(ctx, container.id);
  if (exit) return recordExit(ctx, exit);
  if (container.state === "running") return recordUnknownExit(ctx, container, "the monitor does not know it");
  // No request to start it has reached the monitor.
  if (await isWhole(ctx, container)) {
    if (container.state === "starting") ctx.containers.show(container.id, { ...container, state: "created" });
    return;
  }
  // Its caller never had an answer. Asked again, it would be given what cannot be started.
  ctx.log.info({ containerId: container.id }, "removing a container that was not made to its end");
  await removeContainer(ctx, container.id);
}

/** The cgroup is the last thing that CreateContainer makes. */
function isWhole(ctx: RuntimeContext, { cgroupPath }: ContainerRecord): Promise<boolean> {
  return isThere(cgroupDir(ctx.cgroups, cgroupPath));
}

/** Ends what is left of a sandbox that cannot go on; it stays, as stopped, until it is removed. */
async function endWithoutMonitor(ctx: RuntimeContext, record: SandboxRecord, reason: string): Promise<void> {
  await endStrayMonitor(ctx, record.id);
  for (const container of containersOf(ctx, record.id)) {
    if (container.state === "exited") continue;
    // That it ran was perhaps not recorded any more.
    const isBegun = container.state !== "created" || (await hasRun(ctx, container));
    if (isBegun) await recordUnknownExit(ctx, container, reason);
  }
  await ctx.network.teardown(record.id);
  await removeShm(ctx, record.id);
  await removeCgroup(ctx.cgroups, record.cgroupPath);
  const { monitor: _ended, network: _gone, ...rest } = record;
  await ctx.sandboxes.put(record.id, { ...rest, state: "stopped", reason }, "remember");
}

/** Kills whatever runs in a monitor's cgroup: only that sandbox's monitor ever does. */
async function endStrayMonitor(ctx: RuntimeContext, id: SandboxId): Promise<void> {
  const cgroup = `/${ctx.cgroups.root}/monitors/${id}`;
  await killCgroup(ctx.cgroups, cgroup);
  await removeCgroup(ctx.cgroups, cgroup);
  await rm(ctx.paths.monitorSocket(id), { force: true });
}

/** Cgroups, directories and sockets of sandboxes and containers that no record knows. */
async function removeOrphans(ctx: RuntimeContext): Promise<number> {
  let count = 0;
  const attempt = async (what: string, remove: () => Promise<void>) => {
    try {
      await remove();
      count++;
    } catch (err) {
      ctx.log.warn({ what, err: String(err) }, "could not remove what belongs to no record");
    }
  };
  const foreign = await foreignSandboxes(ctx);
  if (foreign.size > 0) {
    const fields = { cgroupRoot: ctx.cgroups.root, sandboxes: foreign.size };
    ctx.log.error(
      fields,
      "another daemon's sandboxes run below our cgroup-root, leaving them alone; give each daemon its own",
    );
  }
  for (const kind of ["monitors", "pods"]) {
    const parent = `/${ctx.cgroups.root}/${kind}`;
    for (const name of await childCgroups(ctx.cgroups, parent)) {
      if (!isLongId(name) || ctx.sandboxes.get(name) || foreign.has(name)) continue;
      await attempt(`cgroup ${parent}/${name}`, () => removeCgroup(ctx.cgroups, `${parent}/${name}`));
    }
  }
  for (const name of await entriesOf(ctx.paths.monitors)) {
    const socket = join(ctx.paths.monitors, name);
    if (!ctx.sandboxes.get(name.replace(/\.sock$/, ""))) await attempt(socket, () => rm(socket, { force: true }));
  }
  for (const id of await orphanedShm(ctx)) await attempt(ctx.paths.sandboxShm(id), () => removeShm(ctx, id));
  for (const [noun, store] of [
    ["sandboxes", ctx.sandboxes],
    ["containers", ctx.containers],
  ] as const) {
    const dir = join(ctx.paths.root, noun);
    for (const name of await entriesOf(dir)) {
      if (store.get(name)) continue;
      await attempt(join(dir, name), async () => {
        await removeRootfs(join(dir, name));
        await removeTree(join(dir, name));
      });
    }
  }
  return count;
}

/** Ids of sandboxes whose monitor listens in another daemon's run directory: theirs, not orphans of ours. */
async function foreignSandboxes(ctx: RuntimeContext): Promise<Set<string>> {
  const foreign = new Set<string>();
  // The kernel keeps the path of a bound socket, also where the file is gone (unix(7), /proc/net/unix).
  for (const line of (await readFile("/proc/net/unix", "utf8").catch(() => "")).split("\n")) {
    const [, directory, name] = /\s(\/\S*)\/([0-9a-f]{64})\.sock$/.exec(line) ?? [];
    if (directory === undefined || name === undefined || directory.startsWith("/proc/")) continue;
    if (directory !== ctx.paths.monitors) foreign.add(name);
  }
  const ids = await childCgroups(ctx.cgroups, `/${ctx.cgroups.root}/monitors`);
  return new Set(ids.filter((id) => foreign.has(id)));
}

async function entriesOf(dir: string): Promise<string[]> {
  return readdir(dir).catch((err: unknown) => {
    if (hasErrno(err, "ENOENT")) return [];
    throw err;
  });
}
