/** The machine itself: what the other files take for granted. */
import { expect, inject, test } from "vitest";
import { sharedVm } from "./shared-vm.js";

const vm = sharedVm();

test("the kernel is the one that was asked for", async () => {
  expect((await vm().output("uname -r")).trim()).toBe(inject("vm").release);
});

test("/sys/fs/cgroup is cgroup v2 with every controller", async () => {
  expect(
    await vm().output("findmnt -n -o FSTYPE /sys/fs/cgroup; grep -c ' cgroup ' /proc/self/mountinfo || true"),
  ).toBe("cgroup2\n0\n");
  const controllers = (await vm().output("cat /sys/fs/cgroup/cgroup.controllers")).trim().split(" ");
  expect(controllers).toEqual(expect.arrayContaining(["cpuset", "cpu", "io", "memory", "hugetlb", "pids"]));
});

test("AppArmor is enabled and loads profiles", async () => {
  expect(await vm().output("cat /sys/module/apparmor/parameters/enabled")).toBe("Y\n");
  const profile = "profile minke-vm-check { file, deny /etc/shadow r, }";
  await vm().output(`apparmor_parser --skip-cache --replace <<<'${profile}'`);
  expect(await vm().output("grep minke-vm-check /sys/kernel/security/apparmor/profiles")).toContain("(enforce)");
  await vm().output(`apparmor_parser --remove <<<'${profile}'`);
});

test("modules are loaded on demand", async () => {
  await vm().output("ip link add vmcheck type bridge && ip link del vmcheck");
  await vm().output("nft add table inet vmcheck && nft delete table inet vmcheck");
});

test("the checkout is seen at its own path, and a write to it stays inside", async () => {
  await vm().output("test -e package.json && echo inside >.vm-check && rm .vm-check");
});

test("a command that does not end is killed with what it started", async () => {
  const result = await vm().run("sleep 1234 & sleep 1234", { timeoutMs: 500 });
  expect(result).toMatchObject({ timedOut: true, code: 137 });
  await expect.poll(async () => (await vm().run("pgrep -x -f 'sleep 1234'")).stdout, { timeout: 60_000 }).toBe("");
});

test("commands run side by side, and output comes back whole", async () => {
  const started = performance.now();
  const slow = vm().run("sleep 3");
  const bytes = await vm().output("head -c 3000000 /dev/zero | tr '\\0' x; printf ü");
  expect(bytes.length).toBe(3_000_001);
  expect(bytes.endsWith("xü")).toBe(true);
  await slow;
  expect(performance.now() - started).toBeLessThan(30_000);
});
