/** Fields of CRI's configurations, seen from inside the container: what was asked for is what it has. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readlinkSync, renameSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import {
  ContainerState,
  ImageSpec,
  LinuxContainerResources,
  MountPropagation,
  NamespaceMode,
  PodSandboxState,
  SupplementalGroupsPolicy,
} from "../../src/cri/generated/runtime/v1/api.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { cgroup2Mount, requires } from "../harness/requires.js";
import { SpdyClient } from "../harness/spdy-client.js";

const bench = useCriDaemon();
const polling = { timeout: 30_000 };
const NET_RAW = 1 << 13;

const security = (context: object) => ({ linux: { securityContext: context } });

async function infoOf(containerId: string): Promise<{ readonly cgroupPath: string }> {
  const { info } = await bench.cri.call("containerStatus", { containerId, verbose: true });
  return JSON.parse(info["info"] ?? "{}") as { cgroupPath: string };
}

/** Lines of /proc/self/status by their name. */
async function statusOf(id: string): Promise<(name: string) => string> {
  const text = await bench.cri.output(id, "cat", "/proc/self/status");
  return (name) => new RegExp(`^${name}:\\s*(.*?)\\s*$`, "m").exec(text)?.[1] ?? "";
}

test("run_as_user, run_as_group, groups, capabilities, ambient ones included, and no_new_privs are the process's", async () => {
  const id = await bench.container(
    security({
      runAsUser: { value: 1000n },
      runAsGroup: { value: 2000n },
      supplementalGroups: [3000n],
      supplementalGroupsPolicy: SupplementalGroupsPolicy.Strict,
      noNewPrivs: true,
      capabilities: { dropCapabilities: ["ALL"], addCapabilities: ["NET_RAW"], addAmbientCapabilities: ["NET_RAW"] },
    }),
  );
  const line = await statusOf(id);
  expect(line("Uid").split("\t")).toEqual(["1000", "1000", "1000", "1000"]);
  expect(line("Gid").split("\t")).toEqual(["2000", "2000", "2000", "2000"]);
  // The primary group is among them (CVE-2022-36109).
  expect(line("Groups")).toBe("2000 3000");
  expect(line("NoNewPrivs")).toBe("1");
  for (const set of ["CapAmb", "CapEff", "CapPrm", "CapBnd"]) expect(Number.parseInt(line(set), 16)).toBe(NET_RAW);
  expect((await bench.cri.status(id)).user?.linux).toEqual({
    uid: 1000n,
    gid: 2000n,
    supplementalGroups: [2000n, 3000n],
  });
});

test("run_as_username has the image's user, and Merge the image's groups beside those asked for", async () => {
  const named = await bench.container(security({ runAsUsername: "nobody" }));
  expect(await bench.cri.output(named, "id", "-un")).toBe("nobody\n");
  const own = (await bench.cri.output(named, "id", "-G")).trim().split(" ").map(Number);
  const merged = await bench.container(security({ runAsUsername: "nobody", supplementalGroups: [3000n] }));
  const groups = (await bench.cri.output(merged, "id", "-G")).trim().split(" ").map(Number);
  expect(new Set(groups)).toEqual(new Set([...own, 3000]));
});

test("readonly_rootfs, masked_paths and readonly_paths leave nothing to write or to see", async () => {
  const id = await bench.container(
    security({ readonlyRootfs: true, maskedPaths: ["/proc/version", "/etc"], readonlyPaths: ["/dev/shm"] }),
  );
  const fails = async (...cmd: string[]) => {
    const { exitCode, stderr } = await bench.cri.call("execSync", { containerId: id, cmd, timeout: 30n });
    expect(exitCode).not.toBe(0);
    expect(stderr.toString()).toContain("Read-only file system");
  };
  await fails("touch", "/new");
  await fails("touch", "/dev/shm/new");
  expect(await bench.cri.output(id, "cat", "/proc/version")).toBe("");
  expect(await bench.cri.output(id, "ls", "/etc")).toBe("");
});

