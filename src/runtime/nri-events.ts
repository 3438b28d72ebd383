/**
 * Tells NRI's plugins what happens to sandboxes and containers. Without a plugin each call is one look at
 * an empty list.
 */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { toByteString } from "../base/byte-strings.js";
import type { CleanupStack } from "../base/cleanup.js";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { ContainerId } from "../base/ids.js";
import type { Draft } from "../nri/draft.js";
import type { NriContainer } from "../nri/convert.js";
import type { Spec } from "../oci/index.js";
import { parseSpecJson } from "../oci/json.js";
import { clampedOomScoreAdj } from "../spec/container-spec.js";
import { toOciResources } from "../spec/resources.js";
import type { ContainerRecord } from "../state/container.js";
import type { SandboxRecord } from "../state/sandbox.js";
import { withCdiDevices } from "./cdi-devices.js";
import { cgroupDir } from "./cgroups.js";
import type { RuntimeContext } from "./context.js";

/** A container with its sandbox, its spec as its bundle has it, and its end. */
export async function nriContainer(ctx: RuntimeContext, container: ContainerRecord): Promise<NriContainer> {
  const sandbox = ctx.sandboxes.get(container.sandboxId);
  if (!sandbox) throw new Error("a container without sandbox");
  const file = join(ctx.paths.container(container.id), "bundle", "config.json");
  const bytes = await readFile(file).catch(() => undefined);
  const spec = bytes && (parseSpecJson(toByteString(bytes)) as Spec);
  return { sandbox, container, spec, exit: ctx.exits.get(container.id) };
}

type ContainerEvent = Parameters<RuntimeContext["nri"]["containerEvent"]>[0];

/** Tells the plugins of a container. @throws RuntimeError what a plugin refuses of StartContainer */
export async function tellOfContainer(ctx: RuntimeContext, event: ContainerEvent, id: ContainerId): Promise<void> {
  const record = ctx.nri.hasPlugins ? ctx.containers.get(id) : undefined;
  if (record) await ctx.nri.containerEvent(event, await nriContainer(ctx, record));
}

/** Tells the plugins of a container's end, once, however many wait for that. */
export function tellOfExit(ctx: RuntimeContext, id: ContainerId): Promise<void> {
  return ctx.inFlight.join(`nri exit ${id}`, async () => {
    const record = ctx.nri.hasPlugins ? ctx.containers.get(id) : undefined;
    if (!record) return;
    try {
      await ctx.nri.stopContainer(await nriContainer(ctx, record));
    } catch (err) {
      const { code, message } = toRuntimeError(err);
      ctx.log.warn({ containerId: id, code, err: message }, "could not tell NRI plugins of a container's end");
    }
  });
}

/** Waits for what `tellOfExit` does at this moment. */
export async function exitIsTold(ctx: RuntimeContext, id: ContainerId): Promise<void> {
  await ctx.inFlight.running(`nri exit ${id}`);
}

/** Tells the plugins of a sandbox, where they can no longer refuse. */
export async function tellOfSandbox(
  ctx: RuntimeContext,
  event: "StopPodSandbox" | "RemovePodSandbox",
  sandbox: SandboxRecord,
): Promise<void> {
  try {
    await ctx.nri.sandboxEvent(event, sandbox);
  } catch (err) {
    const { code, message } = toRuntimeError(err);
    ctx.log.warn({ sandboxId: sandbox.id, code, err: message }, "could not tell NRI plugins of a sandbox");
  }
}

/**
 * A container that is about to be recorded, as the plugins want it. What they want is checked as the
 * caller's own wishes are: a limit without its controller is an error or a warning.
 *
 * @throws RuntimeError what a plugin refuses, `aborted` NRI_CONFLICT, `failed-precondition`
 *   NRI_ADJUSTMENT_INVALID, CONTROLLER_MISSING, CDI_DEVICE_NOT_FOUND
 */
export async function adjustedByPlugins(
  ctx: RuntimeContext,
  sandbox: SandboxRecord,
  made: { readonly record: ContainerRecord; readonly spec: Spec },
  cleanup: CleanupStack,
): Promise<{ readonly record: ContainerRecord; readonly spec: Spec }> {
  if (!ctx.nri.hasPlugins) return made;
  const { record } = made;
  const draft: Draft = {
    spec: structuredClone(made.spec),
    resources: record.config.resources,
    cgroupPath: record.cgroupPath,
    cdiDevices: [],
    warnings: [],
  };
  const container = { sandbox, container: record, spec: made.spec };
  cleanup.push("tell plugins", () => ctx.nri.containerEvent("RemoveContainer", container));
  await ctx.nri.createContainer(container, draft);
  const spec = await withCdiDevices(draft.spec, draft.cdiDevices, ctx.cdiDirs);
  if (draft.cgroupPath !== record.cgroupPath) await checkCgroupIsNew(ctx, draft.cgroupPath);
  return { spec, record: adjustedRecord(ctx, record, { ...draft, spec }) };
}

function adjustedRecord(ctx: RuntimeContext, record: ContainerRecord, draft: Draft): ContainerRecord {
  const { spec, resources } = draft;
  const oom = clampedOomScoreAdj(resources.oomScoreAdj, ctx.host.lowestOomScoreAdj);
  if (spec.process && oom.value !== undefined) spec.process.oomScoreAdj = oom.value;
  const limits = toOciResources(resources, ctx.host.controllers, ctx.host.tolerateMissingControllers);
  const devices = spec.linux?.resources?.devices ?? [];
  spec.linux = { ...spec.linux, resources: { ...limits.resources, devices } };
  const warnings = [
    ...new Set([
      ...(record.warnings ?? []),
      ...limits.warnings,
      ...draft.warnings,
      ...(oom.warning === undefined ? [] : [oom.warning]),
    ]),
  ];
  return {
    ...record,
    config: { ...record.config, resources },
    cgroupPath: draft.cgroupPath,
    ...(warnings.length > 0 && { warnings }),
  };
}

/** A cgroup is killed and removed with its container: it is never one that is there already. */
async function checkCgroupIsNew(ctx: RuntimeContext, cgroup: string): Promise<void> {
  const found = await stat(cgroupDir(ctx.cgroups, cgroup)).catch(() => undefined);
  if (!found) return;
  throw new RuntimeError(`cgroup "${cgroup}" of an NRI plugin is there already`, {
    kind: "failed-precondition",
    code: "NRI_ADJUSTMENT_INVALID",
  });
}

/** To be called before the container's files go; the outcome, after them. */
export async function tellOfRemoval(ctx: RuntimeContext, record: ContainerRecord): Promise<() => Promise<void>> {
  if (!ctx.nri.hasPlugins || !ctx.sandboxes.get(record.sandboxId)) return async () => undefined;
  const removed = await nriContainer(ctx, record);
  return () => ctx.nri.containerEvent("RemoveContainer", removed);
}
