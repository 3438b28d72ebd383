/**
 * The daemon's side of the sandboxes' monitors: listening to one, losing one, ending one.
 */
import { hasErrno, type RuntimeError, toRuntimeError } from "../base/errors.js";
import type { SandboxId } from "../base/ids.js";
import type { MonitorClient } from "../monitor/monitor-client.js";
import type { Fd } from "../native/fd.js";
import {
  type FileStep,
  pidfdHasExited,
  pidfdSendSignal,
  reapChild,
  runFileSteps,
  tryFileSteps,
  waitForProcess,
} from "../native/index.js";
import type { ExitRecord } from "../state/container.js";
import { cgroupDir, monitorCgroup, removeCgroup } from "./cgroups.js";
import { recordExit, recordUnknownExit } from "./container-exit.js";
import { containersOf, emit, type RuntimeContext } from "./context.js";
import { answerOf } from "./monitor-answer.js";

const SIGKILL = 9;
/** How long a monitor that was asked to end may take. */
const SHUTDOWN_DEADLINE_MS = 2_000;
/** Between two kills of one that does not end. */
const KILL_INTERVAL_MS = 50;
const EXIT_RETRY_MS = 1_000;

/** Takes a monitor's connection over: its exits are recorded from now on, and so is its own end. */
export function adoptMonitor(ctx: RuntimeContext, id: SandboxId, client: MonitorClient, pidfd: Fd): void {
  ctx.monitors.set(id, { client, pidfd });
  client.onExit((exit, isCgroupGone) => {
    // Of one without a record nobody would ask, and nobody would forget it.
    if (isCgroupGone && ctx.containers.get(exit.containerId)) ctx.goneCgroups.add(exit.containerId);
    takeExit(ctx, id, client, exit);
  });
  client.onClose((reason) => {
    // Without a reason it was our doing.
    if (reason === undefined || ctx.monitors.get(id)?.client !== client) return;
    void ctx.inFlight.inTurn(`sandbox ${id}`, () => loseMonitor(ctx, id, toRuntimeError(reason)));
  });
}

function takeExit(ctx: RuntimeContext, id: SandboxId, client: MonitorClient, exit: ExitRecord): void {
  recordExit(ctx, exit).catch((err: unknown) => {
    if (ctx.monitors.get(id)?.client !== client) return;
    const fields = { sandboxId: id, containerId: exit.containerId, err: String(err) };
    ctx.log.error(fields, "could not record an exit, which the exit file has; retrying in 1 s");
    setTimeout(() => takeExit(ctx, id, client, exit), EXIT_RETRY_MS).unref();
  });
}

/**
 * A monitor that died, or hangs and is killed here, takes the parent of its containers with it:
 * nobody would see them end and nobody writes their logs. They are killed and reported as what
 * they are: ended, code unknown. Every part is tried, so that the sandbox is never shown as ready;
 * what a part leaves behind, RemovePodSandbox removes.
 */