test("privileged has all capabilities of the daemon and a writable /sys, where the sandbox allows it", async () => {
  const sandbox = await bench.sandbox(security({ privileged: true }));
  const line = await statusOf(await bench.cri.startContainer(sandbox, security({ privileged: true })));
  const own = /^CapBnd:\s*(\w+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
  expect(line("CapBnd")).toBe(own);
  const plain = await statusOf(await bench.cri.startContainer(sandbox));
  expect(plain("CapBnd")).not.toBe(own);
});

test("hostname, dns_config and sysctls are the sandbox's", async () => {
  const id = await bench.container(
    {},
    {
      hostname: "whale",
      dnsConfig: { servers: ["192.0.2.53", "2001:db8::53"], searches: ["a.test", "b.test"], options: ["ndots:3"] },
      linux: { sysctls: { "net.core.somaxconn": "777", "kernel.shm_rmid_forced": "1" } },
    },
  );
  const read = (path: string) => bench.cri.output(id, "cat", path);
  expect(await bench.cri.output(id, "hostname")).toBe("whale\n");
  expect(await read("/etc/hostname")).toBe("whale\n");
  expect((await read("/etc/resolv.conf")).trim().split("\n").sort()).toEqual([
    "nameserver 192.0.2.53",
    "nameserver 2001:db8::53",
    "options ndots:3",
    "search a.test b.test",
  ]);
  expect(await read("/proc/sys/net/core/somaxconn")).toBe("777\n");
  expect(await read("/proc/sys/kernel/shm_rmid_forced")).toBe("1\n");
});

test("namespaces of mode NODE are the host's, with port mappings that say what is so, and of mode POD are not", async () => {
  const NODE = { network: NamespaceMode.NODE, ipc: NamespaceMode.NODE, pid: NamespaceMode.NODE };
  const context = security({ namespaceOptions: NODE });
  const host = await bench.container(context, { ...context, portMappings: [{ containerPort: 80, hostPort: 80 }] });
  const pod = await bench.container();
  for (const kind of ["net", "ipc", "pid"]) {
    const own = await bench.cri.output(host, "readlink", `/proc/self/ns/${kind}`);
    expect(await bench.cri.output(pod, "readlink", `/proc/self/ns/${kind}`)).not.toBe(own);
    expect(own.trim()).toBe(readlinkSync(`/proc/self/ns/${kind}`));
  }
});

test("working_dir, command and args are the process's, and metadata, labels and annotations come back", async () => {
  const id = await bench.container({
    metadata: { name: "named", attempt: 7 },
    command: ["sh", "-c"],
    args: ['pwd > /out; echo "$0" >> /out; sleep 1000', "zero"],
    workingDir: "/made/here",
    labels: { a: "1" },
    annotations: { b: "2" },
  });
  await expect.poll(() => bench.cri.output(id, "cat", "/out"), polling).toBe("/made/here\nzero\n");
  expect(await bench.cri.status(id)).toMatchObject({
    metadata: { name: "named", attempt: 7 },
    labels: { a: "1" },
    annotations: { b: "2" },
    image: { image: "minke.test/busybox:1", userSpecifiedImage: "minke.test/busybox:1" },
  });
});

test("tty gives a terminal, stdin_once ends standard input with its first client, and log_path has what was written", async () => {
  mkdirSync(join(bench.folder, "logs"));
  const sandbox = await bench.sandbox({ logDirectory: join(bench.folder, "logs") });
  const terminal = await bench.cri.startContainer(sandbox, {
    tty: true,
    command: ["sh", "-c", "test -t 0 && echo yes; sleep 1000"],
    logPath: "tty.log",
  });
  await expect
    .poll(() => readFileSync(join(bench.folder, "logs/tty.log"), "utf8"), polling)
    .toMatch(/stdout F yes\r?\n/);
  expect((await bench.cri.status(terminal)).logPath).toBe(join(bench.folder, "logs/tty.log"));

  const once = await bench.cri.startContainer(sandbox, {
    stdin: true,
    stdinOnce: true,
    command: ["sh", "-c", "cat; exit 4"],
    logPath: "once.log",
  });
  const { url } = await bench.cri.call("attach", { containerId: once, stdin: true, stdout: true });
  const client = await SpdyClient.connect(url, ["v5.channel.k8s.io"]);
  await client.open({ streamType: "error" });
  const stdin = await client.open({ streamType: "stdin" });
  await client.open({ streamType: "stdout" });
  stdin.write("typed\n", true);
  await expect.poll(async () => (await bench.cri.status(once)).state, polling).toBe(ContainerState.CONTAINER_EXITED);
  expect((await bench.cri.status(once)).exitCode).toBe(4);
  expect(readFileSync(join(bench.folder, "logs/once.log"), "utf8")).toMatch(/stdout F typed\n/);
  client.destroy();
});

test("a log is reopened while its container is being stopped", async () => {
  mkdirSync(join(bench.folder, "logs"));
  const sandbox = await bench.sandbox({ logDirectory: join(bench.folder, "logs") });
  const containerId = await bench.cri.startContainer(sandbox, {
    command: ["sh", "-c", "trap 'echo asked' TERM; i=0; while :; do echo $((i+=1)); sleep 0.05; done"],
    logPath: "c.log",
  });
  const log = join(bench.folder, "logs/c.log");
  await expect.poll(() => readFileSync(log, "utf8"), polling).toContain("stdout F 1\n");
  const stopped = bench.cri.call("stopContainer", { containerId, timeout: 600n });
  await expect.poll(() => readFileSync(log, "utf8"), polling).toContain("stdout F asked\n");
  renameSync(log, `${log}.old`);
  await bench.cri.call("reopenContainerLog", { containerId });
  await expect.poll(() => existsSync(log) && readFileSync(log, "utf8"), polling).toMatch(/stdout F \d+\n/);
  // A second stop brings the deadline forward.
  await bench.cri.call("stopContainer", { containerId, timeout: 0n });
  await stopped;
  expect((await bench.cri.status(containerId)).exitCode).toBe(137);
});

test("oom_score_adj is the process's; below what the daemon may set it is the daemon's, with a warning", async () => {
  const high = await bench.container({ linux: { resources: { oomScoreAdj: 555n } } });
  expect(await bench.cri.output(high, "cat", "/proc/self/oom_score_adj")).toBe("555\n");
  const low = await bench.container({ linux: { resources: { oomScoreAdj: -998n } } });
  const value = Number(await bench.cri.output(low, "cat", "/proc/self/oom_score_adj"));
  const { message } = await bench.cri.status(low);
  if (value === -998) expect(message).not.toContain("oom_score_adj");
  else expect(message).toContain("oom_score_adj");
});

test("hugepage_limits and unified are files of the cgroup, below cgroup_parent, and an update changes them in place", async (context) => {
  requires("controller:hugetlb")(context);
  const mount = cgroup2Mount() ?? "";
  // As a kubelet makes it, and nothing is handed down to it.
  const cgroupParent = `/${bench.daemon.cgroupRoot}/parent`;
  mkdirSync(join(mount, cgroupParent), { recursive: true });
  const sandbox = await bench.sandbox({ linux: { cgroupParent } });
  const containerId = await bench.cri.startContainer(sandbox, {
    linux: {
      resources: {
        hugepageLimits: [{ pageSize: "2MB", limit: 4_194_304n }],
        unified: { "hugetlb.2MB.rsvd.max": "6291456" },
      },
    },
  });
  const { cgroupPath } = await infoOf(containerId);
  expect(cgroupPath.startsWith(`${cgroupParent.slice(1)}/`) || cgroupPath.startsWith(`${cgroupParent}/`)).toBe(true);
  const file = (name: string) => readFileSync(join(mount, cgroupPath, name), "utf8").trim();
  expect([file("hugetlb.2MB.max"), file("hugetlb.2MB.rsvd.max")]).toEqual(["4194304", "6291456"]);
  const linux = LinuxContainerResources.fromPartial({ hugepageLimits: [{ pageSize: "2MB", limit: 8_388_608n }] });
  await bench.cri.call("updateContainerResources", { containerId, linux });
  expect(file("hugetlb.2MB.max")).toBe("8388608");
  expect((await bench.cri.status(containerId)).resources?.linux?.hugepageLimits).toEqual(linux.hugepageLimits);
  await bench.cri.removeSandbox(sandbox);
  rmdirSync(join(mount, cgroupParent));
});

test("every filter of every list, and of its stream, chooses as it says", async () => {
  const [one, two] = await Promise.all([
    bench.sandbox({ labels: { app: "one" } }),
    bench.sandbox({ labels: { app: "two" } }),
  ]);
  await bench.cri.call("stopPodSandbox", { podSandboxId: two });
  const running = await bench.cri.startContainer(one, { labels: { role: "runs" } });
  const made = await bench.cri.createContainer(one, { labels: { role: "waits" } });
  const none = { id: "", labelSelector: {} };

  for (const [filter, expected] of [
    [{ ...none, id: one.slice(0, 20) }, [one]],
    [{ ...none, state: { state: PodSandboxState.SANDBOX_NOTREADY } }, [two]],
    [{ ...none, labelSelector: { app: "one" } }, [one]],
    [{ ...none, id: one, labelSelector: { app: "two" } }, []],
  ] as const) {
    const request = { filter: { state: undefined, ...filter } };
    expect((await bench.cri.call("listPodSandbox", request)).items.map(({ id }) => id)).toEqual(expected);
    const streamed = await bench.cri.all("streamPodSandboxes", request);
    expect(streamed.flatMap(({ podSandboxes }) => podSandboxes.map(({ id }) => id))).toEqual(expected);
  }
  const any = { ...none, podSandboxId: "", state: undefined };
  for (const [filter, expected] of [
    [{ ...any, id: made.slice(0, 20) }, [made]],
    [{ ...any, state: { state: ContainerState.CONTAINER_RUNNING } }, [running]],
    [{ ...any, podSandboxId: two }, []],
    [{ ...any, podSandboxId: one, labelSelector: { role: "waits" } }, [made]],
  ] as const) {
    expect((await bench.cri.call("listContainers", { filter })).containers.map(({ id }) => id)).toEqual(expected);
    const streamed = await bench.cri.all("streamContainers", { filter });
    expect(streamed.flatMap(({ containers }) => containers.map(({ id }) => id))).toEqual(expected);
  }
  for (const [filter, expected] of [
    [{ ...none, podSandboxId: "", id: running }, [running]],
    [{ ...none, podSandboxId: two }, []],
    [{ ...none, podSandboxId: "", labelSelector: { role: "runs" } }, [running]],
  ] as const) {
    const { stats } = await bench.cri.call("listContainerStats", { filter });
    expect(stats.map(({ attributes }) => attributes?.id)).toEqual(expected);
    const streamed = await bench.cri.all("streamContainerStats", { filter });
    expect(streamed.flatMap(({ containerStats }) => containerStats.map(({ attributes }) => attributes?.id))).toEqual(
      expected,
    );
  }
  for (const [filter, expected] of [
    [{ ...none, id: one }, [one]],
    [{ ...none, labelSelector: { app: "one" } }, [one]],
    [{ ...none, labelSelector: { app: "none" } }, []],
  ] as const) {
    const { stats } = await bench.cri.call("listPodSandboxStats", { filter });
    expect(stats.map(({ attributes }) => attributes?.id)).toEqual(expected);
    const streamed = await bench.cri.all("streamPodSandboxStats", { filter });
    expect(streamed.flatMap(({ podSandboxStats }) => podSandboxStats.map(({ attributes }) => attributes?.id))).toEqual(
      expected,
    );
  }
  const filter = {
    image: { image: "minke.test/busybox:1", annotations: {}, userSpecifiedImage: "", runtimeHandler: "", imageRef: "" },
  };
  const images = (await bench.cri.call("listImages", { filter })).images;
  expect(images.map(({ repoTags }) => repoTags)).toEqual([["minke.test/busybox:1"]]);
  expect((await bench.cri.all("streamImages", { filter })).flatMap((answer) => answer.images)).toEqual(images);
});

test("overhead and resources of a pod are in its verbose status, as they were asked for and as updated", async () => {
  const of = (cpuShares: bigint) => LinuxContainerResources.fromPartial({ cpuShares });
  const podSandboxId = await bench.sandbox({ linux: { overhead: of(2n), resources: of(256n) } });
  const shown = async () => {
    const { info } = await bench.cri.call("podSandboxStatus", { podSandboxId, verbose: true });
    const { overhead, resources } = JSON.parse(info["info"] ?? "{}") as { overhead: object; resources: object };
    return [overhead, resources];
  };
  expect(await shown()).toEqual([{ linux: { cpu_shares: 2 } }, { linux: { cpu_shares: 256 } }]);
  await bench.cri.call("updatePodSandboxResources", { podSandboxId, overhead: of(4n), resources: of(512n) });
  expect(await shown()).toEqual([{ linux: { cpu_shares: 4 } }, { linux: { cpu_shares: 512 } }]);
});

test("update_pod_sandbox_resources is taken, and refused by name where it is nonsense", async () => {
  const podSandboxId = await bench.sandbox();
  const of = (cpuShares: bigint) => LinuxContainerResources.fromPartial({ cpuShares });
  await bench.cri.call("updatePodSandboxResources", { podSandboxId, overhead: of(2n), resources: of(512n) });
  for (const [field, request] of [
    ["overhead.cpu_shares", { overhead: of(-1n) }],
    ["resources.cpu_shares", { resources: of(-1n) }],
  ] as const) {
    const refused = await bench.cri.refusal("updatePodSandboxResources", { podSandboxId, ...request });
    expect([refused.status, refused.code, refused.message]).toEqual([
      3,
      "INVALID_FIELD",
      expect.stringContaining(field),
    ]);
  }
});

test("an image of a runtime handler of its own is refused", async () => {
  const image = ImageSpec.fromPartial({ image: "minke.test/busybox:1", runtimeHandler: "other" });
  expect(await bench.cri.refusal("imageStatus", { image })).toMatchObject({ status: 3, code: "INVALID_FIELD" });
});

test("what is mounted on the host later is seen with HOST_TO_CONTAINER alone, and a submount is read-only where that is recursive", async () => {
  const at = join(bench.folder, "shared");
  const mount = (...args: string[]) => execFileSync("mount", args);
  mkdirSync(at);
  mount("--bind", at, at);
  try {
    mount("--make-shared", at);
    for (const name of ["later", "sub"]) mkdirSync(join(at, name));
    mount("-t", "tmpfs", "tmpfs", join(at, "sub"));
    const of = (containerPath: string, fields: object) => ({ containerPath, hostPath: at, ...fields });
    const id = await bench.container({
      mounts: [
        of("/slave", { propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER }),
        of("/private", {}),
        of("/ro", { readonly: true }),
        of("/rro", { readonly: true, recursiveReadOnly: true }),
      ],
    });
    mount("-t", "tmpfs", "tmpfs", join(at, "later"));
    writeFileSync(join(at, "later", "file"), "");
    expect(await bench.cri.output(id, "ls", "/slave/later")).toBe("file\n");
    expect(await bench.cri.output(id, "ls", "/private/later")).toBe("");
    await bench.cri.output(id, "touch", "/ro/sub/new");
    const cmd = ["touch", "/rro/sub/newer"];
    const { exitCode, stderr } = await bench.cri.call("execSync", { containerId: id, cmd, timeout: 30n });
    expect([exitCode, stderr.toString()]).toEqual([1, expect.stringContaining("Read-only file system")]);
    await bench.cri.call("removeContainer", { containerId: id });
  } finally {
    execFileSync("umount", ["--recursive", at]);
  }
});
