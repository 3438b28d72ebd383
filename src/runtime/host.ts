/**
 * What this host and this daemon can give to containers, read once at start.
 */
import type { Stats } from "node:fs";
import { access, lstat, mkdir, readdir, readFile, rmdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { hasErrno } from "../base/errors.js";
import { findCgroup2Mount, probeIdmappedLayers } from "../native/index.js";
import type { LinuxDevice } from "../oci/index.js";
import { capabilitiesOfMask } from "../spec/capabilities.js";
import type { HostAbilities } from "../spec/container-spec.js";
import type { Paths } from "../settings/paths.js";
import type { Settings } from "../settings/settings.js";
import { AppArmorProfile, hasAppArmor } from "./apparmor.js";
import { type CgroupLayout, makeCgroup } from "./cgroups.js";
import { type FigureSources, findFigureSources } from "./figure-sources.js";

/** Controllers that limits of Kubernetes and OCI need; others are left to their owners. */
const WANTED_CONTROLLERS = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

export interface Host {
  readonly abilities: HostAbilities;
  readonly cgroups: CgroupLayout;
  readonly figureSources: FigureSources;
  /** What RuntimeDefault is; undefined where the kernel runs without AppArmor. */
  readonly appArmor: AppArmorProfile | undefined;
}

/**
 * @param settings.cgroupRoot below the cgroup v2 mount; made, with the controllers handed down
 * @throws RuntimeError `failed-precondition` NO_CGROUP2: cgroup v2 is mounted nowhere
 */
export async function readHost(
  { cgroupRoot, tolerateMissingControllers }: Pick<Settings, "cgroupRoot" | "tolerateMissingControllers">,
  paths: Paths,
): Promise<Host> {
  const found = await findCgroup2Mount();
  const controllers = new Set(WANTED_CONTROLLERS.filter((name) => found.controllers.includes(name)));
  const cgroups: CgroupLayout = { mount: found.path, root: cgroupRoot.replace(/^\/+|\/+$/g, ""), controllers };
  await makeCgroup(cgroups, "", { handDown: true });
  await makeCgroup(cgroups, `/${cgroups.root}/pods`, { handDown: true });
  await makeCgroup(cgroups, `/${cgroups.root}/monitors`, { handDown: false });
  const capabilities = await readCapabilities();
  const appArmor = (await hasAppArmor()) ? new AppArmorProfile(paths.run) : undefined;
  return {
    cgroups,
    figureSources: await findFigureSources(cgroups),
    appArmor,
    abilities: {
      capabilities,
      controllers,
      tolerateMissingControllers,
      lowestOomScoreAdj: capabilities.has("CAP_SYS_RESOURCE")
        ? undefined
        : Number(await readFile("/proc/self/oom_score_adj", "utf8")),
      hasUserNamespaces: await makesUserNamespaces(paths),
      devices: await readDevices("/dev"),
      hasAppArmor: appArmor !== undefined,
      hasSeLinux: await access("/sys/fs/selinux/enforce").then(
        () => true,
        () => false,
      ),
    },
  };
}

/** Takes back what `readHost` made, where a start fails: not the cgroups of pods that an earlier daemon left running. */
export async function removeEmptyCgroups({ mount, root }: CgroupLayout): Promise<void> {
  for (const cgroup of [`${root}/pods`, `${root}/monitors`, root]) {
    await rmdir(join(mount, cgroup)).catch((err: unknown) => {
      if (!hasErrno(err, "EBUSY") && !hasErrno(err, "ENOENT")) throw err;
    });
  }
}

/**
 * By trying: a kernel without them, a limit of none (user.max_user_namespaces), or one whose overlay
 * or whose file system below the root maps no ids.
 */
async function makesUserNamespaces({ layers, containers }: Paths): Promise<boolean> {
  try {
    for (const path of [layers, containers]) await mkdir(path, { recursive: true, mode: 0o700 });
    await probeIdmappedLayers(layers, containers);
    return true;
  } catch {
    return false;
  }
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
    else if (entry.isCharacterDevice() || entry.isBlockDevice()) devices.push(toDevice(path, await lstat(path)));
  }
  return devices;
}

/** The node at a path, or all below it; links are followed. */
export async function devicesAt(path: string): Promise<LinuxDevice[]> {
  const stats = await stat(path);
  if (stats.isDirectory()) return readDevices(path);
  return stats.isCharacterDevice() || stats.isBlockDevice() ? [toDevice(path, stats)] : [];
}

/** A device node as the OCI spec names it, at the same path. */
function toDevice(path: string, stats: Stats): LinuxDevice {
  const { rdev, mode, uid, gid } = stats;
  // Linux's layout of a 64-bit dev_t (makedev(3)).
  const major = ((rdev >>> 8) & 0xfff) | (Math.floor(rdev / 0x1_0000_0000) & ~0xfff);
  const minor = (rdev & 0xff) | ((rdev >>> 12) & ~0xff);
  return { path, type: stats.isBlockDevice() ? "b" : "c", major, minor, fileMode: mode & 0o777, uid, gid };
}
