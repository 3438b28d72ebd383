/** The daemon on this kernel: the sample pod, its page, what limits do to a pod, and what is left. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DAEMON_MS, killDaemon, sharedDaemon, SLOW_MS, startDaemon } from "./daemon.js";
import { busyboxPod, podApi } from "./pod-api.js";
import { quoted } from "./quoted.js";
import { sharedVm } from "./shared-vm.js";

const vm = sharedVm();
const { pod, create, remove, cgroup, ended } = podApi(vm);

const minke = (...args: string[]) => `node dist/cli/main.js ${args.map(quoted).join(" ")}`;

/** What pods could leave behind: mounts, cgroups below pods, links, namespaces and processes. */
function traces(): Promise<string> {
  return vm().output(`
    cut -d' ' -f5,10- /proc/self/mountinfo | sort
    find /sys/fs/cgroup/minke/pods /sys/fs/cgroup/minke/monitors -mindepth 1 -type d
    ip -o link | cut -d: -f2
    lsns -n -o NS -t net; lsns -n -o NS -t pid
    pgrep -c minke-monitor || true
    find /var/lib/minke/{sandboxes,containers,volumes,logs} /run/minke/{tmpfs/monitors,shm} -mindepth 1 2>/dev/null || true`);
}

beforeAll(() => sharedDaemon(vm()), DAEMON_MS);

describe("examples/web.yaml", () => {
  let before = "";
  // Where the test that deletes it was not chosen, or did not come to it.
  afterAll(() => remove("web"), SLOW_MS);

  test("becomes ready", { timeout: 2 * SLOW_MS }, async () => {
    before = await traces();
    await vm().output(minke("run", "-f", "examples/web.yaml", "--wait", "--timeout", "150"), { timeoutMs: SLOW_MS });
    expect((await pod("web")).status.phase).toBe("Running");
  });

  test("serves its page on both pod addresses and on the host port", { timeout: SLOW_MS }, async () => {
    const ips = (await pod("web")).status.podIPs?.map(({ ip }) => (ip.includes(":") ? `[${ip}]` : ip)) ?? [];
    expect(ips).toHaveLength(2);
    for (const address of [...ips, "127.0.0.1:8080"]) {
      expect(await vm().output(`/run/vm/busybox wget -q -O - http://${address}/`)).toMatch(/refreshed \d+ times/);
    }
  });

  test("shares one /dev/shm between its containers", { timeout: SLOW_MS }, async () => {
    await vm().output(minke("exec", "web", "-c", "server", "--", "sh", "-c", "echo shared >/dev/shm/file"), {
      timeoutMs: SLOW_MS,
    });
    const { containerID = "" } =
      (await pod("web")).status.containerStatuses?.find(({ name }) => name === "refresh") ?? {};
    const dir = `find /sys/fs/cgroup/minke/pods -type d -name ${quoted(containerID.replace(/^.*:\/\//, ""))}`;
    expect(await vm().output(`cat /proc/$(head -1 $(${dir})/cgroup.procs)/root/dev/shm/file`)).toBe("shared\n");
  });

  test("outlives its daemon and is adopted by the next one", { timeout: 2 * SLOW_MS }, async () => {
    const before = (await pod("web")).status.containerStatuses;
    await killDaemon(vm());
    await startDaemon(vm());
    expect((await pod("web")).status.containerStatuses).toEqual(before);
    // The profile of its containers is in the kernel, and they are still under it.
    expect(await vm().output("cat /proc/$(pgrep -o nginx)/attr/current")).toBe("minke-default (enforce)\n");
    expect(await vm().output("/run/vm/busybox wget -q -O - http://127.0.0.1:8080/")).toMatch(/refreshed \d+ times/);
  });

  test("is deleted and leaves nothing", { timeout: SLOW_MS }, async () => {
    await remove("web");
    expect(await traces()).toBe(before);
  });
});

describe("a pod's limits", () => {
  test("are in the files of its container's cgroup", { timeout: 2 * SLOW_MS }, async () => {
    const limits = { cpu: "300m", memory: "48Mi", "hugepages-2Mi": "4Mi" };
    const resources = { limits, requests: { cpu: "250m", memory: "32Mi", "hugepages-2Mi": "4Mi" } };
    await create(busyboxPod("limited", "sleep 600", { container: { resources } }));
    const files = ["cpu.max", "cpu.weight", "memory.max", "hugetlb.2MB.max"];
    const text = await vm().output(`cd ${await cgroup("limited")} && cat ${files.join(" ")}`);
    await remove("limited");
    // 250m are 256 shares, which are weight 35 of 1 to 10000.
    expect(text.trim().split("\n")).toEqual(["30000 100000", "35", String(48 << 20), String(4 << 20)]);
  });

  test("memory kills the container: OOMKilled, 137", { timeout: 2 * SLOW_MS }, async () => {
    const script = "dd if=/dev/zero of=/dev/null bs=64M count=1; echo survived";
    const resources = { limits: { memory: "16Mi" } };
    await create(busyboxPod("greedy", `exec ${script}`, { container: { resources } }));
    expect(await ended("greedy")).toMatchObject({ reason: "OOMKilled", exitCode: 137 });
    await remove("greedy");
  });

  test("cpu of a fifth gives a busy loop a fifth", { timeout: 2 * SLOW_MS }, async () => {
    const resources = { limits: { cpu: "200m" } };
    await create(busyboxPod("busy", "while :; do :; done", { container: { resources } }));
    const used = `head -1 ${await cgroup("busy")}/cpu.stat | cut -d' ' -f2`;
    const clock = "date +%s%6N";
    const [atUs = 0, usedUs = 0, laterUsedUs = 0, laterAtUs = 0] = (
      await vm().output(`${clock}; ${used}; sleep 3; ${used}; ${clock}`)
    )
      .split("\n")
      .map(Number);
    await remove("busy");
    expect((laterUsedUs - usedUs) / (laterAtUs - atUs)).toBeGreaterThan(0.1);
    expect((laterUsedUs - usedUs) / (laterAtUs - atUs)).toBeLessThan(0.25);
  });
});
