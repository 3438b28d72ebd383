/**
 * StopPodSandbox: everything in it ends, and its network is given back. Idempotent and final.
 */
import { hasErrno, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import type { SandboxId } from "../base/ids.js";
import { settleAll } from "../base/settle.js";
import type { SandboxRecord } from "../state/sandbox.js";
import { cgroupDir, removeCgroup } from "./cgroups.js";
import { keepExits } from "./container-exit.js";
import { containersOf, describeSandbox, emit, type RuntimeContext } from "./context.js";
import { endProcess, removeTraces } from "./monitors.js";
import { tellOfSandbox } from "./nri-events.js";
import { removeShm } from "./shm.js";
import { stopContainer } from "./stop-container.js";

/** See `Runtime.stopSandbox`. */
export async function stopSandbox(ctx: RuntimeContext, id: SandboxId): Promise<void> {
  await ctx.inFlight.inTurn(`sandbox ${id}`, async () => {
    const record = ctx.sandboxes.get(id);
    if (!record || record.state === "stopped" || record.state === "removing") return;
    try {
      await takeDown(ctx, record);
    } catch (err) {
      throw withContext(err, `stop sandbox ${describeSandbox(record)}`);
    }
    await tellOfSandbox(ctx, "StopPodSandbox", record);
    emit(ctx, { type: "sandbox-stopped", sandboxId: id, owner: record.config.owner });
  });
}

/** Each part is safe to repeat, so a stop that failed half-way is finished by the next one. */
async function takeDown(ctx: RuntimeContext, record: SandboxRecord): Promise<void> {
  failpoint("record stopping");
  failpoint("stop containers");
  await settleAll([
    ctx.sandboxes.put(record.id, { ...record, state: "stopping" }, "remember"),
    ...containersOf(ctx, record.id).map((container) => stopContainer(ctx, container.id, 0)),
  ]);
  await keepExits(ctx, record.id);
  await settleAll([tearNetworkDown(ctx, record), end(ctx, record)]);
  failpoint("record stopped");
  const { network: _gone, monitor: _ended, ...rest } = record;
  ctx.sandboxes.show(record.id, { ...rest, state: "stopped" });
  // Nobody waits for it: what is only stopping is stopped by the next daemon.
  ctx.sandboxes.save(record.id).catch((err: unknown) => {
    ctx.log.error({ sandboxId: record.id, err: String(err) }, "could not record that a sandbox is stopped");
  });
  failpoint("after record stopped");
}

async function tearNetworkDown(ctx: RuntimeContext, { id }: SandboxRecord): Promise<void> {
  failpoint("tear network down");
  await ctx.network.teardown(id);
}

async function end(ctx: RuntimeContext, { id, cgroupPath }: SandboxRecord): Promise<void> {
  failpoint("end monitor");
  await endProcess(ctx, id);
  failpoint("remove sandbox cgroup");
  failpoint("remove cgroup");
  try {
    await removeTraces(ctx, id, [
      { remove: "directory", path: ctx.paths.sandboxShm(id) },
      { remove: "cgroup", path: cgroupDir(ctx.cgroups, cgroupPath) },
    ]);
  } catch (err) {
    // A mount to be taken away, or processes to be killed first.
    if (!hasErrno(err, "EBUSY")) throw err;
    await settleAll([removeShm(ctx, id), removeCgroup(ctx.cgroups, cgroupPath)]);
  }
}
