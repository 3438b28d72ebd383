/** minke doctor on a host that lacks nothing but what its kernel is too old for. */
import { expect, test } from "vitest";
import { sharedVm } from "./shared-vm.js";

const vm = sharedVm();

interface Findings {
  readonly checks: readonly { readonly name: string; readonly status: string }[];
}

test("minke doctor finds nothing missing, and every controller", { timeout: 180_000 }, async () => {
  const text = await vm().output("node dist/cli/main.js doctor -o json", { timeoutMs: 150_000 });
  const { checks } = JSON.parse(text) as Findings;
  expect(checks.filter(({ status }) => status === "missing")).toEqual([]);
  const ok = checks.filter(({ status }) => status === "ok").map(({ name }) => name);
  const controllers = ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"].map((name) => `cgroup controller ${name}`);
  expect(ok).toEqual(expect.arrayContaining([...controllers, "AppArmor", "seccomp"]));
});
