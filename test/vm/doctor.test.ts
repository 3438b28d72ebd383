/** minke doctor on a host that lacks nothing but what its kernel is too old for. */
import { expect, test } from "vitest";
import { sharedVm } from "./shared-vm.js";

const vm = sharedVm();

test("minke doctor finds nothing missing, and every controller", { timeout: 60_000 }, async () => {
  const text = await vm().output("node dist/cli/main.js doctor", { timeoutMs: 50_000 });
  const lines = text.split("\n").map((line) => line.split(/ {2,}/));
  expect(lines.filter(([status]) => status === "missing")).toEqual([]);
  for (const controller of ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"]) {
    expect(lines).toContainEqual(["ok", `cgroup controller ${controller}`, "there"]);
  }
  expect(text).toMatch(/^ok +AppArmor /m);
});
