/**
 * RemovePodSandbox: stops it, removes its containers, and every trace of it. Idempotent.
 */
import { withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import type { SandboxId } from "../base/ids.js";
import { settleAll } from "../base/settle.js";
import { removeCgroup } from "./cgroups.js";
import { containersOf, describeSandbox, emit, type RuntimeContext } from "./context.js";
import { endMonitor } from "./monitors.js";
import { tellOfSandbox } from "./nri-events.js";
import { removeContainer } from "./remove-container.js";
import { removeShm } from "./shm.js";
import { stopSandbox } from "./stop-sandbox.js";

/** See `Runtime.removeSandbox`. */
export async function removeSandbox(ctx: RuntimeContext, id: SandboxId): Promise<void> {
  await stopSandbox(ctx, id);
  await ctx.inFlight.inTurn(`sandbox ${id}`, async () => {
    const record = ctx.sandboxes.get(id);
    if (!record) return;
    // A stop writes this last. One with a reason was stopped otherwise, and parts of that may have failed.
    const isDown = record.state === "stopped" && record.reason === undefined;
    try {
      ctx.sandboxes.show(id, { ...record, state: "removing" });
      failpoint("remove containers");
      await settleAll([
        ctx.network.teardown(id),
        ...containersOf(ctx, id).map((container) => removeContainer(ctx, container.id)),
      ]);
      if (!isDown) {
        await endMonitor(ctx, id);
        await removeShm(ctx, id);
        await removeCgroup(ctx.cgroups, record.cgroupPath);
      }
      failpoint("remove sandbox record");
      failpoint("network gone");
      await ctx.sandboxes.removeWith(id, async (removeFileAnd) => {
        const files = removeFileAnd([{ remove: "tree", path: ctx.paths.sandbox(id) }]);
        // Gone means gone: the kernel has deleted the link, and the lease is free.
        const [refused] = await settleAll([files, ctx.network.gone(id)]);
        if (refused) throw refused.error;
      });
      failpoint("after remove sandbox");
    } catch (err) {
      throw withContext(err, `remove sandbox ${describeSandbox(record)}`);
    }
    ctx.timelines.delete(id);
    await tellOfSandbox(ctx, "RemovePodSandbox", record);
    emit(ctx, { type: "sandbox-removed", sandboxId: id, owner: record.config.owner });
  });
}