export function loseMonitor(ctx: RuntimeContext, id: SandboxId, cause: RuntimeError): Promise<void> {
  return ctx.inFlight.join(`lose monitor ${id}`, async () => {
    const isHung = cause.code === "MONITOR_HUNG";
    const reason = isHung ? `${cause.message}; it was killed` : "the sandbox's monitor died";
    ctx.log.error(
      { sandboxId: id, code: cause.code, err: cause.message },
      "a sandbox lost its monitor, killing its containers",
    );
    const attempt = async (step: string, work: () => Promise<void>) => {
      try {
        await work();
      } catch (err) {
        const { kind, code, message } = toRuntimeError(err);
        ctx.log.error(
          { sandboxId: id, step, kind, code, err: message },
          "could not clean up after a lost monitor, leaving it to RemovePodSandbox",
        );
      }
    };
    const sandbox = ctx.sandboxes.get(id);
    const isReady = sandbox?.state === "ready";
    // Before its containers are seen to have ended: nobody shall start another one in it.
    if (isReady) {
      await attempt("record stopping", () =>
        ctx.sandboxes.put(id, { ...sandbox, state: "stopping", reason }, "remember"),
      );
    }
    await attempt("end monitor", () => endMonitor(ctx, id, { kill: isHung }));
    for (const container of containersOf(ctx, id)) {
      if (container.state !== "running" && container.state !== "starting") continue;
      await attempt("record exit", () => recordUnknownExit(ctx, container, reason));
    }
    if (!isReady) return;
    await attempt("tear network down", () => ctx.network.teardown(id));
    await attempt("remove sandbox cgroup", () => removeCgroup(ctx.cgroups, sandbox.cgroupPath));
    const { network: _gone, monitor: _ended, ...rest } = sandbox;
    await attempt("record stopped", () => ctx.sandboxes.put(id, { ...rest, state: "stopped", reason }, "remember"));
    emit(ctx, { type: "sandbox-stopped", sandboxId: id, owner: sandbox.config.owner });
  });
}

/** Of `endMonitor`: the pidfd of a monitor that has not been adopted yet; `kill`: it is known not to answer. */
export interface EndMonitorOptions {
  readonly pidfd?: Fd | undefined;
  readonly kill?: boolean | undefined;
}

/**
 * Ends a monitor for good: asked where it answers, killed where it does not. Removes its socket
 * and its cgroup. Ending one that is gone succeeds.
 */
export async function endMonitor(ctx: RuntimeContext, id: SandboxId, options: EndMonitorOptions = {}): Promise<void> {
  await endProcess(ctx, id, options);
  await removeTraces(ctx, id);
}

/**
 * Removes a monitor's socket and its cgroup, and with them, at the price of one, what `others` remove.
 *
 * @throws RuntimeError what one of the others was refused with; those behind it were not tried
 */
export async function removeTraces(
  ctx: RuntimeContext,
  id: SandboxId,
  others: readonly FileStep[] = [],
): Promise<void> {
  const cgroup = monitorCgroup(ctx.cgroups, id);
  const own: FileStep[] = [
    { remove: "file", path: ctx.paths.monitorSocket(id) },
    { remove: "cgroup", path: cgroupDir(ctx.cgroups, cgroup) },
  ];
  const { error, failed = -1 } = await tryFileSteps([...own, ...others]);
  if (error === undefined) return;
  if (failed !== 1 || !hasErrno(error, "EBUSY")) throw error;
  await removeCgroup(ctx.cgroups, cgroup);
  await runFileSteps(others);
}

/** As `endMonitor`; leaves what `removeTraces` removes. */
export async function endProcess(ctx: RuntimeContext, id: SandboxId, options: EndMonitorOptions = {}): Promise<void> {
  const handle = ctx.monitors.get(id);
  ctx.monitors.delete(id);
  const process = handle?.pidfd ?? options.pidfd;
  if (handle) {
    // A stopped or hung monitor does not answer, and is killed below.
    const isEnding = options.kill !== true && (await hasAgreedToEnd(handle.client));
    handle.client.close();
    if (!isEnding) kill(handle.pidfd);
  }
  if (process) {
    try {
      if (!handle) kill(process);
      await waitForEnd(process);
    } finally {
      process.close();
    }
  }
}

async function hasAgreedToEnd(client: MonitorClient): Promise<boolean> {
  try {
    await answerOf(client, client.shutdown(), SHUTDOWN_DEADLINE_MS);
    return true;
  } catch {
    return false;
  }
}

/** Waits until the process has ended, killing it where it takes long, and reaps it where it is our child. */
async function waitForEnd(pidfd: Fd): Promise<void> {
  let deadlineMs = SHUTDOWN_DEADLINE_MS;
  while (!pidfdHasExited(pidfd) && !(await waitForProcess(pidfd, deadlineMs))) {
    kill(pidfd);
    deadlineMs = KILL_INTERVAL_MS;
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
