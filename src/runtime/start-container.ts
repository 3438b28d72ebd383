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
import { exitFile } from "./container-exit.js";
import {
  describeContainer,
  emit,
  requireContainer,
  requireMonitor,
  type RuntimeContext,
  timelineOf,
} from "./context.js";

/** As a shell says it (POSIX sh, 2.8.2). */
const EXIT_CODES: { readonly [code in ErrorCode]?: number } = { COMMAND_NOT_FOUND: 127, COMMAND_NOT_EXECUTABLE: 126 };
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
    await timelineOf(ctx, record.sandboxId).step(
      "start container",
      async () => {
        await ctx.containers.put(id, { ...record, state: "starting" });
        try {
          failpoint("monitor start");
          const started = await monitor.start(startRequest(ctx, record));
          failpoint("after monitor start");
          await recordStarted(ctx, id, started);
        } catch (err) {
          throw await recordStartFailure(ctx, record, err);
        }
      },
      name,
    );
    emit(ctx, { type: "container-started", sandboxId: record.sandboxId, containerId: id, owner: record.config.owner });
  });
}

function startRequest(ctx: RuntimeContext, record: ContainerRecord): StartParams {
  const { config } = record;
  const dir = ctx.paths.container(record.id);
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
    },
    logPath: record.logPath === "" ? null : record.logPath,
    logMaxBytes: config.logMaxBytes,
    logMaxFiles: config.logMaxFiles,
    terminal: config.tty,
    stdin: config.stdin,
    stdinOnce: config.stdinOnce,
  };
}

/** A short-lived process may have ended, and its exit been recorded, before this runs. */
async function recordStarted(
  ctx: RuntimeContext,
  id: ContainerId,
  started: { pid: number; startedAtNs: string },
): Promise<void> {
  await ctx.inFlight.inTurn(`exit ${id}`, async () => {
    const current = ctx.containers.get(id);
    if (current?.state !== "starting") return;
    await ctx.containers.put(id, { ...current, state: "running", pid: started.pid, startedAtNs: started.startedAtNs });
  });
}

async function recordStartFailure(ctx: RuntimeContext, record: ContainerRecord, err: unknown): Promise<RuntimeError> {
  const failure = withContext(toCommandError(err), `start container ${describeContainer(record)}`);
  const exitCode = EXIT_CODES[failure.code] ?? EXIT_CODE_START_FAILED;
  await removeCgroup(ctx.cgroups, record.cgroupPath).catch(() => undefined);
  await ctx.containers.put(record.id, {
    ...record,
    state: "exited",
    startedAtNs: nowNs().toString(),
    startError: { reason: "StartError", message: failure.message, exitCode },
  });
  return failure;
}
