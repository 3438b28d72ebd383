/**
 * RemoveContainer: kills it where it still runs, then removes its layer, bundle, cgroup and record. Idempotent.
 */
import { rm } from "node:fs/promises";
import { toRuntimeError, withContext } from "../base/errors.js";
import type { ContainerId } from "../base/ids.js";
import type { ContainerRecord } from "../state/container.js";
import { removeCgroup } from "./cgroups.js";
import { describeContainer, emit, type RuntimeContext } from "./context.js";
import { stopContainer } from "./stop-container.js";

/** See `Runtime.removeContainer`. */
export async function removeContainer(ctx: RuntimeContext, id: ContainerId): Promise<void> {
  await ctx.inFlight.join(`remove container ${id}`, async () => {
    await stopContainer(ctx, id, 0);
    const record = ctx.containers.get(id);
    if (!record) return;
    try {
      await ctx.containers.put(id, { ...record, state: "removing" });
      await removeCgroup(ctx.cgroups, record.cgroupPath);
      await rm(ctx.paths.container(id), { recursive: true, force: true });
      await forget(ctx, record);
      await ctx.containers.remove(id);
    } catch (err) {
      throw withContext(err, `remove container ${describeContainer(record)}`);
    }
    ctx.exits.delete(id);
    ctx.processes.delete(id);
    emit(ctx, { type: "container-removed", sandboxId: record.sandboxId, containerId: id, owner: record.config.owner });
  });
}

/** The monitor knows only containers whose start it was asked for. */
async function forget(ctx: RuntimeContext, { id, sandboxId }: ContainerRecord): Promise<void> {
  try {
    await ctx.monitors.get(sandboxId)?.client.forget({ containerId: id });
  } catch (err) {
    if (toRuntimeError(err).code !== "CONTAINER_NOT_FOUND") throw err;
  }
}
