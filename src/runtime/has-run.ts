/**
 * Whether a container ever began, where neither a record nor a monitor can tell: both died with the start.
 *
 * A start writes nothing for this. What it leaves anyway is asked for: its exit file; the processor time of its
 * cgroup, which only its own processes ever enter; and where the cgroup is gone, as after a reboot, the work
 * directory of its overlay, which the kernel fills at the first mount.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { hasErrno } from "../base/errors.js";
import type { ContainerRecord } from "../state/container.js";
import { cgroupDir } from "./cgroups.js";
import { exitFile, isThere } from "./container-exit.js";
import type { RuntimeContext } from "./context.js";
import { keyedValue } from "./usage.js";

/**
 * Without a cgroup also true of one whose start was cut off between its mount and its first process: it could
 * not be started again, and who must not run it twice is told the safer half.
 */
export async function hasRun(ctx: RuntimeContext, { id, cgroupPath }: ContainerRecord): Promise<boolean> {
  if (await isThere(exitFile(ctx, id))) return true;
  const usageUs = await processorTimeUs(cgroupDir(ctx.cgroups, cgroupPath));
  return usageUs === undefined ? isThere(join(ctx.paths.container(id), "work", "work")) : usageUs > 0n;
}

/** Of all that ever ran in it; needs no controller (cgroup-v2.rst, "cpu.stat"). `undefined`: it is gone. */
async function processorTimeUs(dir: string): Promise<bigint | undefined> {
  const text = await readFile(join(dir, "cpu.stat"), "utf8").catch((err: unknown) => {
    if (hasErrno(err, "ENOENT") || hasErrno(err, "ENODEV")) return undefined;
    throw err;
  });
  return text === undefined ? undefined : keyedValue(text, "usage_usec");
}
