/**
 * What fields of a config do outside of the container, and to what comes into it later: hooks, the state, the cgroup,
 * network devices of the host, the CPUs of further processes. With minke-oci alone; covered-fields.json says
 * which test is for which field.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, readlinkSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { MINKE_OCI } from "../harness/oci-bundle.js";
import { useOciBench } from "./oci-bench.js";

const { host, bundle, configure, oci, ociToFile, id, run } = useOciBench();

async function mountNamespace(): Promise<string> {
  return (await host.run("readlink", ["/proc/self/ns/mnt"])).stdout.trim();
}

// crun and runc make such a container's mounts in the caller's namespace, where they stay.
test("a container without a mount namespace has its root, and nothing of it in the caller's mounts", async () => {
  const before = (await host.run("cat", ["/proc/self/mountinfo"])).stdout;
  configure(["sleep", "600"], (spec) => {
    spec.linux.namespaces = spec.linux.namespaces.filter(({ type }) => type !== "mount");
    spec.linux.maskedPaths = ["/proc/uptime"];
  });
  const own = id();
  expect(await ociToFile(MINKE_OCI, "create", "--bundle", bundle(), own)).toEqual({ code: 0, output: "" });
  expect(await oci(MINKE_OCI, "start", own)).toMatchObject({ code: 0 });
  const inside = await oci(
    MINKE_OCI,
    "exec",
    own,
    "sh",
    "-c",
    "readlink /proc/1/ns/mnt; cat /proc/uptime; ls /proc/self/exe",
  );
  expect(inside).toMatchObject({ code: 0, stdout: `${await mountNamespace()}\n/proc/self/exe\n` });
  expect((await host.run("cat", ["/proc/self/mountinfo"])).stdout).toBe(before);
  expect(await oci(MINKE_OCI, "delete", "--force", own)).toMatchObject({ code: 0 });
  expect((await host.run("cat", ["/proc/self/mountinfo"])).stdout).toBe(before);
});

describe("execCPUAffinity", () => {
  const cpus = "grep Cpus_allowed_list /proc/self/status";
  test.each([
    ["initial alone is what a further process keeps", { initial: "0" }, "0"],
    ["final is what a further process has at last", { initial: "0", final: "1" }, "1"],
    ["final alone is too", { final: "1" }, "1"],
  ])("%s", async (_what, execCPUAffinity, wanted) => {
    if (availableParallelism() < 2) return;
    configure(["sleep", "600"], (spec) => (spec.process.execCPUAffinity = execCPUAffinity));
    const own = id();
    expect(await ociToFile(MINKE_OCI, "run", "--detach", "--bundle", bundle(), own)).toEqual({ code: 0, output: "" });
    const { stdout } = await oci(MINKE_OCI, "exec", own, "sh", "-c", cpus);
    const first = await oci(MINKE_OCI, "exec", own, "sh", "-c", cpus.replace("self", "1"));
    await oci(MINKE_OCI, "delete", "--force", own);
    expect(stdout).toBe(`Cpus_allowed_list:\t${wanted}\n`);
    expect(first.stdout).not.toBe(stdout); // it is for further processes
  });
});

describe("netDevices", () => {
  const link = (n: number) => `mkoci${process.pid % 1_000_000}x${n}`;
  const ip = (...args: string[]) => spawnSync("ip", args, { encoding: "utf8" });
  const show = (device: string) => ip("-brief", "address", "show", "dev", device).stdout;
  const SHOW = "/bin/busybox ip -o addr show; /bin/busybox ip -o link show | cut -d: -f2";

  test("a device is moved with its addresses, renamed and up, and is gone with the namespace", async () => {
    const device = link(1);
    expect(ip("link", "add", device, "type", "veth", "peer", "name", `${device}p`).status).toBe(0);
    try {
      ip("addr", "add", "192.0.2.7/24", "dev", device);
      ip("addr", "add", "2001:db8::7/64", "dev", device, "nodad");
      configure(SHOW, (spec) => (spec.linux.netDevices = { [device]: { name: "inside0" } }));
      const { code, stdout, stderr } = await run(MINKE_OCI);
      expect(code, stderr).toBe(0);
      expect(stdout).toMatch(/inside0\s+inet 192\.0\.2\.7\/24/);
      expect(stdout).toMatch(/inside0\s+inet6 2001:db8::7\/64/);
      await expect.poll(() => ip("link", "show", device).status, { timeout: 20_000 }).toBe(1);
    } finally {
      ip("link", "del", device);
    }
  });

  test("a name with %d gets the first free number, and no name keeps the host's", async () => {
    const [one, other] = [link(2), link(3)];
    for (const device of [one, other])
      expect(ip("link", "add", device, "type", "veth", "peer", "name", `${device}p`).status).toBe(0);
    try {
      configure(`${SHOW}; cat /sys/class/net/*/flags`, (spec) => {
        spec.linux.netDevices = { [one]: { name: "net%d" }, [other]: {} };
      });
      const { code, stdout, stderr } = await run(MINKE_OCI);
      expect(code, stderr).toBe(0);
      expect(stdout).toMatch(/^ net0@/m);
      expect(stdout).toMatch(new RegExp(`^ ${other}@`, "m"));
    } finally {
      for (const device of [one, other]) ip("link", "del", device);
    }
  });

  test.each([
    ["a device that does not exist", { nowhere0: {} }, "linux.netDevices.nowhere0: find the device: rtnetlink: ENODEV"],
    [
      "a name that the namespace has",
      { [link(4)]: { name: "lo" } },
      `linux.netDevices.${link(4)}: the container's network namespace has a device of that name: rtnetlink: EEXIST`,
    ],
    [
      "a name of too many bytes",
      { [link(4)]: { name: "x".repeat(16) } },
      `linux.netDevices.${link(4)}.name is not a name for a network device`,
    ],
    ["lo", { lo: { name: "other0" } }, "linux.netDevices.lo: move the device: rtnetlink: EINVAL"],
  ])("%s is refused, and what was moved is back as it was", async (_what, bad, message) => {
    const first = link(4);
    const moved = link(0); // sorts before the others: it has been moved when they fail
    for (const device of [first, moved])
      expect(ip("link", "add", device, "type", "veth", "peer", "name", `${device}p`).status).toBe(0);
    try {
      ip("link", "set", moved, "up");
      ip("addr", "add", "192.0.2.9/24", "dev", moved);
      const before = show(moved).replaceAll(/\s+\S*fe80\S*/g, "");
      configure("true", (spec) => (spec.linux.netDevices = { [moved]: { name: "first0" }, ...bad }));
      const { code, stderr } = await run(MINKE_OCI);
      expect(stderr).toContain(`minke-oci: ${message}`);
      expect(code).toBe(1);
      expect(show(moved).replaceAll(/\s+\S*fe80\S*/g, "")).toBe(before);
      expect(show(first)).not.toBe("");
    } finally {
      for (const device of [first, moved]) ip("link", "del", device);
    }
  });

  test("without a network namespace it is refused", async () => {
    configure("true", (spec) => {
      spec.linux.namespaces = spec.linux.namespaces.filter(({ type }) => type !== "network");
      spec.linux.netDevices = { lo: {} };
    });
    expect((await run(MINKE_OCI)).stderr).toBe(
      "minke-oci: linux.netDevices is set, but the container has no network namespace of its own\n",
    );
  });
});

