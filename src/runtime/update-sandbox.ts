/**
 * UpdatePodSandboxResources: NRI's plugins are asked, and what they do not refuse is on record. The pod's own
 * cgroup is the caller's, who has written its limits before.
 */
import { withContext } from "../base/errors.js";
import type { SandboxId } from "../base/ids.js";
import type { ContainerResources } from "../state/container.js";
import { describeSandbox, requireSandbox, type RuntimeContext } from "./context.js";

/** See `Runtime.updateSandboxResources`. */
export async function updateSandboxResources(
  ctx: RuntimeContext,
  id: SandboxId,
  overhead: ContainerResources,
  sum: ContainerResources,
): Promise<void> {
  const record = requireSandbox(ctx, id);
  try {
    await ctx.nri.updateSandbox(record, overhead, sum);
    const updated = await ctx.inFlight.inTurn(`sandbox ${id}`, async () => {
      const now = requireSandbox(ctx, id);
      const changed = { ...now, config: { ...now.config, overhead, resources: sum } };
      await ctx.sandboxes.put(id, changed);
      return changed;
    });
    await ctx.nri.sandboxEvent("PostUpdatePodSandbox", updated);
  } catch (err) {
    throw withContext(err, `update sandbox ${describeSandbox(record)}`);
  }
}
