/**
 * StopContainer: the stop signal, a grace period that the monitor keeps, then SIGKILL of the whole cgroup.
 */
import { orLate } from "../base/deadline.js";
import { RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import type { ContainerId } from "../base/ids.js";
import type { MonitorClient } from "../monitor/monitor-client.js";
import type { ContainerRecord } from "../state/container.js";
import { cgroupDir, killCgroup } from "./cgroups.js";
import { recordUnknownExit, waitForExit } from "./container-exit.js";
import { describeContainer, type RuntimeContext } from "./context.js";
import { ANSWER_DEADLINE_MS, answerOf } from "./monitor-answer.js";
import { loseMonitor } from "./monitors.js";
import { exitIsTold } from "./nri-events.js";
import { survivorsInWords } from "./proc.js";
import { signalNumber } from "./signals.js";

/** How long killed processes may take to end before Stop gives up and says so. */
const KILL_DEADLINE_MS = 10_000;
/** Who asks for a kill does not want to wait. */
const KILL_ANSWER_DEADLINE_MS = 2_000;

/** See `Runtime.stopContainer`. */
export async function stopContainer(ctx: RuntimeContext, id: ContainerId, graceMs: number): Promise<void> {
  const record = ctx.containers.get(id);
  if (record?.state === "running" || record?.state === "starting") await end(ctx, record, graceMs);
  await exitIsTold(ctx, id);
}

async function end(ctx: RuntimeContext, record: ContainerRecord, graceMs: number): Promise<void> {
  try {
    const monitor = ctx.monitors.get(record.sandboxId)?.client;
    if (!monitor) {
      await recordUnknownExit(ctx, record, "the sandbox's monitor was gone");
      return;
    }
    failpoint("stop container");
    await stopByMonitor(ctx, record, monitor, graceMs);
  } catch (err) {
    if (ctx.containers.get(record.id)?.state === "exited") return;
    throw withContext(err, `stop container ${describeContainer(record)}`);
  }
}

/** A monitor that hangs cannot see the end of its containers: it is killed, and they with it. */
async function stopByMonitor(
  ctx: RuntimeContext,
  record: ContainerRecord,
  monitor: MonitorClient,
  graceMs: number,
): Promise<void> {
  const containerId = record.id;
  const exited = waitForExit(ctx, containerId);
  try {
    if (graceMs > 0) {
      const asked = monitor.stop({ containerId, signal: signalNumber(record.stopSignal), graceMs });
      await answerOf(monitor, asked, Math.max(graceMs, ANSWER_DEADLINE_MS));
    } else {
      await answerOf(monitor, monitor.kill({ containerId }), KILL_ANSWER_DEADLINE_MS);
    }
    await withinDeadline(ctx, record, monitor, exited, graceMs + KILL_DEADLINE_MS);
  } catch (err) {
    if (toRuntimeError(err).code !== "MONITOR_HUNG") throw err;
    await loseMonitor(ctx, record.sandboxId, toRuntimeError(err));
  }
}

async function withinDeadline(
  ctx: RuntimeContext,
  record: ContainerRecord,
  monitor: MonitorClient,
  exited: Promise<unknown>,
  deadlineMs: number,
): Promise<void> {
  if ((await orLate(exited, deadlineMs)) !== "late") return;
  await killCgroup(ctx.cgroups, record.cgroupPath);
  await answerOf(monitor, monitor.list(), KILL_ANSWER_DEADLINE_MS);
  const survivors = await survivorsInWords(cgroupDir(ctx.cgroups, record.cgroupPath));
  throw new RuntimeError(`its processes outlive SIGKILL: ${survivors}`, {
    kind: "deadline-exceeded",
    code: "CONTAINER_STOP_TIMEOUT",
  });
}
