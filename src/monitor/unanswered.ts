/**
 * Monitors that were forked without anybody having been told: their fork server died in between.
 *
 * Such a one is a child of the daemon, since it was forked with CLONE_PARENT, and would stay a zombie for as
 * long as the daemon lives. Found by the cgroup that it was born in, where only one sandbox's monitor ever
 * runs, so never a child that somebody else waits for: neither libuv's nor another sandbox's monitor.
 */
import { readdir, readFile } from "node:fs/promises";
import { basename } from "node:path";
import { hasErrno } from "../base/errors.js";
import { parseProcessStat } from "../base/process-stat.js";
import { type Fd, pidfdOpen, processStat } from "../native/index.js";

/** The kernel's word behind the path of a cgroup that was removed before a zombie in it was reaped. */
const REMOVED = / \(deleted\)$/;

/**
 * The children of this process, ended ones included, whose cgroup is called by one of the names. The caller
 * reaps them: until then no number of theirs can name another process.
 */
export async function childrenInCgroups(names: readonly string[]): Promise<Fd[]> {
  if (names.length === 0) return [];
  const found: Fd[] = [];
  for (const entry of await readdir("/proc")) {
    const pid = Number(entry);
    if (!(pid > 0) || parseProcessStat(processStat(pid))?.parent !== process.pid) continue;
    const cgroup = await cgroupOf(pid);
    if (cgroup !== undefined && names.includes(basename(cgroup))) found.push(pidfdOpen(pid));
  }
  return found;
}

/** Of cgroup v2; a zombie keeps its own (cgroup-v2.rst, "Processes"). `undefined`: it was reaped meanwhile. */
async function cgroupOf(pid: number): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/cgroup`, "utf8").catch((err: unknown) => {
    if (hasErrno(err, "ENOENT") || hasErrno(err, "ESRCH")) return "";
    throw err;
  });
  const line = text.split("\n").find((each) => each.startsWith("0::"));
  return line?.slice("0::".length).replace(REMOVED, "");
}
