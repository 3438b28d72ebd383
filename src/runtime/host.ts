/**
 * What this host and this daemon can give to containers, read once at start.
 */
import { lstat, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { findCgroup2Mount } from "../native/index.js";
import type { LinuxDevice } from "../oci/index.js";
import { capabilitiesOfMask } from "../spec/capabilities.js";
import type { HostAbilities } from "../spec/container-spec.js";
import { type CgroupLayout, makeCgroup } from "./cgroups.js";

/** Controllers that limits of Kubernetes and OCI need; others are left to their owners. */
const WANTED_CONTROLLERS = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

export interface Host {
  readonly abilities: HostAbilities;
  readonly cgroups: CgroupLayout;
}

/**
 * @param cgroupRoot below the cgroup v2 mount; made, with the controllers handed down
 * @throws RuntimeError `failed-precondition` NO_CGROUP2: cgroup v2 is mounted nowhere
 */
export async function readHost(cgroupRoot: string, tolerateMissingControllers: boolean): Promise<Host> {
  const found = await findCgroup2Mount();
  const controllers = new Set(WANTED_CONTROLLERS.filter((name) => found.controllers.includes(name)));
  const cgroups: CgroupLayout = { mount: found.path, root: cgroupRoot.replace(/^\/+|\/+$/g, ""), controllers };
  await makeCgroup(cgroups, "", { handDown: true });
  await makeCgroup(cgroups, `/${cgroups.root}/pods`, { handDown: true });
  await makeCgroup(cgroups, `/${cgroups.root}/monitors`, { handDown: false });
  const capabilities = await readCapabilities();
  return {
    cgroups,
    abilities: {
      capabilities,
      controllers,
      tolerateMissingControllers,
      lowestOomScoreAdj: capabilities.has("CAP_SYS_RESOURCE")
        ? undefined
        : Number(await readFile("/proc/self/oom_score_adj", "utf8")),
      devices: await readDevices("/dev"),
    },
  };
}

async function readCapabilities(): Promise<ReadonlySet<string>> {
  const status = await readFile("/proc/self/status", "utf8");
  return capabilitiesOfMask(/^CapBnd:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? "0");
}

/** Directories of /dev that a container gets afresh, or that hold no nodes. */
const SKIPPED = new Set(["pts", "shm", "mqueue", "fd", "console", "hugepages"]);

async function readDevices(dir: string): Promise<LinuxDevice[]> {
  const devices: LinuxDevice[] = [];
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (dir === "/dev" && SKIPPED.has(entry.name)) continue;
    if (entry.isDirectory()) devices.push(...(await readDevices(path)));
    if (!entry.isCharacterDevice() && !entry.isBlockDevice()) continue;
    const { rdev, mode, uid, gid } = await lstat(path);
    // Linux's layout of a 64-bit dev_t (makedev(3)).
    const major = ((rdev >>> 8) & 0xfff) | (Math.floor(rdev / 0x1_0000_0000) & ~0xfff);
    const minor = (rdev & 0xff) | ((rdev >>> 12) & ~0xff);
    devices.push({ path, type: entry.isBlockDevice() ? "b" : "c", major, minor, fileMode: mode & 0o777, uid, gid });
  }
  return devices;
}
