/**
 * Sandboxes and containers as their users see them: the record, how it ended, and the reason in one word.
 */
import type { ContainerId, SandboxId } from "../base/ids.js";
import type { ContainerRecord, ContainerStatus } from "../state/container.js";
import type { Owner, SandboxRecord, SandboxStatus } from "../state/sandbox.js";
import { containersOf, requireContainer, requireSandbox, type RuntimeContext } from "./context.js";

export function sandboxStatus(ctx: RuntimeContext, id: SandboxId): SandboxStatus {
  return toSandboxStatus(ctx, requireSandbox(ctx, id));
}

export function listSandboxes(ctx: RuntimeContext, owner: Owner, id?: SandboxId): SandboxStatus[] {
  const records = id === undefined ? ctx.sandboxes.list().map(({ body }) => body) : [ctx.sandboxes.get(id)];
  return records.flatMap((record) => (record?.config.owner === owner ? [toSandboxStatus(ctx, record)] : []));
}

export function containerStatus(ctx: RuntimeContext, id: ContainerId): ContainerStatus {
  return toContainerStatus(ctx, requireContainer(ctx, id));
}

export function listContainers(ctx: RuntimeContext, owner: Owner, sandboxId?: SandboxId): ContainerStatus[] {
  const records =
    sandboxId === undefined ? ctx.containers.list().map(({ body }) => body) : containersOf(ctx, sandboxId);
  return records.filter(({ config }) => config.owner === owner).map((record) => toContainerStatus(ctx, record));
}

function toSandboxStatus(ctx: RuntimeContext, record: SandboxRecord): SandboxStatus {
  return { ...record, spans: ctx.timelines.get(record.id)?.spans ?? [] };
}

function toContainerStatus(ctx: RuntimeContext, record: ContainerRecord): ContainerStatus {
  const exit = ctx.exits.get(record.id);
  if (record.state !== "exited") return record;
  if (record.startError) return { ...record, reason: record.startError.reason, message: record.startError.message };
  if (!exit || exit.unknown !== undefined) {
    return {
      ...record,
      exit,
      reason: "ContainerStatusUnknown",
      message: exit?.unknown ?? "its exit file cannot be read",
    };
  }
  const reason = exit.oomKilled ? "OOMKilled" : exit.exitCode === 0 ? "Completed" : "Error";
  return { ...record, exit, reason };
}
