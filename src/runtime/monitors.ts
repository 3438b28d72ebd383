/**
 * The daemon's side of the sandboxes' monitors: listening to one, losing one, ending one.
 */
import { rm } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { hasErrno } from "../base/errors.js";
import type { SandboxId } from "../base/ids.js";
import type { MonitorClient } from "../monitor/monitor-client.js";
import type { Fd } from "../native/fd.js";
import { pidfdHasExited, pidfdSendSignal, reapChild } from "../native/index.js";
import { monitorCgroup, removeCgroup } from "./cgroups.js";
import { recordExit, recordUnknownExit } from "./container-exit.js";
import { containersOf, emit, type RuntimeContext } from "./context.js";

const SIGKILL = 9;
/** How long a monitor that was asked to end may take. */
const SHUTDOWN_DEADLINE_MS = 2_000;

/** Takes a monitor's connection over: its exits are recorded from now on, and so is its own end. */
export function adoptMonitor(ctx: RuntimeContext, id: SandboxId, client: MonitorClient, pidfd: Fd): void {
  ctx.monitors.set(id, { client, pidfd });
  client.onExit((exit) => {
    recordExit(ctx, exit).catch((err: unknown) => {
      ctx.log.error(
        { sandboxId: id, containerId: exit.containerId, err: String(err) },
        "could not record an exit; the exit file has it",
      );
    });
  });
  client.onClose((reason) => {
    // Without a reason it was our doing.
    if (reason === undefined || ctx.monitors.get(id)?.client !== client) return;
    ctx.inFlight
      .inTurn(`sandbox ${id}`, () => loseMonitor(ctx, id, reason))
      .catch((err: unknown) => {
        ctx.log.error(
          { sandboxId: id, err: String(err) },
          "could not clean up after a lost monitor; StopPodSandbox will",
        );
      });
  });
}

/**
 * A monitor that died takes the parent of its containers with it: nobody would see them end and
 * nobody writes their logs. They are killed and reported as what they are: ended, code unknown.
 */
async function loseMonitor(ctx: RuntimeContext, id: SandboxId, cause: Error): Promise<void> {
  ctx.log.error({ sandboxId: id, err: cause.message }, "the monitor of a sandbox died; killing its containers");
  await endMonitor(ctx, id);
  const reason = "the sandbox's monitor died";
  for (const container of containersOf(ctx, id)) {
    if (container.state === "running" || container.state === "starting")
      await recordUnknownExit(ctx, container, reason);
  }
  const sandbox = ctx.sandboxes.get(id);
  if (sandbox?.state !== "ready") return;
  await ctx.network.teardown(id);
  await removeCgroup(ctx.cgroups, sandbox.cgroupPath);
  await ctx.sandboxes.put(id, { ...sandbox, state: "stopped", reason });
  emit(ctx, { type: "sandbox-stopped", sandboxId: id, owner: sandbox.config.owner });
}

/**
 * Ends a monitor for good: asked where it answers, killed where it does not. Removes its socket
 * and its cgroup. Ending one that is gone succeeds.
 *
 * @param pidfd of a monitor that has not been adopted yet
 */
export async function endMonitor(ctx: RuntimeContext, id: SandboxId, pidfd?: Fd): Promise<void> {
  const handle = ctx.monitors.get(id);
  ctx.monitors.delete(id);
  const process = handle?.pidfd ?? pidfd;
  if (handle) {
    // A stopped or hung monitor does not answer, and is killed below.
    await Promise.race([
      handle.client.shutdown().catch(() => undefined),
      sleep(SHUTDOWN_DEADLINE_MS, undefined, { ref: false }),
    ]);
    handle.client.close();
  }
  if (process) {
    try {
      if (!handle) kill(process);
      await waitForEnd(process);
    } finally {
      process.close();
    }
  }
  await removeCgroup(ctx.cgroups, monitorCgroup(ctx.cgroups, id));
  await rm(ctx.paths.monitorSocket(id), { force: true });
}

/** Waits until the process has ended, killing it where it takes long, and reaps it where it is our child. */
async function waitForEnd(pidfd: Fd): Promise<void> {
  for (let waitedMs = 0, stepMs = 1; !pidfdHasExited(pidfd); waitedMs += stepMs, stepMs = Math.min(stepMs * 2, 50)) {
    if (waitedMs > SHUTDOWN_DEADLINE_MS) kill(pidfd);
    await sleep(stepMs);
  }
  try {
    reapChild(pidfd);
  } catch (err) {
    // Started by an earlier daemon: its parent is init now.
    if (!hasErrno(err, "ECHILD")) throw err;
  }
}

function kill(pidfd: Fd): void {
  try {
    pidfdSendSignal(pidfd, SIGKILL);
  } catch (err) {
    if (!hasErrno(err, "ESRCH")) throw err;
  }
}