describe("fields that need what this kernel may lack", () => {
  test("intelRdt is refused by its path where resctrl is not mounted", async () => {
    if (readFileSync("/proc/self/mountinfo", "utf8").includes(" - resctrl ")) return;
    configure("true", (spec) => (spec.linux.intelRdt = { closID: "group", l3CacheSchema: "L3:0=f" }));
    const { code, stderr } = await run(MINKE_OCI);
    expect(stderr).toBe("minke-oci: linux.intelRdt is set, but no resctrl file system is mounted\n");
    expect(code).toBe(1);
  });

  test("mountLabel is passed over with a warning where the kernel has no SELinux", async () => {
    if (readFileSync("/proc/filesystems", "utf8").includes("selinuxfs")) return;
    configure("echo ran", (spec) => (spec.linux.mountLabel = "system_u:object_r:container_file_t:s0"));
    const { code, stdout, stderr } = await run(MINKE_OCI);
    expect(stdout).toBe("ran\n");
    expect(stderr).toContain("linux.mountLabel: ignoring the label: SELinux is not enabled in this kernel");
    expect(code).toBe(0);
  });
});

test("annotations and the bundle are in what state prints", async () => {
  configure("true", (spec) => (spec.annotations = { "org.example.key": "value" }));
  const own = id();
  expect(await ociToFile(MINKE_OCI, "create", "--bundle", bundle(), own)).toEqual({ code: 0, output: "" });
  const state = JSON.parse((await oci(MINKE_OCI, "state", own)).stdout);
  expect(state).toMatchObject({ annotations: { "org.example.key": "value" }, bundle: bundle(), status: "created" });
  await oci(MINKE_OCI, "delete", "--force", own);
});

