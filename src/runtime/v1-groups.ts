/**
 * The cgroup v1 groups that govern processes on a hybrid host, where v1 holds a controller: read, never written.
 *
 * A container's processes stay in the v1 groups that the daemon was started in, which they mostly share with
 * others: what is read here is true of the whole group, so it serves for what a limit does (throttling, hits),
 * never for what a container uses. Called by `figures.ts`, only for controllers that cgroup v2 does not have.
 */
import { join } from "node:path";
import { type MountEntry, readKernelFile } from "../native/index.js";

export type V1Controller = "cpu" | "memory";

/** By controller: absolute paths. */
export type V1Dirs = Readonly<Partial<Record<V1Controller, string>>>;

type Mount = Pick<MountEntry, "root" | "mountPoint" | "fsType" | "superOptions">;

export class V1Groups {
  readonly #mounts: readonly Mount[];
  readonly #proc: string;

  /**
   * @param mounts of the daemon's mount namespace
   * @param proc where procfs is
   */
  constructor(mounts: readonly Mount[], proc = "/proc") {
    this.#mounts = mounts.filter(({ fsType }) => fsType === "cgroup");
    this.#proc = proc;
  }

  has(controller: V1Controller): boolean {
    return this.#mounts.some(({ superOptions }) => superOptions.includes(controller));
  }

  /** Nothing of a process that has ended, and of groups that no mount shows. */
  async dirsOf(pid: number): Promise<V1Dirs> {
    const text = (await readKernelFile(join(this.#proc, String(pid), "cgroup"))) ?? "";
    const dirs: Partial<Record<V1Controller, string>> = {};
    for (const [controllers, path] of parseMembership(text)) {
      for (const controller of ["cpu", "memory"] as const) {
        const dir = controllers.includes(controller) ? this.#dirOf(controller, path) : undefined;
        if (dir !== undefined) dirs[controller] = dir;
      }
    }
    return dirs;
  }

  /** `undefined` where there is no such file. */
  read(dir: string, file: string): Promise<string | undefined> {
    return readKernelFile(join(dir, file));
  }

  /**
   * Both the path and a mount's root are seen from the daemon's cgroup namespace; what is outside of it
   * begins with `/..` (cgroup_namespaces(7)).
   */
  #dirOf(controller: V1Controller, path: string): string | undefined {
    if (path === "/.." || path.startsWith("/../")) return undefined;
    for (const { root, mountPoint, superOptions } of this.#mounts) {
      if (!superOptions.includes(controller)) continue;
      if (root === "/" || path === root) return join(mountPoint, path === root ? "" : path);
      if (path.startsWith(`${root}/`)) return join(mountPoint, path.slice(root.length));
    }
    return undefined;
  }
}

/** `4:cpu,cpuacct:/path`, a line for each hierarchy (cgroups(7), "/proc/pid/cgroup"); a path may hold colons. */
function parseMembership(text: string): [controllers: string[], path: string][] {
  return text.split("\n").flatMap((line) => {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    return controllers === undefined || path === undefined ? [] : [[controllers.split(","), path]];
  });
}
