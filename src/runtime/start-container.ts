/**
 * StartContainer: the monitor makes the rootfs, the cgroup's process and the log from the bundle.
 */
import { join } from "node:path";
import { nowNs } from "../base/clock.js";
import type { ErrorCode } from "../base/error-codes.js";
import { RuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import type { ContainerId } from "../base/ids.js";
import type { StartParams } from "../monitor/protocol.js";
import type { ContainerRecord } from "../state/container.js";
import { cgroupDir, removeCgroup } from "./cgroups.js";
import { toCommandError } from "./command-error.js";
import { emitStarted, endWaits, exitFile } from "./container-exit.js";
import {
  describeContainer,
  requireContainer,
  requireMonitor,
  requireSandbox,
  type RuntimeContext,
  timelineOf,
} from "./context.js";
import { answerOf } from "./monitor-answer.js";
import { tellOfContainer } from "./nri-events.js";
import { handlerState, runtimeHandler } from "./runtime-handlers.js";

/** As a shell says it (POSIX sh, 2.8.2). */
const EXIT_CODES: { readonly [code in ErrorCode]?: number } = { COMMAND_NOT_FOUND: 127, COMMAND_NOT_EXECUTABLE: 126 };
/** Reading a large program from a slow disk is part of a start. */
const START_DEADLINE_MS = 60_000;
/** containerd's code of a container that never ran. */
const EXIT_CODE_START_FAILED = 128;

/** See `Runtime.startContainer`. */
export async function startContainer(ctx: RuntimeContext, id: ContainerId): Promise<void> {
  await ctx.inFlight.inTurn(`start ${id}`, async () => {
    const record = requireContainer(ctx, id);
    if (record.state !== "created") {
      throw new RuntimeError(
        `start container ${describeContainer(record)}: it is ${record.state}; a container is started once`,
        {
          kind: "failed-precondition",
          code: "CONTAINER_NOT_CREATED",
        },
      );
    }
    const monitor = requireMonitor(ctx, record.sandboxId);
    const { name } = record.config.metadata;
    await tellOfContainer(ctx, "StartContainer", id).catch((err: unknown) => {
      throw withContext(err, `start container ${describeContainer(record)}`);
    });
    await timelineOf(ctx, record.sandboxId).step(
      "start container",
      async () => {
        try {
          failpoint("record starting");
          // Whether it was started, its monitor tells the next daemon.
          ctx.containers.show(id, { ...record, state: "starting" });
          failpoint("monitor start");
          const started = await answerOf(monitor, monitor.start(startRequest(ctx, record)), START_DEADLINE_MS);
          failpoint("after monitor start");
          await recordStarted(ctx, id, started);
        } catch (err) {
          throw await recordStartFailure(ctx, record, err);
        }
      },
      name,
    );
    await tellOfContainer(ctx, "PostStartContainer", id);
  });
}

function startRequest(ctx: RuntimeContext, record: ContainerRecord): StartParams {
  const { config } = record;
  const dir = ctx.paths.container(record.id);
  const handler = runtimeHandler(ctx, requireSandbox(ctx, record.sandboxId).config.runtimeHandler);
  return {
    containerId: record.id,
    bundlePath: join(dir, "bundle"),
    exitFile: exitFile(ctx, record.id),
    cgroup: cgroupDir(ctx.cgroups, record.cgroupPath),
    overlay: {
      lower: ctx.images.lowerDirs(record.imageId),
      upper: join(dir, "upper"),
      work: join(dir, "work"),
      volatile: true,
      ...(ctx.sandboxes.get(record.sandboxId)?.idMaps && { idmapped: true }),
    },
    logPath: record.logPath === "" ? null : record.logPath,
    logMaxBytes: config.logMaxBytes,
    logMaxFiles: config.logMaxFiles,
    terminal: config.tty,
    stdin: config.stdin,
    stdinOnce: config.stdinOnce,
    ...(handler && {
      runtimeHandler: { path: handler.path, args: handler.args, stateDir: handlerState(ctx, record.id) },
    }),
  };
}

/** A short-lived process may have ended, and its exit been recorded, before this runs; then its start has been told. */
async function recordStarted(
  ctx: RuntimeContext,
  id: ContainerId,
  started: { pid: number; startedAtNs: string },
): Promise<void> {
  await ctx.inFlight.inTurn(`exit ${id}`, async () => {
    const current = ctx.containers.get(id);
    if (current?.state !== "starting") return;
    const running = { ...current, state: "running", pid: started.pid, startedAtNs: started.startedAtNs } as const;
    ctx.containers.show(id, running);
    emitStarted(ctx, running);
    failpoint("after record running");
    // It runs, whether or not that is written: nobody waits for it, and it is written after the answer.
    ctx.containers.save(id).catch((err: unknown) => {
      const fields = { sandboxId: current.sandboxId, containerId: id, err: String(err) };
      ctx.log.error(fields, "could not record that a container runs, which its monitor knows");
    });
  });
}

async function recordStartFailure(ctx: RuntimeContext, record: ContainerRecord, err: unknown): Promise<RuntimeError> {
  const failure = withContext(toCommandError(err), `start container ${describeContainer(record)}`);
  const exitCode = EXIT_CODES[failure.code] ?? EXIT_CODE_START_FAILED;
  const cause = { containerId: record.id, sandboxId: record.sandboxId };
  // Where it was the answer that failed, the container may run, or be started later by a monitor that hangs now.
  await kill(ctx, record).catch((undo: unknown) => {
    ctx.log.warn(
      { ...cause, err: String(undo) },
      "could not kill a container whose start failed, leaving it to Remove",
    );
  });
  await ctx.inFlight.inTurn(`exit ${record.id}`, async () => {
    const startError = { reason: "StartError", message: failure.message, exitCode };
    const exited = { ...record, state: "exited", startedAtNs: nowNs().toString(), startError } as const;
    await ctx.containers.put(record.id, exited, "remember");
  });
  endWaits(ctx, record.id);
  return failure;
}

async function kill(ctx: RuntimeContext, record: ContainerRecord): Promise<void> {
  const monitor = ctx.monitors.get(record.sandboxId)?.client;
  if (monitor && !monitor.isClosed) {
    // A container that the monitor does not know was never started.
    monitor.kill({ containerId: record.id }).catch((err: unknown) => {
      ctx.log.debug(
        { containerId: record.id, err: String(err) },
        "a container whose start failed was not there to be killed",
      );
    });
  }
  await removeCgroup(ctx.cgroups, record.cgroupPath);
}
