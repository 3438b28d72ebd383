/**
 * What a daemon could leave behind on a machine, listed before and after a test.
 *
 * Counted is what belongs to one daemon (its folders, its cgroup root, its processes) and
 * what belongs to nobody else on a test machine (links, nftables tables, mounts).
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { linkPrefix } from "../../src/network/link-names.js";
import { tableName } from "../../src/network/ruleset.js";
import { cgroup2Mount } from "./requires.js";

export interface Scope {
  readonly root: string;
  readonly run: string;
  /** Below the cgroup v2 mount. */
  readonly cgroupRoot: string;
  /** Its descriptors are counted by kind. */
  readonly daemonPid?: number | undefined;
  /** Counts links, tables and mounts of this bridge's daemon alone: for tests that run several at once. */
  readonly bridge?: string | undefined;
}

/** Sorted lines by kind: `mounts`, `links`, … */
export type Snapshot = Readonly<Record<string, readonly string[]>>;

/** Content that images and the daemon itself keep, and the folders that hold what pods own. */
const NOT_OF_PODS =
  /^(blobs|layers|tmp|state\/durable\/(images|layers)|lock)(\/|$)|^(containers|logs|sandboxes|volumes)$/;

/** Large, and no pod owns a file of them. */
const NOT_WALKED = /^(blobs|layers)$/;

export function takeSnapshot(scope: Scope): Snapshot {
  return {
    mounts: mounts(scope),
    cgroups: cgroups(scope.cgroupRoot),
    links: links(scope),
    tables: tables(scope),
    processes: processes(scope),
    sockets: sockets(scope.run),
    files: [
      ...filesBelow(scope.root).filter((path) => !NOT_OF_PODS.test(path)),
      ...filesBelow(scope.run)
        .filter((path) => path !== "tmpfs/volumes")
        .map((path) => `run: ${path}`),
    ],
    descriptors: scope.daemonPid === undefined ? [] : descriptors(scope.daemonPid),
  };
}

/**
 * Waits until nothing is there that was not there before: what is removed in the background,
 * as links are, has the given time for it.
 *
 * @throws Error that lists what is left, by kind
 */
export async function expectNothingLeft(before: Snapshot, scope: Scope, timeoutMs = 5000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const left = difference(before, takeSnapshot(scope));
    if (left.length === 0) return;
    if (Date.now() > deadline) throw new Error(`left over:\n${left.join("\n")}`);
    await sleep(100);
  }
}

function difference(before: Snapshot, after: Snapshot): string[] {
  return Object.entries(after).flatMap(([kind, lines]) => {
    const known = [...(before[kind] ?? [])];
    return lines.flatMap((line) => {
      const at = known.indexOf(line);
      if (at < 0) return [`  ${kind}: ${line}`];
      known.splice(at, 1);
      return [];
    });
  });
}

function mounts({ root, run, bridge }: Scope): string[] {
  return read("/proc/self/mountinfo")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((path) => path.startsWith(root) || path.startsWith(run) || (!bridge && /minke/.test(path)));
}

function cgroups(cgroupRoot: string): string[] {
  const mount = cgroup2Mount();
  return mount ? foldersBelow(join(mount, cgroupRoot)) : [];
}

function links({ bridge }: Scope): string[] {
  const { stdout } = spawnSync("ip", ["-o", "link", "show"], { encoding: "utf8" });
  return stdout
    .split("\n")
    .flatMap((line) => /^\d+: ([^:@]+)/.exec(line)?.[1] ?? [])
    .filter((name) => !bridge || name === bridge || name.startsWith(linkPrefix(bridge)));
}

function tables({ bridge }: Scope): string[] {
  if (bridge) return ownTable(bridge);
  const { stdout } = spawnSync("nft", ["list", "tables"], { encoding: "utf8" });
  return stdout?.split("\n").filter(Boolean) ?? [];
}

/** The daemon's table with its elements: a host port that stays behind is a line more. */
function ownTable(bridge: string): string[] {
  const { stdout } = spawnSync("nft", ["list", "table", "inet", tableName(bridge)], { encoding: "utf8" });
  return stdout?.split("\n").filter(Boolean) ?? [];
}

/** Monitors, init processes and all that runs in the daemon's cgroups, as `comm (cgroup)`. */
function processes({ cgroupRoot, run, daemonPid }: Scope): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== daemonPid)
    .flatMap((pid) => {
      const cgroup = read(`/proc/${pid}/cgroup`).trim().split("\n").at(-1) ?? "";
      const path = cgroup.replace(/^0::\//, "");
      const ours = path === cgroupRoot || path.startsWith(`${cgroupRoot}/`);
      if (!ours && !read(`/proc/${pid}/cmdline`).includes(run)) return [];
      return [`${read(`/proc/${pid}/comm`).trim()} pid ${pid} (${path})`];
    });
}

function sockets(run: string): string[] {
  return read("/proc/net/unix")
    .split("\n")
    .flatMap((line) => /\s(\/\S+)$/.exec(line)?.[1] ?? [])
    .filter((path) => path.startsWith(run));
}

/** Kinds of the daemon's descriptors, without numbers that differ: a leak shows as one line more. */
function descriptors(pid: number): string[] {
  const folder = `/proc/${pid}/fdinfo`;
  if (!existsSync(folder)) return [];
  const { stdout } = spawnSync("ls", ["-l", `/proc/${pid}/fd`], { encoding: "utf8" });
  return stdout
    .split("\n")
    .flatMap((line) => / -> (.*)$/.exec(line)?.[1] ?? [])
    .map((target) => target.replace(/\[\d+\]/, ""))
    .filter((target) => /^(net|mnt|ipc|uts|pid|user|cgroup):|pidfd|memfd|minke/.test(target));
}

function filesBelow(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return walk(folder, "", () => true);
}

function foldersBelow(folder: string): string[] {
  return existsSync(folder) ? walk(folder, "", (isFolder) => isFolder) : [];
}

function walk(base: string, below: string, take: (isFolder: boolean) => boolean): string[] {
  let entries;
  try {
    entries = readdirSync(join(base, below), { withFileTypes: true });
  } catch {
    return []; // It went away meanwhile, which is what we hope for.
  }
  return entries.flatMap((entry) => {
    const path = join(below, entry.name);
    const own = take(entry.isDirectory()) ? [path] : [];
    return entry.isDirectory() && !NOT_WALKED.test(path) ? [...own, ...walk(base, path, take)] : own;
  });
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
