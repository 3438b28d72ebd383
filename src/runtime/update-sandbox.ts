/**
 * UpdatePodSandboxResources: NRI's plugins are told. The pod's own cgroup is the caller's, who has written
 * its limits before.
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
    await ctx.nri.sandboxEvent("PostUpdatePodSandbox", record);
  } catch (err) {
    throw withContext(err, `update sandbox ${describeSandbox(record)}`);
  }
}
