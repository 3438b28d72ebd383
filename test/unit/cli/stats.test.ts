/** The table of `minke stats`. */
import { expect, test } from "vitest";
import { statsTable } from "../../../src/cli/stats.js";

const usage = (atNs: bigint, cpuNs: bigint) => ({
  atNs: String(atNs),
  cpuNs: String(cpuNs),
  workingSetBytes: "2097152",
  processes: 3,
});

const pod = (atNs: bigint, cpuNs: bigint, uid = "u") => ({
  metadata: { name: "web", namespace: "default", uid },
  ...usage(atNs, cpuNs),
  interfaces: [{ name: "eth0", rxBytes: "1024", txBytes: "0" }],
  containers: [{ name: "c", ...usage(atNs, cpuNs), memoryLimitBytes: "4194304", layerBytes: "4096" }],
});

test("a rate is what was used between two readings, in thousandths of a core", () => {
  expect(statsTable([pod(0n, 0n)], [pod(2_000_000_000n, 500_000_000n)], false).split("\n")).toEqual([
    "NAME   CPU    MEMORY    LIMIT     PIDS   DISK      NET RX / TX",
    "web    250m   2.0 MiB   -         3      4.0 KiB   1.0 KiB / 0 B",
    "  c    250m   2.0 MiB   4.0 MiB   3      4.0 KiB",
  ]);
});

test("a pod that is new, or whose count went back, has no rate", () => {
  expect(statsTable([], [pod(1n, 1n)], false)).toContain("web    -");
  expect(statsTable([pod(0n, 9n)], [pod(5n, 1n)], false)).toContain("web    -");
  expect(statsTable([pod(0n, 0n, "other")], [pod(5n, 1n)], true)).toContain("default     web    -");
});

test("without a pod there is no table", () => {
  expect(statsTable([], [], true)).toBe("");
});
