import { expect, test } from "vitest";
import { metricDescriptors } from "../../../src/cri/metrics.js";
import type { FigureOrigins } from "../../../src/runtime/figure-sources.js";

const ALL: FigureOrigins = {
  memory: "cgroup",
  cacheActivity: "cgroup",
  io: "cgroup",
  throttling: "cgroup",
  limitHits: "cgroup",
  hugePages: "cgroup",
};
const byName = (origins: Partial<FigureOrigins>) =>
  new Map(metricDescriptors({ ...ALL, ...origins }).map((descriptor) => [descriptor.name, descriptor]));

test("descriptors of what a host does not have are left out, and only those", () => {
  const names = (origins: Partial<FigureOrigins>) => new Set(byName(origins).keys());
  const all = names({});
  const without = names({ cacheActivity: "nowhere", hugePages: "nowhere" });
  expect([...all].filter((name) => !without.has(name))).toEqual([
    "container_memory_total_active_file_bytes",
    "container_memory_total_inactive_file_bytes",
    "container_hugetlb_usage_bytes",
    "container_hugetlb_max_usage_bytes",
  ]);
  expect(all.size - without.size).toBe(4);
});

test("descriptors say where a figure is from that is not the cgroup's own", () => {
  const descriptors = byName({ throttling: "cgroup-v1-group", memory: "processes" });
  expect(descriptors.get("container_cpu_cfs_periods_total")?.help).toBe(
    "Elapsed enforcement periods. Of the whole cgroup v1 group that the processes are in.",
  );
  expect(descriptors.get("container_memory_rss")?.help).toBe("Size of RSS. Of the processes that run now.");
  expect(descriptors.get("container_memory_failcnt")?.help).toBe("Memory usage hits of limits.");
  expect(descriptors.get("container_hugetlb_usage_bytes")?.labelKeys.at(-1)).toBe("pagesize");
});
