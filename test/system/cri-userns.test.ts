/** Sandboxes with a user namespace: over CRI with maps of the caller's, and pods with `hostUsers: false`. */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { chownSync, mkdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { NamespaceMode } from "../../src/cri/generated/runtime/v1/api.js";
import { MINKE } from "../harness/cli.js";
import { useCriDaemon } from "../harness/cri-bench.js";

const INVALID_ARGUMENT = 3;
const FIRST = 300_000;
const RANGE = { hostId: FIRST, containerId: 0, length: 65_536 };
const OWN = { mode: NamespaceMode.POD, uids: [RANGE], gids: [RANGE] };

const bench = useCriDaemon({}, "userns");
let cri: typeof bench.cri;
let daemon: typeof bench.daemon;
let folder: string;
beforeEach(() => ({ cri, daemon, folder } = bench));

const withNamespaces = (options: object) => ({ linux: { securityContext: { namespaceOptions: options } } });

async function sandbox(options: object = {}, linux: object = {}): Promise<string> {
  const fields = { linux: { ...linux, ...withNamespaces({ usernsOptions: OWN, ...options }).linux } };
  return bench.sandbox({ hostname: "mapped", ...fields });
}

async function pidOf(containerId: string): Promise<number> {
  const { info } = await cri.call("containerStatus", { containerId, verbose: true });
  return (JSON.parse(info["info"] ?? "") as { pid: number }).pid;
}

describe("a container of a sandbox with a user namespace", () => {
  test("is root inside and nobody of the host's outside, in namespaces that its own root rules", async () => {
    const id = await sandbox({ pid: NamespaceMode.CONTAINER });
    const container = await cri.startContainer(id, withNamespaces({ pid: NamespaceMode.CONTAINER }));
    expect((await cri.output(container, "cat", "/proc/self/uid_map")).trim().split(/\s+/)).toEqual([
      "0",
      `${FIRST}`,
      "65536",
    ]);
    expect(await cri.output(container, "id", "-u")).toBe("0\n");
    expect(await cri.output(container, "hostname")).toBe("mapped\n");
    const pid = await pidOf(container);
    expect(readFileSync(`/proc/${pid}/status`, "utf8")).toMatch(new RegExp(`^Uid:\t${FIRST}\t`, "m"));
    expect(readlinkSync(`/proc/${pid}/ns/user`)).not.toBe(readlinkSync("/proc/self/ns/user"));
    // What belongs to the host's user namespace could not be brought up or mounted by this root.
    const asked = await cri.startContainer(id, {
      ...withNamespaces({ pid: NamespaceMode.CONTAINER }),
      linux: { securityContext: { capabilities: { addCapabilities: ["NET_ADMIN", "SYS_ADMIN"] } } },
    });
    await cri.output(asked, "ip", "link", "add", "dummy0", "type", "bridge");
    await cri.output(asked, "mount", "-t", "tmpfs", "none", "/tmp");
    expect((await cri.call("podSandboxStatus", { podSandboxId: id })).status?.linux?.namespaces?.options).toMatchObject(
      {
        usernsOptions: OWN,
      },
    );
  });

  test("shares a PID namespace, /dev/shm and an address with its neighbours", async () => {
    const id = await sandbox();
    const [first, second] = [
      await cri.startContainer(id, { command: ["sleep", "4711"] }),
      await cri.startContainer(id, { command: ["sh", "-c", "echo hello >/dev/shm/x; exec httpd -f -p 8080 -h /"] }),
    ];
    expect(await cri.output(second, "ps")).toContain("sleep 4711");
    expect(await cri.output(first, "cat", "/dev/shm/x")).toBe("hello\n");
    expect(await cri.output(first, "stat", "-c", "%u:%a", "/dev/shm")).toBe("0:1777\n");
    await expect.poll(() => cri.output(first, "wget", "-qO-", "http://127.0.0.1:8080/etc/hostname")).toBe("mapped\n");
    const { status } = await cri.call("podSandboxStatus", { podSandboxId: id });
    const answer = await fetch(`http://${status?.network?.ip}:8080/etc/hostname`);
    expect(await answer.text()).toBe("mapped\n");
  });

  test("owns the files of its image and what it writes, and the generated ones", async () => {
    const container = await cri.startContainer(await sandbox());
    expect(
      await cri.output(container, "stat", "-c", "%u:%g", "/", "/bin/busybox", "/etc/hosts", "/etc/resolv.conf"),
    ).toBe("0:0\n".repeat(4));
    await cri.output(container, "sh", "-c", "echo more >>/etc/hosts && touch /new && chown 5:6 /new");
    expect(await cri.output(container, "stat", "-c", "%u:%g", "/new")).toBe("5:6\n");
    const upper = join(daemon.root, "containers", container, "upper");
    expect([statSync(join(upper, "new")).uid, statSync(join(upper, "new")).gid]).toEqual([FIRST + 5, FIRST + 6]);
  });

  test("sees the ids of a mount as its mappings say, and writes with them", async () => {
    mkdirSync(join(folder, "data"), { mode: 0o777 });
    writeFileSync(join(folder, "data", "seven"), "");
    chownSync(join(folder, "data", "seven"), 7, 7);
    chownSync(join(folder, "data"), 0, 0);
    const mount = { hostPath: join(folder, "data"), uidMappings: [RANGE], gidMappings: [RANGE] };
    const container = await cri.startContainer(await sandbox(), {
      mounts: [
        { ...mount, containerPath: "/mapped" },
        { hostPath: join(folder, "data"), containerPath: "/plain" },
      ],
    });
    expect(await cri.output(container, "stat", "-c", "%u", "/mapped/seven", "/plain/seven")).toBe("7\n65534\n");
    await cri.output(container, "touch", "/mapped/made");
    expect(statSync(join(folder, "data", "made")).uid).toBe(0);
  });

  test("has a device by its path on the host, whatever it is called inside", async () => {
    const container = await cri.startContainer(await sandbox(), {
      devices: [{ hostPath: "/dev/zero", containerPath: "/dev/mine/zero", permissions: "rw" }],
    });
    expect(await cri.output(container, "stat", "-c", "%F %t:%T", "/dev/mine/zero")).toBe(
      "character special file 1:5\n",
    );
    expect(await cri.output(container, "sh", "-c", "head -c 3 /dev/mine/zero | od -An -tx1")).toBe(" 00 00 00\n");
  });

  test("gets the sysctls of its IPC and network namespaces", async () => {
    const sysctls = { "kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "7" };
    const container = await cri.startContainer(await sandbox({}, { sysctls }));
    expect(await cri.output(container, "cat", "/proc/sys/kernel/shm_rmid_forced")).toBe("1\n");
    expect(await cri.output(container, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start")).toBe("7\n");
  });
});

describe("a user namespace is refused", () => {
  const refusal = (usernsOptions: object, more: object = {}) =>
    bench.sandbox(withNamespaces({ usernsOptions, ...more })).then(
      (id) => `made ${id}`,
      (err: { code: number; metadata: { get(key: string): unknown[] } }) => [
        err.code,
        err.metadata.get("minke-code")[0],
      ],
    );
  test.for([
    ["two mappings", { ...OWN, uids: [RANGE, { ...RANGE, containerId: 65_536 }] }, {}],
    ["none", { ...OWN, gids: [] }, {}],
    ["one that does not begin with root", { ...OWN, uids: [{ ...RANGE, containerId: 1 }] }, {}],
    ["one past the last id", { ...OWN, uids: [{ ...RANGE, hostId: 4_294_967_000 }] }, {}],
    ["mappings with mode NODE", { ...OWN, mode: NamespaceMode.NODE }, {}],
    ["mode CONTAINER", { ...OWN, mode: NamespaceMode.CONTAINER }, {}],
    ["the host's network", OWN, { network: NamespaceMode.NODE }],
    ["the host's IPC", OWN, { ipc: NamespaceMode.NODE }],
  ] as const)("with %s", async ([, options, more]) => {
    expect(await refusal(options, more)).toEqual([INVALID_ARGUMENT, "INVALID_FIELD"]);
  });
});

test("attach and port-forward lead into a pod with hostUsers false", async () => {
  await daemon.runPod(`
apiVersion: v1
kind: Pod
metadata: { name: reached }
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  containers:
    - { name: echo, image: "minke.test/busybox:1", stdin: true, command: [sh, -c, 'while read -r line; do echo "heard $line"; done'] }
    - { name: web, image: "minke.test/busybox:1", command: [httpd, -f, -p, "8080", -h, /etc] }
`);
  const env = { ...process.env, MINKE_ROOT: daemon.root, MINKE_RUN: daemon.run };
  const live = (...args: string[]) => spawn(process.execPath, [MINKE, ...args], { env });
  const printed = new Map<ChildProcessWithoutNullStreams, string>();
  const [typing, forward] = [live("attach", "-i", "reached", "-c", "echo"), live("port-forward", "reached", ":8080")];
  try {
    for (const child of [typing, forward])
      child.stdout.on("data", (chunk) => printed.set(child, (printed.get(child) ?? "") + String(chunk)));
    // A line may be read before the answer could reach this client.
    const heard = () => {
      typing.stdin.write("one\n");
      return printed.get(typing);
    };
    await expect.poll(heard, { timeout: 60_000, interval: 500 }).toContain("heard one\n");
    await expect.poll(() => printed.get(forward), { timeout: 60_000 }).toMatch(/-> 8080\n/);
    const port = /127\.0\.0\.1:(\d+)/.exec(printed.get(forward) ?? "")?.[1];
    expect(await (await fetch(`http://127.0.0.1:${port}/hostname`)).text()).toBe("reached\n");
  } finally {
    for (const child of [typing, forward]) child.kill("SIGKILL");
  }
  await daemon.expect("delete", "pod", "reached");
});

test("pods with hostUsers false have ids that no other has, keep them over a kill, and own their volumes", async () => {
  const pod = (name: string) => `
apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  volumes: [{ name: data, emptyDir: {} }, { name: memory, emptyDir: { medium: Memory } }]
  containers:
    - name: main
      image: "minke.test/busybox:1"
      command: ["sh", "-c", "touch /data/x /memory/x; cat /proc/self/uid_map; exec sleep 1000"]
      volumeMounts: [{ name: data, mountPath: /data }, { name: memory, mountPath: /memory }]
`;
  const hostId = async (name: string) =>
    Number((await daemon.expect("exec", name, "--", "cat", "/proc/self/uid_map")).trim().split(/\s+/)[1]);
  for (const name of ["one", "two"]) await daemon.runPod(pod(name));
  const ids = [await hostId("one"), await hostId("two")];
  expect(ids[0]).toBeGreaterThanOrEqual(0x7000_0000);
  expect(Math.abs((ids[0] ?? 0) - (ids[1] ?? 0))).toBeGreaterThanOrEqual(65_536);
  expect(await daemon.expect("exec", "one", "--", "stat", "-c", "%u", "/data", "/data/x", "/memory", "/memory/x")).toBe(
    "0\n".repeat(4),
  );
  await daemon.kill9();
  await daemon.start();
  await daemon.runPod(pod("three"));
  const third = await hostId("three");
  expect(await hostId("one")).toBe(ids[0]);
  expect(ids).not.toContain(third);
  for (const name of ["one", "two", "three"]) await daemon.expect("delete", "pod", name);
});
