/** Sandboxes and containers over CRI, against the whole daemon. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  ContainerConfig,
  ContainerEventType,
  ContainerState,
  ImageSpec,
  MountPropagation,
  NamespaceMode,
  PodSandboxConfig,
  PodSandboxState,
  SecurityProfile_ProfileType,
  Signal,
} from "../../src/cri/generated/runtime/v1/api.js";
import { CriClient } from "../harness/cri.js";
import { FIXTURE_LAYOUT, TestDaemon } from "../harness/daemon.js";
import type { Snapshot } from "../harness/leaks.js";
import { cgroup2Mount, missing, requires } from "../harness/requires.js";
import { SpdyClient } from "../harness/spdy-client.js";

const DEADLINE_EXCEEDED = 4;
const NOT_FOUND = 5;

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;
let cri: CriClient;
let before: Snapshot;
let sandboxes: string[] = [];
let folder: string;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  daemon = await TestDaemon.startWithImages();
  cri = new CriClient(daemon.criSocket);
});
afterAll(async () => {
  cri?.close();
  await daemon?.dispose();
});
beforeEach(() => {
  before = daemon.snapshot();
  folder = mkdtempSync(join(tmpdir(), "minke-cri-test-"));
});
afterEach(async () => {
  for (const id of sandboxes.splice(0)) await cri.removeSandbox(id);
  rmSync(folder, { recursive: true, force: true });
  await daemon.expectNothingLeft(before);
});

async function sandbox(...args: Parameters<CriClient["runSandbox"]>): Promise<string> {
  const id = await cri.runSandbox(...args);
  sandboxes.push(id);
  return id;
}

const security = (context: object) => ({ linux: { securityContext: context } });

describe("sandboxes", () => {
  test("are ready with addresses, listed by filter and prefix, and gone after their removal", async () => {
    const id = await sandbox({ labels: { app: "web" }, annotations: { note: "kept" } });
    const { status } = await cri.call("podSandboxStatus", { podSandboxId: id.slice(0, 12) });
    expect(status).toMatchObject({
      id,
      state: PodSandboxState.SANDBOX_READY,
      labels: { app: "web" },
      annotations: { note: "kept" },
    });
    expect(status?.network?.ip).toMatch(/^\d+\.\d+\.\d+\.\d+$/);
    const listed = async (labelSelector: Record<string, string>) =>
      (await cri.call("listPodSandbox", { filter: { id: "", state: undefined, labelSelector } })).items.map(
        (item) => item.id,
      );
    expect(await listed({ app: "web" })).toEqual([id]);
    expect(await listed({ app: "db" })).toEqual([]);
    await cri.removeSandbox(id);
    expect(await cri.refusal("podSandboxStatus", { podSandboxId: id })).toMatchObject({
      status: NOT_FOUND,
      code: "SANDBOX_NOT_FOUND",
    });
  });

  test("made twice with one name are one", async () => {
    const metadata = { name: "twin", uid: "u", namespace: "n", attempt: 0 };
    const [first, second] = await Promise.all([sandbox({ metadata }), cri.runSandbox({ metadata })]);
    expect(second).toBe(first);
  });

  test("whose caller's deadline passes are undone or joined: a retry has one, and nothing else is left", async () => {
    for (let deadlineMs = 1; deadlineMs <= 15; deadlineMs += 2) {
      const metadata = { name: `late-${deadlineMs}`, uid: "u", namespace: "n", attempt: 0 };
      const config = PodSandboxConfig.fromPartial({ metadata });
      const first = await cri.call("runPodSandbox", { config }, deadlineMs).then(
        ({ podSandboxId }) => podSandboxId,
        ({ code }: { code: number }) => code,
      );
      const id = await sandbox({ metadata });
      expect([DEADLINE_EXCEEDED, id]).toContain(first);
      expect((await cri.call("listPodSandbox")).items.map((item) => item.id)).toEqual([id]);
      await cri.removeSandbox(sandboxes.pop() ?? "");
    }
    const podSandboxId = await sandbox();
    for (let deadlineMs = 1; deadlineMs <= 6; deadlineMs++) {
      const config = ContainerConfig.fromPartial({
        metadata: { name: `late-${deadlineMs}`, attempt: 0 },
        image: { image: "minke.test/busybox:1" },
      });
      await cri.call("createContainer", { podSandboxId, config }, deadlineMs).catch(() => undefined);
      await cri.call("createContainer", { podSandboxId, config });
    }
    expect((await cri.call("listContainers")).containers).toHaveLength(6);
  });

  test("of a pod of minke's own do not exist here", async () => {
    await daemon.runPod(`
apiVersion: v1
kind: Pod
metadata: { name: own }
spec:
  terminationGracePeriodSeconds: 0
  containers: [{ name: main, image: "minke.test/busybox:1", command: ["sleep", "1000"] }]
`);
    expect((await cri.call("listPodSandbox")).items).toEqual([]);
    expect((await cri.call("listContainers")).containers).toEqual([]);
    await daemon.expect("delete", "pod", "own");
  });

  test("stopped end their containers, and stopping again succeeds", async () => {
    const id = await sandbox();
    const container = await cri.startContainer(id);
    await cri.call("stopPodSandbox", { podSandboxId: id });
    await cri.call("stopPodSandbox", { podSandboxId: id });
    expect(await cri.status(container)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 137 });
  });
});

describe("containers", () => {
  test("go from created over running to exited, with their exit code and times in order", async () => {
    const id = await cri.createContainer(await sandbox(), { command: ["sh", "-c", "exit 3"] });
    expect((await cri.status(id)).state).toBe(ContainerState.CONTAINER_CREATED);
    await cri.call("startContainer", { containerId: id });
    await expect.poll(async () => (await cri.status(id)).state).toBe(ContainerState.CONTAINER_EXITED);
    const { createdAt, startedAt, finishedAt, exitCode, reason } = await cri.status(id);
    expect([exitCode, reason]).toEqual([3, "Error"]);
    expect(createdAt <= startedAt && startedAt <= finishedAt).toBe(true);
  });

  test("that were never started are removed", async () => {
    const id = await cri.createContainer(await sandbox());
    await cri.call("removeContainer", { containerId: id });
    expect(await cri.refusal("containerStatus", { containerId: id })).toMatchObject({ status: NOT_FOUND });
  });

  test("whose command is not there fail at start with NOT_FOUND, and their status says 127", async () => {
    const id = await cri.createContainer(await sandbox(), { command: ["/nothing"] });
    expect(await cri.refusal("startContainer", { containerId: id })).toMatchObject({
      status: NOT_FOUND,
      code: "COMMAND_NOT_FOUND",
    });
    expect(await cri.status(id)).toMatchObject({
      state: ContainerState.CONTAINER_EXITED,
      exitCode: 127,
      reason: "StartError",
    });
  });

  test("get environment values byte for byte, and so do their execs", async () => {
    const value = Buffer.from([0x62, 0xff, 0xc3, 0xa9, 0x80, 0x5c, 0x22]);
    const id = await cri.startContainer(await sandbox(), { envs: [{ key: "BYTES", value }] });
    for (const cmd of [
      ["cat", "/proc/1/environ"],
      ["cat", "/proc/self/environ"],
    ]) {
      const { stdout } = await cri.call("execSync", { containerId: id, cmd, timeout: 10n });
      if (cmd[1] === "/proc/1/environ") continue; // Pid 1 is minke-init in a shared namespace.
      expect(stdout.includes(Buffer.concat([Buffer.from("BYTES="), value, Buffer.from([0])]))).toBe(true);
    }
    const own = await cri.startContainer(await sandbox(), {
      envs: [{ key: "BYTES", value }],
      ...security({ namespaceOptions: { pid: NamespaceMode.CONTAINER } }),
    });
    const { stdout } = await cri.call("execSync", { containerId: own, cmd: ["cat", "/proc/1/environ"], timeout: 10n });
    expect(stdout.includes(Buffer.concat([Buffer.from("BYTES="), value, Buffer.from([0])]))).toBe(true);
  });

  test("stop by their own signal within the grace period", async () => {
    const id = await cri.startContainer(await sandbox(), {
      command: ["sh", "-c", "trap 'exit 42' USR1; while :; do sleep 0.05; done"],
      stopSignal: Signal.SIGNAL_SIGUSR1,
    });
    await cri.call("stopContainer", { containerId: id, timeout: 5n });
    expect(await cri.status(id)).toMatchObject({ exitCode: 42, stopSignal: Signal.SIGNAL_SIGUSR1 });
  });

  test("join the PID namespace of a target", async () => {
    const id = await sandbox(security({ namespaceOptions: { pid: NamespaceMode.CONTAINER } }));
    const target = await cri.startContainer(id, {
      command: ["sleep", "987654"],
      ...security({ namespaceOptions: { pid: NamespaceMode.CONTAINER } }),
    });
    const debug = await cri.startContainer(
      id,
      security({ namespaceOptions: { pid: NamespaceMode.TARGET, targetId: target } }),
    );
    expect(await cri.output(debug, "cat", "/proc/1/cmdline")).toBe("sleep\u0000987654\u0000");
  });

  test("see mounts as asked: read-only, and a missing source is refused", async () => {
    mkdirSync(join(folder, "data"));
    writeFileSync(join(folder, "data", "file"), "content");
    const id = await sandbox();
    const mount = {
      containerPath: "/data",
      hostPath: join(folder, "data"),
      readonly: true,
      propagation: MountPropagation.PROPAGATION_PRIVATE,
    };
    const container = await cri.startContainer(id, { mounts: [mount] });
    expect(await cri.output(container, "cat", "/data/file")).toBe("content");
    const { exitCode } = await cri.call("execSync", {
      containerId: container,
      cmd: ["touch", "/data/x"],
      timeout: 10n,
    });
    expect(exitCode).toBe(1);
    const config = {
      metadata: { name: "c", attempt: 0 },
      image: { image: "minke.test/busybox:1" },
      mounts: [{ ...mount, hostPath: join(folder, "none") }],
    };
    await expect(cri.createContainer(id, config)).rejects.toThrow(/mounts\[0\]\.host_path/);
  });

  test("cannot run a file of a mount with noexec", async () => {
    writeFileSync(join(folder, "program"), "#!/bin/sh\necho ran\n", { mode: 0o755 });
    const mount = { containerPath: "/m", hostPath: folder };
    const id = await cri.startContainer(await sandbox(), {
      mounts: [mount, { ...mount, containerPath: "/n", mountOptions: ["noexec"] }],
    });
    expect(await cri.output(id, "/m/program")).toBe("ran\n");
    const refused = await cri.refusal("execSync", { containerId: id, cmd: ["/n/program"], timeout: 10n });
    expect(refused.code).toBe("COMMAND_NOT_EXECUTABLE");
  });

  test("see an image that is mounted: read-only, executable, and kept while it is in use", async () => {
    const image = ImageSpec.fromPartial({ image: "minke.test/probe:1" });
    const id = await cri.startContainer(await sandbox(), {
      mounts: [
        { containerPath: "/probe", image },
        { containerPath: "/part", image, imageSubPath: "usr/bin" },
      ],
    });
    expect(await cri.output(id, "ls", "/probe/usr/bin/probe")).toBe("/probe/usr/bin/probe\n");
    expect(await cri.output(id, "/probe/bin/busybox", "echo", "runs")).toBe("runs\n");
    const { exitCode } = await cri.call("execSync", { containerId: id, cmd: ["touch", "/probe/x"], timeout: 10n });
    expect(exitCode).toBe(1);
    expect(await cri.output(id, "ls", "/part")).toBe("probe\n");
    expect((await cri.status(id)).mounts[1]?.imageSubPath).toBe("usr/bin");
    const found = await cri.call("imageStatus", { image });
    expect((await cri.status(id)).mounts[0]?.image?.imageRef).toBe(found.image?.id);
    await cri.call("removeImage", { image });
    expect((await cri.call("imageStatus", { image })).image).toBeUndefined();
    expect(await cri.output(id, "/probe/bin/busybox", "echo", "runs")).toBe("runs\n");
    await daemon.expect("load", FIXTURE_LAYOUT);
  });

  test("use a device that they were given, and none that they were not", async () => {
    const id = await sandbox();
    const device = { hostPath: "/dev/zero", containerPath: "/dev/nil", permissions: "r" };
    const container = await cri.startContainer(id, { devices: [device] });
    expect(await cri.output(container, "sh", "-c", "head -c 4 /dev/nil | wc -c")).toBe("4\n");
  });

  test("run under the default seccomp profile: no mount, no new namespaces, all else", async () => {
    const id = await cri.startContainer(
      await sandbox(),
      security({
        seccomp: { profileType: SecurityProfile_ProfileType.RuntimeDefault },
        capabilities: { addCapabilities: ["NET_ADMIN"] },
      }),
    );
    expect(await cri.output(id, "grep", "Seccomp:", "/proc/self/status")).toBe("Seccomp:\t2\n");
    const { stderr } = await cri.call("execSync", { containerId: id, cmd: ["unshare", "-U", "true"], timeout: 10n });
    expect(stderr.toString()).toMatch(/not permitted/);
    expect(await cri.output(id, "sh", "-c", "ls / | wc -l")).toMatch(/^\d+\n$/);
  });
});

describe("exec and logs", () => {
  test("execSync gives output and exit code, and ends a command at its timeout with all that it started", async () => {
    const id = await cri.startContainer(await sandbox());
    const { stdout, stderr, exitCode } = await cri.call("execSync", {
      containerId: id,
      cmd: ["sh", "-c", "echo o; echo e >&2; exit 9"],
      timeout: 0n,
    });
    expect([stdout.toString(), stderr.toString(), exitCode]).toEqual(["o\n", "e\n", 9]);
    const timedOut = await cri.refusal("execSync", {
      containerId: id,
      cmd: ["sh", "-c", "sleep 4321 & sleep 4321"],
      timeout: 1n,
    });
    expect(timedOut).toMatchObject({ status: DEADLINE_EXCEEDED, code: "EXEC_TIMEOUT" });
    expect(await cri.output(id, "ps", "-o", "args")).not.toContain("sleep 4321");
  });

  test("execSync cuts what one answer cannot hold, and still says how the command ended", async () => {
    const id = await cri.startContainer(await sandbox());
    const cmd = ["sh", "-c", "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exit 5"];
    const { stdout, stderr, exitCode } = await cri.call("execSync", { containerId: id, cmd, timeout: 30n });
    expect(exitCode).toBe(5);
    expect(stdout.length + stderr.length).toBeGreaterThan(15_000_000);
    expect(stdout.length + stderr.length).toBeLessThan(16 * 1024 * 1024);
  });

  test("a log is reopened where its file was moved away", async () => {
    mkdirSync(join(folder, "logs"));
    const id = await sandbox({ logDirectory: join(folder, "logs") });
    const container = await cri.startContainer(id, {
      command: ["sh", "-c", "i=0; while :; do echo $((i+=1)); sleep 0.02; done"],
      logPath: "c/0.log",
    });
    const log = join(folder, "logs/c/0.log");
    await expect.poll(() => readFileSync(log, "utf8")).toMatch(/^\S+Z stdout F 1\n/);
    renameSync(log, `${log}.old`);
    await cri.call("reopenContainerLog", { containerId: container });
    await expect.poll(() => readFileSync(log, "utf8")).toMatch(/stdout F \d+\n/);
    const numbers =
      (readFileSync(`${log}.old`, "utf8") + readFileSync(log, "utf8")).match(/\d+(?=\n)/g)?.map(Number) ?? [];
    expect(numbers).toEqual(numbers.map((_, index) => index + 1));
  });

  test("exec over SPDY has a terminal of the client's size", async () => {
    const id = await cri.startContainer(await sandbox());
    const { url } = await cri.call("exec", { containerId: id, cmd: ["sh"], tty: true, stdin: true, stdout: true });
    const client = await SpdyClient.connect(url, ["v4.channel.k8s.io"]);
    const error = await client.open({ streamType: "error" });
    const stdin = await client.open({ streamType: "stdin" });
    const stdout = await client.open({ streamType: "stdout" });
    const resize = await client.open({ streamType: "resize" });
    resize.write('{"Width":101,"Height":31}\n');
    await expect.poll(() => stdout.received().toString()).toContain("#");
    stdin.write("stty size; exit 4\n");
    await stdout.ended.catch(() => undefined);
    expect(stdout.received().toString()).toContain("31 101");
    expect(JSON.parse((await error.ended).toString())).toMatchObject({ details: { causes: [{ message: "4" }] } });
    client.destroy();
  });

  test("forty execs at once over SPDY leave nothing", async () => {
    const id = await cri.startContainer(await sandbox());
    await Promise.all(
      Array.from({ length: 40 }, async (_, index) => {
        const { url } = await cri.call("exec", { containerId: id, cmd: ["cat"], stdin: true, stdout: true });
        const client = await SpdyClient.connect(url, ["v5.channel.k8s.io"]);
        const error = await client.open({ streamType: "error" });
        const stdin = await client.open({ streamType: "stdin" });
        const stdout = await client.open({ streamType: "stdout" });
        stdin.write(`exec ${index}`, true);
        expect((await stdout.ended).toString()).toBe(`exec ${index}`);
        expect(JSON.parse((await error.ended).toString())).toMatchObject({ status: "Success" });
        client.close();
        await client.closed;
      }),
    );
    expect(await cri.output(id, "ps", "-o", "args")).not.toMatch(/^cat$/m);
  });

  test("port-forward reaches the pod's localhost", async () => {
    const id = await sandbox();
    await cri.startContainer(id, { image: { image: "minke.test/nginx:1" }, command: [] });
    const { url } = await cri.call("portForward", { podSandboxId: id });
    const client = await SpdyClient.connect(url, ["portforward.k8s.io"]);
    const ask = async (requestID: string) => {
      const error = await client.open({ streamType: "error", port: "80", requestID });
      error.write("", true);
      const data = await client.open({ streamType: "data", port: "80", requestID });
      data.write("GET / HTTP/1.0\r\n\r\n", true);
      return [(await data.ended).toString().split("\r\n")[0], (await error.ended).toString()];
    };
    await expect.poll(() => ask(String(Math.random()))).toEqual(["HTTP/1.1 200 OK", ""]);
    client.destroy();
  });
});

describe("what goes wrong", () => {
  test("a shared PID namespace that loses its first process ends its sandbox", async () => {
    const id = await sandbox();
    const container = await cri.startContainer(id);
    const { info } = await cri.call("podSandboxStatus", { podSandboxId: id, verbose: true });
    const { initPid } = JSON.parse(info["info"] ?? "{}") as { initPid: number };
    process.kill(initPid, "SIGKILL");
    const state = async () => (await cri.call("podSandboxStatus", { podSandboxId: id })).status?.state;
    await expect.poll(state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    expect(await cri.status(container)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 137 });
  });

  test("a frozen container is stopped and removed", async () => {
    const id = await cri.startContainer(await sandbox());
    const { info } = await cri.call("containerStatus", { containerId: id, verbose: true });
    const { cgroupPath } = JSON.parse(info["info"] ?? "{}") as { cgroupPath: string };
    writeFileSync(join(cgroup2Mount() ?? "", cgroupPath, "cgroup.freeze"), "1");
    await cri.call("stopContainer", { containerId: id, timeout: 1n });
    const { state, exitCode } = await cri.status(id);
    expect(state).toBe(ContainerState.CONTAINER_EXITED);
    // SIGTERM was pending when SIGKILL thawed it: either may be the one that ended it.
    expect([137, 143]).toContain(exitCode);
    await cri.call("removeContainer", { containerId: id });
  });

  test("a killed daemon finds its containers running, and how one ended meanwhile", async () => {
    const id = await sandbox();
    const stays = await cri.startContainer(id);
    const ends = await cri.startContainer(id, { command: ["sh", "-c", "sleep 3; exit 6"] });
    await daemon.kill9();
    await daemon.containerEnded(ends);
    await daemon.start();
    const again = new CriClient(daemon.criSocket);
    try {
      expect((await again.status(stays)).state).toBe(ContainerState.CONTAINER_RUNNING);
      expect(await again.status(ends)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 6 });
      expect(await again.output(stays, "echo", "on")).toBe("on\n");
    } finally {
      again.close();
    }
    // The old connection reconnects by itself.
    await expect
      .poll(() =>
        cri.call("version").then(
          () => true,
          () => false,
        ),
      )
      .toBe(true);
    await cri.removeSandbox(id);
    before = daemon.snapshot();
  });
});

describe("figures and events", () => {
  test("container and sandbox stats are real", async () => {
    const id = await sandbox();
    const container = await cri.startContainer(id, { command: ["sh", "-c", "while :; do :; done"] });
    // The size of a layer is believed for a while: it is written before anybody asks.
    await cri.output(container, "dd", "if=/dev/zero", "of=/big", "bs=1k", "count=500");
    await cri.output(container, "sh", "-c", "ln /big /same && mkdir -p /deep/er && echo x > /deep/er/file");
    await expect
      .poll(
        async () =>
          Number(
            (await cri.call("containerStats", { containerId: container })).stats?.cpu?.usageNanoCores?.value ?? 0n,
          ),
        { timeout: 10_000, interval: 300 },
      )
      .toBeGreaterThan(50_000_000);
    const { stats } = await cri.call("podSandboxStats", { podSandboxId: id });
    expect(stats?.linux?.network?.defaultInterface?.name).toBe("eth0");
    expect(Number(stats?.linux?.process?.processCount?.value)).toBeGreaterThanOrEqual(1);
    expect(Number(stats?.linux?.memory?.workingSetBytes?.value)).toBeGreaterThan(100_000);
    const own = stats?.linux?.containers.find(({ attributes }) => attributes?.id === container);
    const upper = join(daemon.root, "containers", container, "upper");
    const du = (...options: string[]) =>
      BigInt(
        execFileSync("du", ["-s", ...options, upper])
          .toString()
          .split("\t")[0] ?? "",
      );
    expect(own?.writableLayer?.usedBytes?.value).toBe(du("--block-size=1"));
    expect(own?.writableLayer?.inodesUsed?.value).toBe(du("--inodes"));
  });

  test("image file systems are the daemon's own", async () => {
    const { imageFilesystems, containerFilesystems } = await cri.call("imageFsInfo");
    expect(Number(imageFilesystems[0]?.usedBytes?.value)).toBeGreaterThan(1_000_000);
    expect(containerFilesystems).toHaveLength(1);
  });

  test("events tell a container's life in order, with the states of the pod", async () => {
    const events = cri.stream("getContainerEvents");
    await cri.call("version");
    const id = await sandbox();
    const containerId = await cri.startContainer(id, { command: ["true"] });
    await expect.poll(async () => (await cri.status(containerId)).state).toBe(ContainerState.CONTAINER_EXITED);
    await cri.call("removeContainer", { containerId });
    const of = (which: string) => events.received.filter((event) => event.containerId === which);
    await expect.poll(() => of(containerId).length).toBe(4);
    expect(of(containerId).map((event) => event.containerEventType)).toEqual([
      ContainerEventType.CONTAINER_CREATED_EVENT,
      ContainerEventType.CONTAINER_STARTED_EVENT,
      ContainerEventType.CONTAINER_STOPPED_EVENT,
      ContainerEventType.CONTAINER_DELETED_EVENT,
    ]);
    expect(of(containerId)[0]?.podSandboxStatus?.id).toBe(id);
    expect(of(id)[0]?.containerEventType).toBe(ContainerEventType.CONTAINER_STARTED_EVENT);
    events.cancel();
  });
});
