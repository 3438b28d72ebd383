/**
 * UpdateContainerResources: new limits for a container in place. What is not named stays.
 */
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { toByteString, jsonToBytes } from "../base/byte-strings.js";
import { RuntimeError, withContext } from "../base/errors.js";
import type { ContainerId } from "../base/ids.js";
import type { LinuxResources, Spec } from "../oci/index.js";
import { parseSpecJson, specToJson } from "../oci/json.js";
import { toOciResources } from "../spec/resources.js";
import type { ContainerRecord, ContainerResources } from "../state/container.js";
import { cgroupDir } from "./cgroups.js";
import { describeContainer, requireContainer, type RuntimeContext } from "./context.js";
import { nriContainer, tellOfContainer } from "./nri-events.js";

/** See `Runtime.updateContainerResources`. */
export async function updateContainerResources(
  ctx: RuntimeContext,
  id: ContainerId,
  changes: ContainerResources,
): Promise<void> {
  const record = requireContainer(ctx, id);
  let wanted = changes;
  if (ctx.nri.hasPlugins) {
    try {
      wanted = await ctx.nri.updateContainer(await nriContainer(ctx, record), changes);
    } catch (err) {
      throw withContext(err, `update container ${describeContainer(record)}`);
    }
  }
  await applyUpdate(ctx, id, wanted);
  await tellOfContainer(ctx, "PostUpdateContainer", id);
}

/** As `updateContainerResources`, without asking NRI's plugins. */
export async function applyUpdate(ctx: RuntimeContext, id: ContainerId, changes: ContainerResources): Promise<void> {
  await ctx.inFlight.inTurn(`exit ${id}`, async () => {
    const record = requireContainer(ctx, id);
    if (record.state !== "created" && record.state !== "running") {
      throw new RuntimeError(`update container ${describeContainer(record)}: it is ${record.state}`, {
        kind: "failed-precondition",
        code: "CONTAINER_NOT_RUNNING",
      });
    }
    try {
      await update(ctx, record, changes);
    } catch (err) {
      throw withContext(err, `update container ${describeContainer(record)}`);
    }
  });
}

async function update(ctx: RuntimeContext, record: ContainerRecord, changes: ContainerResources): Promise<void> {
  const resources = mergedResources(record.config.resources, changes);
  const { resources: limits, warnings } = toOciResources(
    resources,
    ctx.host.controllers,
    ctx.host.tolerateMissingControllers,
  );
  if (record.state === "running") {
    for (const [file, value] of cgroupFiles(limits))
      await writeLimit(join(cgroupDir(ctx.cgroups, record.cgroupPath), file), value);
  } else {
    await updateBundle(join(ctx.paths.container(record.id), "bundle", "config.json"), limits);
  }
  const { warnings: _before, ...rest } = record;
  await ctx.containers.put(record.id, {
    ...rest,
    config: { ...record.config, resources },
    ...(warnings.length > 0 && { warnings }),
  });
}

/** What is not named stays: also files of `unified` and page sizes. The score is for the start only. */
export function mergedResources(before: ContainerResources, changes: ContainerResources): ContainerResources {
  const named = Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== undefined));
  const merged: ContainerResources = { ...before, ...named, oomScoreAdj: before.oomScoreAdj };
  const sizes = new Set(changes.hugepageLimits?.map(({ pageSize }) => pageSize));
  const otherPages = before.hugepageLimits?.filter(({ pageSize }) => !sizes.has(pageSize)) ?? [];
  return {
    ...merged,
    ...(changes.hugepageLimits && { hugepageLimits: [...otherPages, ...changes.hugepageLimits] }),
    ...(changes.unified && { unified: { ...before.unified, ...changes.unified } }),
  };
}

/** A container that has not been started gets its limits from its bundle. */
async function updateBundle(file: string, limits: LinuxResources): Promise<void> {
  const spec = parseSpecJson(toByteString(await readFile(file))) as Spec;
  const { devices } = spec.linux?.resources ?? {};
  const updated: Spec = { ...spec, linux: { ...spec.linux, resources: { ...limits, ...(devices && { devices }) } } };
  await writeFile(`${file}.tmp`, jsonToBytes(specToJson(updated)), { mode: 0o600 });
  await rename(`${file}.tmp`, file);
}

/** cgroup-v2.rst's files and values for limits of the OCI spec, in the order in which to write them. */
export function cgroupFiles({ cpu, memory, pids, hugepageLimits, unified }: LinuxResources): [string, string][] {
  const files: [string, string][] = [];
  if (cpu?.shares) files.push(["cpu.weight", String(weightOfShares(cpu.shares))]);
  if (cpu?.quota || cpu?.period) {
    const quota = cpu.quota !== undefined && cpu.quota > 0 ? String(cpu.quota) : "max";
    files.push(["cpu.max", `${quota} ${cpu.period || 100_000}`]);
  }
  if (cpu?.cpus) files.push(["cpuset.cpus", cpu.cpus]);
  if (cpu?.mems) files.push(["cpuset.mems", cpu.mems]);
  const maximum = (bytes: number) => (bytes < 0 ? "max" : String(bytes));
  if (memory?.limit) files.push(["memory.max", maximum(memory.limit)]);
  // OCI's swap is memory and swap together.
  if (memory?.swap)
    files.push([
      "memory.swap.max",
      memory.swap < 0 || !memory.limit ? maximum(memory.swap) : String(Math.max(0, memory.swap - memory.limit)),
    ]);
  if (pids?.limit) files.push(["pids.max", maximum(pids.limit)]);
  for (const { pageSize, limit } of hugepageLimits ?? []) files.push([`hugetlb.${pageSize}.max`, String(limit)]);
  for (const [file, value] of Object.entries(unified ?? {})) files.push([file, value]);
  return files;
}

/** cpu.shares of 2 to 262144 as cpu.weight of 1 to 10000, 1024 being 100: the curve that OCI runtimes agreed on. */
export function weightOfShares(shares: number): number {
  if (shares <= 2) return 1;
  if (shares >= 262_144) return 10_000;
  const exponent = Math.log2(shares);
  return Math.ceil(10 ** ((exponent ** 2 + 125 * exponent) / 612 - 7 / 34));
}

async function writeLimit(path: string, value: string): Promise<void> {
  await writeFile(path, value).catch((err: unknown) => {
    throw withContext(err, `write "${path}" value "${value}"`);
  });
}
