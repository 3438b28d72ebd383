/**
 * What follows from a container's end: the record, the cgroup, the event. The exit file was
 * written before anyone was told; where nobody could write one, the end is recorded as unknown.
 */
import { access, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { nowNs } from "../base/clock.js";
import { failpoint } from "../base/failpoints.js";
import type { ContainerId, SandboxId } from "../base/ids.js";
import type { ContainerRecord, ExitRecord } from "../state/container.js";
import { removeCgroup } from "./cgroups.js";
import { containersOf, deferred, emit, type RuntimeContext } from "./context.js";
import { removeRootfs } from "./runtime-handlers.js";

const UNKNOWN_EXIT_CODE = 255;
const EXIT_FILE_RETRY_MS = 1_000;

export function exitFile(ctx: RuntimeContext, id: ContainerId): string {
  return join(ctx.paths.container(id), "exit.json");
}

/** Applies an exit once; further reports of the same end change nothing. */
export async function recordExit(ctx: RuntimeContext, exit: ExitRecord): Promise<void> {
  await ctx.inFlight.inTurn(`exit ${exit.containerId}`, async () => {
    const record = ctx.containers.get(exit.containerId);
    if (!record || record.state === "exited" || record.state === "removing") return;
    // What outlives the first process (a shared or host PID namespace) is not a running container.
    await removeOwnCgroup(ctx, record).catch((err: unknown) => {
      ctx.log.warn(
        { containerId: record.id, err: String(err) },
        "an exited container's cgroup is still busy, leaving it to RemoveContainer",
      );
    });
    ctx.exits.set(record.id, exit);
    ctx.processes.delete(record.id);
    failpoint("record exit");
    // It ended before the answer to its start was seen, here or by an earlier daemon: a start comes before an end.
    if (record.state !== "running" && exit.unknown === undefined) emitStarted(ctx, record);
    const exited = { ...record, state: "exited", startedAtNs: record.startedAtNs ?? exit.startedAtNs } as const;
    ctx.containers.show(record.id, exited);
    // Nobody waits for it: the exit file says the same to the next daemon.
    ctx.containers.save(record.id).catch((err: unknown) => {
      const fields = { sandboxId: record.sandboxId, containerId: record.id, err: String(err) };
      ctx.log.error(fields, "could not record that a container has ended, which its exit file says");
    });
    failpoint("after record exit");
    emit(ctx, {
      type: "container-exited",
      sandboxId: record.sandboxId,
      containerId: record.id,
      owner: record.config.owner,
      exit,
    });
    endWaits(ctx, record.id);
  });
}

/** Of a container that has ended, or is not to be. */
export async function removeOwnCgroup(ctx: RuntimeContext, { id, cgroupPath }: ContainerRecord): Promise<void> {
  if (ctx.goneCgroups.has(id)) return;
  await removeCgroup(ctx.cgroups, cgroupPath);
  ctx.goneCgroups.add(id);
}

/** Told once: by the start, or by an end that overtook it. */
export function emitStarted(ctx: RuntimeContext, { id, sandboxId, config }: ContainerRecord): void {
  emit(ctx, { type: "container-started", sandboxId, containerId: id, owner: config.owner });
}

/** Wakes those who wait for the container's end: it has ended, or never began. */
export function endWaits(ctx: RuntimeContext, id: ContainerId): void {
  ctx.exitWaiters.get(id)?.resolve();
  ctx.exitWaiters.delete(id);
}

/** Ends a container whose end nobody saw; an exit file that is there after all is believed. */
export async function recordUnknownExit(ctx: RuntimeContext, record: ContainerRecord, why: string): Promise<void> {
  await removeCgroup(ctx.cgroups, record.cgroupPath);
  await removeRootfs(ctx.paths.container(record.id));
  const known = await readExitFile(ctx, record.id);
  if (known) return recordExit(ctx, known);
  const now = nowNs().toString();
  const exit: ExitRecord = {
    version: 1,
    containerId: record.id,
    exitCode: UNKNOWN_EXIT_CODE,
    signal: 0,
    oomKilled: false,
    startedAtNs: record.startedAtNs ?? now,
    finishedAtNs: now,
    unknown: why,
  };
  await writeExitFile(ctx, exit);
  await recordExit(ctx, exit);
}

/**
 * Takes exits over from a monitor that is about to end and could not write them on a full disk;
 * it would have tried until it could.
 */
export async function keepExits(ctx: RuntimeContext, sandboxId: SandboxId): Promise<void> {
  await Promise.all(
    containersOf(ctx, sandboxId).map(async ({ id }) => {
      const exit = ctx.exits.get(id);
      // It appears by rename, whole: whether it is there is enough to know.
      if (exit && !(await isThere(exitFile(ctx, id)))) await writeExitFile(ctx, exit);
    }),
  );
}

export function isThere(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

/** Tries again until it is written, or the container is removed. */
async function writeExitFile(ctx: RuntimeContext, exit: ExitRecord): Promise<void> {
  const file = exitFile(ctx, exit.containerId);
  try {
    await writeFile(`${file}.new`, `${JSON.stringify(exit)}\n`, { mode: 0o600 });
    await rename(`${file}.new`, file);
  } catch (err) {
    const state = ctx.containers.get(exit.containerId)?.state;
    if (state === undefined || state === "removing") return;
    ctx.log.warn({ containerId: exit.containerId, err: String(err) }, "could not write an exit file, retrying in 1 s");
    setTimeout(() => void writeExitFile(ctx, exit), EXIT_FILE_RETRY_MS).unref();
  }
}

/** The exit that a monitor wrote, or `undefined` where there is none that can be read. */
export async function readExitFile(ctx: RuntimeContext, id: ContainerId): Promise<ExitRecord | undefined> {
  try {
    const exit: unknown = JSON.parse(await readFile(exitFile(ctx, id), "utf8"));
    return isExitRecord(exit) && exit.containerId === id ? exit : undefined;
  } catch {
    return undefined;
  }
}

function isExitRecord(value: unknown): value is ExitRecord {
  return (
    typeof value === "object" &&
    value !== null &&
    "exitCode" in value &&
    typeof value.exitCode === "number" &&
    "containerId" in value &&
    "finishedAtNs" in value
  );
}

/** Settles once a container that runs, or is being started, no longer does. */
export function waitForExit(ctx: RuntimeContext, id: ContainerId): Promise<void> {
  if (ctx.exits.has(id)) return Promise.resolve();
  const waiter = ctx.exitWaiters.get(id) ?? deferred<void>();
  ctx.exitWaiters.set(id, waiter);
  return waiter.promise;
}
