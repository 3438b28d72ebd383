/** What an update of a container's limits changes, and what it leaves. */
import { expect, test } from "vitest";
import { cgroupFiles, mergedResources, weightOfShares } from "../../../src/runtime/update-container.js";

const MIB = 1 << 20;

test("an update changes what it names and leaves the rest, also files of unified and page sizes", () => {
  const before = {
    cpuShares: 512,
    memoryLimitBytes: 64 * MIB,
    oomScoreAdj: 500,
    hugepageLimits: [
      { pageSize: "2MB", limitBytes: 4 * MIB },
      { pageSize: "1GB", limitBytes: 0 },
    ],
    unified: { "memory.high": "1", "pids.max": "2" },
  };
  const changes = {
    cpuShares: undefined,
    memoryLimitBytes: 80 * MIB,
    oomScoreAdj: 0,
    hugepageLimits: [{ pageSize: "2MB", limitBytes: 8 * MIB }],
    unified: { "pids.max": "3" },
  };
  expect(mergedResources(before, changes)).toEqual({
    cpuShares: 512,
    memoryLimitBytes: 80 * MIB,
    oomScoreAdj: 500,
    hugepageLimits: [
      { pageSize: "1GB", limitBytes: 0 },
      { pageSize: "2MB", limitBytes: 8 * MIB },
    ],
    unified: { "memory.high": "1", "pids.max": "3" },
  });
  expect(mergedResources(before, { memoryLimitBytes: MIB })).toEqual({ ...before, memoryLimitBytes: MIB });
});

test.each([
  [2, 1],
  [256, 35],
  [1024, 100],
  [2048, 174],
  [262_144, 10_000],
])("%i shares are weight %i", (shares, weight) => {
  expect(weightOfShares(shares)).toBe(weight);
  expect(cgroupFiles({ cpu: { shares } })).toEqual([["cpu.weight", String(weight)]]);
});
