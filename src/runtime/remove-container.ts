/**
 * RemoveContainer: kills it where it still runs, then removes its cgroup, its record, and its layer and bundle. Idempotent.
 */
import { hasErrno, type RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import type { ContainerId } from "../base/ids.js";
import { removeTree } from "../native/index.js";
import type { ContainerRecord } from "../state/container.js";
import { removeOwnCgroup } from "./container-exit.js";
import { describeContainer, emit, type RuntimeContext } from "./context.js";
import { tellOfRemoval } from "./nri-events.js";
import { removeRootfs } from "./runtime-handlers.js";
import { stopContainer } from "./stop-container.js";

const FORGET_AFTER_MS = 1_000;

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
      await removeOwnCgroup(ctx, record);
      failpoint("forget container");
      forgetSoon(ctx, record);
      failpoint("remove container record");
      await ctx.containers.removeWith(id, async (removeFileAnd) => {
        const dir = ctx.paths.container(id);
        const refused = await removeFileAnd([{ remove: "tree", path: dir }]);
        if (refused) await removeMounted(dir, refused.error);
      });
      failpoint("after remove container");
    } catch (err) {
      throw withContext(err, `remove container ${describeContainer(record)}`);
    }
    ctx.exits.delete(id);
    ctx.processes.delete(id);
    ctx.goneCgroups.delete(id);
    await tell();
    emit(ctx, { type: "container-removed", sandboxId: record.sandboxId, containerId: id, owner: record.config.owner });
  });
}

/** Of another handler's container the rootfs may still be mounted there. */
async function removeMounted(dir: string, refusal: RuntimeError): Promise<void> {
  if (!hasErrno(refusal, "EBUSY")) throw refusal;
  await removeRootfs(dir);
  await removeTree(dir);
}

/**
 * Tells the monitor, not at once: mostly it is ended within a few ms. A monitor that is gone, or never knew the
 * container, has nothing to forget; one that hangs forgets when it ends.
 */
function forgetSoon(ctx: RuntimeContext, { id, sandboxId }: ContainerRecord): void {
  setTimeout(() => {
    const monitor = ctx.monitors.get(sandboxId)?.client;
    monitor?.forget({ containerId: id }).catch((err: unknown) => {
      const { code, message } = toRuntimeError(err);
      ctx.log.debug({ containerId: id, code, err: message }, "the monitor did not forget a container, going on");
    });
  }, FORGET_AFTER_MS).unref();
}