test("cgroupsPath is where the container's process is", async () => {
  const path = `/minke-effects-${process.pid}`;
  configure(["sleep", "600"], (spec) => (spec.linux.cgroupsPath = path));
  const own = id();
  expect(await ociToFile(MINKE_OCI, "run", "--detach", "--bundle", bundle(), own)).toEqual({ code: 0, output: "" });
  const { pid } = JSON.parse((await oci(MINKE_OCI, "state", own)).stdout);
  expect(readFileSync(`/proc/${pid}/cgroup`, "utf8")).toContain(`0::${path}\n`);
  expect(readlinkSync(`/proc/${pid}/cwd`)).toBe("/");
  await oci(MINKE_OCI, "delete", "--force", own);
});

test("a poststart hook that fails ends the container, and is named", async () => {
  configure(["sleep", "600"], (spec) => {
    spec.hooks = { poststart: [{ path: "/bin/sh", args: ["sh", "-c", "cat >/dev/null; exit 4"] }] };
  });
  const own = id();
  const { code, output } = await ociToFile(MINKE_OCI, "run", "--detach", "--bundle", bundle(), own);
  expect(output).toContain('hook poststart "/bin/sh": ended with status 4');
  expect(code).toBe(1);
  expect((await oci(MINKE_OCI, "list", "--quiet")).stdout).not.toContain(own);
});

test("a hook has its env and nothing of the caller's", async () => {
  const file = join(host.folder, "hook-env");
  configure("true", (spec) => {
    const args = ["sh", "-c", `cat >/dev/null; /usr/bin/env >${file}`];
    spec.hooks = { createRuntime: [{ path: "/bin/sh", args, env: ["OF_IT=value"] }] };
  });
  expect(await run(MINKE_OCI)).toMatchObject({ code: 0 });
  const names = readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => line.split("=")[0]);
  expect(names.filter((name) => !["_", "PWD", "SHLVL", "OLDPWD"].includes(name ?? ""))).toEqual(["OF_IT"]);
});

test("a poststart or poststop hook that takes longer than its timeout is ended", async () => {
  const hook = { path: "/bin/sh", args: ["sh", "-c", "cat >/dev/null; sleep 300"], timeout: 1 };
  configure("true", (spec) => (spec.hooks = { poststop: [hook] }));
  const stopped = await run(MINKE_OCI);
  expect(stopped.stderr).toContain('hook poststop "/bin/sh"');
  expect(stopped.code).toBe(0);
  configure("true", (spec) => (spec.hooks = { poststart: [hook] }));
  const started = await run(MINKE_OCI);
  expect(started.stderr).toContain('hook poststart "/bin/sh"');
  expect(started.code).toBe(1);
});
