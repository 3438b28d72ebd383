/**
 * StopContainer: the stop signal, a grace period that the monitor keeps, then SIGKILL of the whole cgroup.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError, withContext } from "../base/errors.js";
import type { ContainerId } from "../base/ids.js";
import type { ContainerRecord } from "../state/container.js";
import { killCgroup } from "./cgroups.js";
import { recordUnknownExit, waitForExit } from "./container-exit.js";
import { describeContainer, type RuntimeContext } from "./context.js";
import { signalNumber } from "./signals.js";

/** How long killed processes may take to end before Stop gives up and says so. */
const KILL_DEADLINE_MS = 10_000;

/** See `Runtime.stopContainer`. */
export async function stopContainer(ctx: RuntimeContext, id: ContainerId, graceMs: number): Promise<void> {
  const record = ctx.containers.get(id);
  if (!record || (record.state !== "running" && record.state !== "starting")) return;
  try {
    const monitor = ctx.monitors.get(record.sandboxId)?.client;
    if (!monitor) {
      await recordUnknownExit(ctx, record, "the sandbox's monitor was gone");
      return;
    }
    const exited = waitForExit(ctx, id);
    if (graceMs > 0) await monitor.stop({ containerId: id, signal: signalNumber(record.stopSignal), graceMs });
    else await monitor.kill({ containerId: id });
    await withinDeadline(ctx, record, exited, graceMs + KILL_DEADLINE_MS);
  } catch (err) {
    if (ctx.containers.get(id)?.state === "exited") return;
    throw withContext(err, `stop container ${describeContainer(record)}`);
  }
}

async function withinDeadline(
  ctx: RuntimeContext,
  record: ContainerRecord,
  exited: Promise<unknown>,
  deadlineMs: number,
): Promise<void> {
  const abort = new AbortController();
  const timeOut = sleep(deadlineMs, "late" as const, { signal: abort.signal }).catch(() => "stopped" as const);
  const outcome = await Promise.race([exited.then(() => "exited" as const), timeOut]);
  abort.abort();
  if (outcome !== "late") return;
  await killCgroup(ctx.cgroups, record.cgroupPath);
  throw new RuntimeError("its processes outlive SIGKILL, most likely in uninterruptible sleep (state D in ps)", {
    kind: "deadline-exceeded",
    code: "CONTAINER_STOP_TIMEOUT",
  });
}
