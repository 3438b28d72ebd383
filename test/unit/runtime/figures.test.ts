/** Figures of cgroups that are trees of plain files: each file's meaning, and what stands in for a missing controller. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type FigureSources, hugePageSizesOf, originsOf } from "../../../src/runtime/figure-sources.js";
import { cgroupFigures } from "../../../src/runtime/figures.js";
import { V1Groups } from "../../../src/runtime/v1-groups.js";

const PID = process.pid;
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "minke-figures-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function put(files: Readonly<Record<string, string>>) {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, path)), { recursive: true });
    writeFileSync(join(dir, path), text);
  }
}

const V1_MOUNTS = ["cpu", "memory"].map((name) => ({
  root: "/",
  mountPoint: `v1/${name}`,
  fsType: "cgroup",
  superOptions: ["rw", name],
}));

/** @param v1 the controllers that v1 holds */
function sources(controllers: readonly string[], v1: readonly string[] = []): FigureSources {
  const mounts = V1_MOUNTS.filter(({ superOptions }) => v1.some((name) => superOptions.includes(name)));
  return {
    cgroups: { mount: join(dir, "v2"), root: "minke", controllers: new Set(controllers) },
    v1Groups: new V1Groups(
      mounts.map((mount) => ({ ...mount, mountPoint: join(dir, mount.mountPoint) })),
      join(dir, "proc"),
    ),
    hugePageSizes: ["2MB", "1GB"],
  };
}

const V2 = {
  "v2/pod/cpu.stat":
    "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 11\nnr_throttled 3\nthrottled_usec 2500000\n",
  "v2/pod/memory.current": "5000\n",
  "v2/pod/memory.stat": "anon 1\nfile 7\nkernel 4096\nactive_file 3\ninactive_file 2\n",
  "v2/pod/memory.events": "low 0\nhigh 0\nmax 8\noom 2\noom_kill 1\n",
  "v2/pod/hugetlb.2MB.current": "4194304\n",
};
const V1 = {
  [`proc/${PID}/cgroup`]: "2:cpu:/jobs\n4:memory:/jobs/a\n0::/pod\n",
  "v1/cpu/jobs/cpu.stat": "nr_periods 21\nnr_throttled 6\nthrottled_time 3500000999\nnr_bursts 0\nburst_time 0\n",
  "v1/memory/jobs/a/memory.failcnt": "17\n",
  "v1/memory/jobs/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
};
const running = { "v2/pod/one/cgroup.procs": `${PID}\n` };

describe("cgroupFigures", () => {
  test("with all controllers are those of the cgroup, whatever v1 groups say", async () => {
    put({ ...V2, ...V1, ...running });
    const { cpu, memory, hugePages } = await cgroupFigures(sources(["cpu", "memory"], ["cpu", "memory"]), "/pod");
    expect(cpu).toEqual({ userUs: 5n, systemUs: 4n, periods: 11n, throttledPeriods: 3n, throttledUs: 2_500_000n });
    expect(memory).toMatchObject({ limitHits: 8n, oomKills: 1n, kernelBytes: 4096n, activeFileBytes: 3n });
    expect(hugePages).toEqual([{ pageSize: "2MB", usageBytes: 4_194_304n }]);
  });

  test("without controllers have the throttling and limit hits of the v1 groups of a process", async () => {
    put({ ...V1, ...running, "v2/pod/cpu.stat": "usage_usec 9\nuser_usec 5\nsystem_usec 4\n" });
    const { cpu, memory, processes } = await cgroupFigures(sources([], ["cpu", "memory"]), "/pod");
    expect(cpu).toEqual({ userUs: 5n, systemUs: 4n, periods: 21n, throttledPeriods: 6n, throttledUs: 3_500_000n });
    expect(memory).toMatchObject({ limitHits: 17n, oomKills: 4n, activeFileBytes: undefined });
    // This test's own process.
    expect(memory.kernelBytes).toBe(processes.pageTableBytes);
    expect(processes.pageTableBytes).toBeGreaterThan(0n);
  });

  test("mix where v2 has only one of the controllers", async () => {
    put({ ...V2, ...V1, ...running });
    const { cpu, memory } = await cgroupFigures(sources(["cpu"], ["memory"]), "/pod");
    expect([cpu.periods, memory.limitHits]).toEqual([11n, 17n]);
  });

  test.each([
    ["no process runs", { ...V1, "v2/pod/cgroup.procs": "" }, ["cpu", "memory"]],
    ["v1 has no such controller", { ...V1, ...running }, []],
    ["the v1 group has gone", { ...running, [`proc/${PID}/cgroup`]: "2:cpu:/x\n4:memory:/x\n" }, ["cpu", "memory"]],
  ])("have no throttling and no limit hits where %s, and no zero instead", async (_, files, v1) => {
    put(files);
    const { cpu, memory } = await cgroupFigures(sources([], v1), "/pod");
    expect([cpu.periods, cpu.throttledPeriods, cpu.throttledUs]).toEqual([undefined, undefined, undefined]);
    expect([memory.limitHits, memory.oomKills]).toEqual([undefined, undefined]);
  });
});

test("hugePageSizesOf counts each size once, and nothing that is only reserved", () => {
  const files = [
    "hugetlb.2MB.current",
    "hugetlb.2MB.rsvd.current",
    "hugetlb.1GB.current",
    "hugetlb.1GB.max",
    "cpu.stat",
  ];
  expect(hugePageSizesOf(files)).toEqual(["2MB", "1GB"]);
});

test.each([
  [["cpu", "memory", "io"], [], { throttling: "cgroup", limitHits: "cgroup", memory: "cgroup", io: "cgroup" }],
  [[], ["cpu"], { throttling: "cgroup-v1-group", limitHits: "nowhere", memory: "processes", cacheActivity: "nowhere" }],
  [["cpu"], ["memory"], { throttling: "cgroup", limitHits: "cgroup-v1-group", io: "processes" }],
])("originsOf v2 with %j and v1 with %j say so", (controllers, v1, expected) => {
  expect(originsOf(sources(controllers, v1))).toMatchObject({ ...expected, hugePages: "cgroup" });
});
