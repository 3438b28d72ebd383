/**
 * RemoveContainer: kills it where it still runs, then removes its cgroup, its record, and its layer and bundle. Idempotent.
 */
import { hasErrno, toRuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import type { ContainerId } from "../base/ids.js";
import { settleAll } from "../base/settle.js";
import { removeTree } from "../native/index.js";
import type { ContainerRecord } from "../state/container.js";
import { removeCgroup } from "./cgroups.js";
import { describeContainer, emit, type RuntimeContext } from "./context.js";
import { answerOf } from "./monitor-answer.js";
import { tellOfRemoval } from "./nri-events.js";
import { removeRootfs } from "./runtime-handlers.js";
import { stopContainer } from "./stop-container.js";

/** See `Runtime.removeContainer`. */
export async function removeContainer(ctx: RuntimeContext, id: ContainerId): Promise<void> {
  await ctx.inFlight.join(`remove container ${id}`, async () => {
    await stopContainer(ctx, id, 0);
    const record = ctx.containers.get(id);
    if (!record) return;
    const tell = await tellOfRemoval(ctx, record);
    try {
      ctx.containers.show(id, { ...record, state: "removing" });
      failpoint("remove container cgroup");
      failpoint("forget container");
      await settleAll([removeCgroup(ctx.cgroups, record.cgroupPath), forget(ctx, record)]);
      failpoint("remove container record");
      await ctx.containers.removeWith(id, async () => {
        failpoint("remove container files");
        await removeFiles(ctx.paths.container(id));
      });
      failpoint("after remove container");
    } catch (err) {
      throw withContext(err, `remove container ${describeContainer(record)}`);
    }
    ctx.exits.delete(id);
    ctx.processes.delete(id);
    await tell();
    emit(ctx, { type: "container-removed", sandboxId: record.sandboxId, containerId: id, owner: record.config.owner });
  });
}

/** Of another handler's container the rootfs may still be mounted there. */
async function removeFiles(dir: string): Promise<void> {
  try {
    await removeTree(dir);
  } catch (err) {
    if (!hasErrno(err, "EBUSY")) throw err;
    await removeRootfs(dir);
    await removeTree(dir);
  }
}

/** A monitor that is gone, or never knew the container, has nothing to forget; one that hangs forgets when it ends. */
async function forget(ctx: RuntimeContext, record: ContainerRecord): Promise<void> {
  const monitor = ctx.monitors.get(record.sandboxId)?.client;
  if (!monitor) return;
  try {
    await answerOf(monitor, monitor.forget({ containerId: record.id }));
  } catch (err) {
    const { code, message } = toRuntimeError(err);
    if (code === "CONTAINER_RUNNING") throw err;
    ctx.log.debug({ containerId: record.id, code, err: message }, "the monitor did not forget a container, going on");
  }
}
