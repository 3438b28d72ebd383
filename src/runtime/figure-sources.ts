/**
 * Where figures come from on this host, found once at start: what `figures.ts` reads, what descriptors
 * promise, and what Status says.
 */
import { readdir } from "node:fs/promises";
import { mountTable } from "../native/index.js";
import { type CgroupLayout, cgroupDir } from "./cgroups.js";
import { V1Groups } from "./v1-groups.js";

/**
 * - `cgroup`: of the container's or pod's own cgroup
 * - `processes`: summed over the processes that run now
 * - `cgroup-v1-group`: of the cgroup v1 group that the processes are in, whoever shares it
 * - `nowhere`: no such figure on this host
 */
export type FigureOrigin = "cgroup" | "processes" | "cgroup-v1-group" | "nowhere";

export interface FigureOrigins {
  readonly memory: FigureOrigin;
  /** Active and inactive page cache. */
  readonly cacheActivity: FigureOrigin;
  readonly io: FigureOrigin;
  /** CFS periods, and those that were throttled. */
  readonly throttling: FigureOrigin;
  /** Memory: hits of the limit, and kills. */
  readonly limitHits: FigureOrigin;
  readonly hugePages: FigureOrigin;
}

export interface FigureSources {
  readonly cgroups: CgroupLayout;
  readonly v1Groups: V1Groups;
  /** As in the controller's file names: `2MB`. */
  readonly hugePageSizes: readonly string[];
}

/** @param cgroups whose root is there */
export async function findFigureSources(cgroups: CgroupLayout): Promise<FigureSources> {
  const files = await readdir(cgroupDir(cgroups, `/${cgroups.root}`));
  return { cgroups, v1Groups: new V1Groups(await mountTable()), hugePageSizes: hugePageSizesOf(files) };
}

/** Not what is only reserved: `hugetlb.2MB.rsvd.current`. @param files names of those of a cgroup */
export function hugePageSizesOf(files: readonly string[]): string[] {
  return files.flatMap((file) => /^hugetlb\.([^.]+)\.current$/.exec(file)?.[1] ?? []);
}

export function originsOf({ cgroups: { controllers }, v1Groups, hugePageSizes }: FigureSources): FigureOrigins {
  const hasMemory = controllers.has("memory");
  const orV1 = (controller: "cpu" | "memory"): FigureOrigin => {
    if (controllers.has(controller)) return "cgroup";
    return v1Groups.has(controller) ? "cgroup-v1-group" : "nowhere";
  };
  return {
    memory: hasMemory ? "cgroup" : "processes",
    cacheActivity: hasMemory ? "cgroup" : "nowhere",
    io: controllers.has("io") ? "cgroup" : "processes",
    throttling: orV1("cpu"),
    limitHits: orV1("memory"),
    hugePages: hugePageSizes.length > 0 ? "cgroup" : "nowhere",
  };
}
