/**
 * What a daemon could leave behind on a machine, listed before and after a test.
 *
 * Counted is what belongs to one daemon (its folders, its cgroup root, its processes), and every
 * link and nftables table of the machine that is not plainly another minke's: several run at once.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseProcessStat } from "../../src/base/process-stat.js";
import { linkPrefix } from "../../src/network/link-names.js";
import { tableName } from "../../src/network/ruleset.js";
import { isAlive } from "./processes.js";
import { cgroup2Mount } from "./requires.js";
import { SLOWNESS } from "./slowness.js";

export interface Scope {
  readonly root: string;
  readonly run: string;
  /** Below the cgroup v2 mount. */
  readonly cgroupRoot: string;
  /** Its descriptors are counted by kind. */
  readonly daemonPid?: number | undefined;
  /** Another daemon's links and tables are known by it, and are not counted: several run at once. */
  readonly bridge: string;
}

/** Sorted lines by kind: `mounts`, `links`, … */
export type Snapshot = Readonly<Record<string, readonly string[]>>;

/** Content that images and the daemon itself keep, and the folders that hold what pods own. */
const NOT_OF_PODS =
  /^(blobs|layers|tmp|state\/durable\/(images|layers|uses)|lock)(\/|$)|^(containers|logs|sandboxes|volumes)$/;

/** Empty files that the next records are written to. */
const SPARE_FILE = /^state\/boot\/[a-z]+\/\.spare-\d+$/;

/** Of a pod that is there: written a moment after what happens to it, for which nobody waits. */
const HISTORY = /^state\/boot\/history\/(.+)\.json$/;

/** Large, and no pod owns a file of them. */
const NOT_WALKED = /^(blobs|layers)$/;

export function takeSnapshot(scope: Scope): Snapshot {
  return {
    mounts: mounts(scope),
    cgroups: cgroups(scope.cgroupRoot),
    links: links(scope),
    tables: tables(scope),
    rules: rules(scope),
    processes: processes(scope),
    sockets: sockets(scope.run),
    files: [
      ...filesOfPods(scope.root),
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
export async function expectNothingLeft(before: Snapshot, scope: Scope, timeoutMs = 30_000 * SLOWNESS): Promise<void> {
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

function mounts({ root, run }: Scope): string[] {
  return read("/proc/self/mountinfo")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((path) => path.startsWith(root) || path.startsWith(run));
}

function cgroups(cgroupRoot: string): string[] {
  const mount = cgroup2Mount();
  return mount ? foldersBelow(join(mount, cgroupRoot)) : [];
}

function links({ bridge, root }: Scope): string[] {
  const { stdout } = spawnSync("ip", ["-o", "link", "show"], { encoding: "utf8" });
  return stdout.split("\n").flatMap((line) => {
    const name = /^\d+: ([^:@]+)/.exec(line)?.[1];
    if (name === undefined) return [];
    const isAnothersVeth = /^mk[0-9a-f]{12}$/.test(name) && !name.startsWith(linkPrefix(bridge));
    const owner = /alias minke (\S+)/.exec(line)?.[1];
    const isAnothersBridge = owner !== undefined && owner.startsWith("/") && owner !== root;
    // Of test/system/cni.test.ts in another process: its bridge is named after that.
    const cniBridge = /\bmkc([0-9a-z]+)\b/.exec(line)?.[1];
    const isAnothersCni = cniBridge !== undefined && cniBridge !== process.pid.toString(36);
    // Of network-bench.ts, whose tests run beside others, and of test/perf's daemons of other makers with their ports.
    const isOfBenchmark = name === "mknetout" || name.startsWith("mkb") || line.includes(" master mkb");
    return isAnothersVeth || isAnothersBridge || isAnothersCni || isOfBenchmark ? [] : [name];
  });
}

function tables({ bridge }: Scope): string[] {
  const { stdout } = spawnSync("nft", ["list", "tables"], { encoding: "utf8" });
  return (stdout ?? "").split("\n").filter((line) => {
    const owner = /^table inet minke_(\S+)$/.exec(line)?.[1];
    return line !== "" && !IPTABLES_TABLE.test(line) && (owner === undefined || owner === bridge);
  });
}

/** iptables makes its tables when it is first used, by CNI plugins and others, and keeps them. */
const IPTABLES_TABLE = /^table ip6? (filter|mangle|nat|raw|security)$/;

/** The daemon's table with its elements: a host port that stays behind is a line more. */
function rules({ bridge }: Scope): string[] {
  const { stdout } = spawnSync("nft", ["list", "table", "inet", tableName(bridge)], { encoding: "utf8" });
  return (stdout ?? "").split("\n").filter(Boolean);
}

/**
 * The daemon's cgroups that hold processes, once each, since a container starts and ends processes
 * of its own as it likes; and what else runs for the daemon.
 */
function processes({ cgroupRoot, run, daemonPid }: Scope): string[] {
  const cgroupOf = (pid: string): string =>
    (read(`/proc/${pid}/cgroup`).trim().split("\n").at(-1) ?? "").replace(/^0::\//, "");
  const isOurs = (pid: string): boolean => {
    const path = cgroupOf(pid);
    return path === cgroupRoot || path.startsWith(`${cgroupRoot}/`);
  };
  const isReapedByOthers = (pid: string): boolean => {
    const parent = zombiesParent(pid);
    return parent !== undefined && parent !== daemonPid && !isOurs(String(parent));
  };
  const found = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== daemonPid && isAlive(Number(name)))
    .flatMap((pid) => {
      const ours = isOurs(pid);
      if (!ours && !read(`/proc/${pid}/cmdline`).includes(run)) return [];
      if (isReapedByOthers(pid)) return [];
      return [ours ? `in ${cgroupOf(pid)}` : read(`/proc/${pid}/comm`).trim()];
    });
  return [...new Set(found)];
}

/** Undefined for what runs. An orphan's is pid 1, which reaps it when it likes. */
function zombiesParent(pid: string): number | undefined {
  const stat = parseProcessStat(read(`/proc/${pid}/stat`));
  return stat?.state === "Z" ? stat.parent : undefined;
}

/** Once each: every accepted connection carries the path of its listener. */
function sockets(run: string): string[] {
  const paths = read("/proc/net/unix")
    .split("\n")
    .flatMap((line) => /\s(\/\S+)$/.exec(line)?.[1] ?? [])
    .filter((path) => path.startsWith(run));
  return [...new Set(paths)];
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

function filesOfPods(root: string): string[] {
  const files = filesBelow(root).filter((path) => !NOT_OF_PODS.test(path) && !SPARE_FILE.test(path));
  const all = new Set(files);
  return files.filter((path) => {
    const uid = HISTORY.exec(path)?.[1];
    return uid === undefined || !all.has(`state/durable/pods/${uid}.json`);
  });
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
