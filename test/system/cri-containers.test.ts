/** Containers over CRI, against the whole daemon. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import {
  ContainerState,
  ImageSpec,
  MountPropagation,
  NamespaceMode,
  SecurityProfile_ProfileType,
  Signal,
} from "../../src/cri/generated/runtime/v1/api.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { FIXTURE_LAYOUT } from "../harness/daemon.js";

const NOT_FOUND = 5;

const bench = useCriDaemon();

const security = (context: object) => ({ linux: { securityContext: context } });

test("containers go from created over running to exited, with their exit code and times in order", async () => {
  const id = await bench.cri.createContainer(await bench.sandbox(), { command: ["sh", "-c", "exit 3"] });
  expect((await bench.cri.status(id)).state).toBe(ContainerState.CONTAINER_CREATED);
  await bench.cri.call("startContainer", { containerId: id });
  await expect.poll(async () => (await bench.cri.status(id)).state).toBe(ContainerState.CONTAINER_EXITED);
  const { createdAt, startedAt, finishedAt, exitCode, reason } = await bench.cri.status(id);
  expect([exitCode, reason]).toEqual([3, "Error"]);
  expect(createdAt <= startedAt && startedAt <= finishedAt).toBe(true);
});

test("containers that were never started are removed", async () => {
  const id = await bench.cri.createContainer(await bench.sandbox());
  await bench.cri.call("removeContainer", { containerId: id });
  expect(await bench.cri.refusal("containerStatus", { containerId: id })).toMatchObject({ status: NOT_FOUND });
});

test("containers whose command is not there fail at start with NOT_FOUND, and their status says 127", async () => {
  const id = await bench.cri.createContainer(await bench.sandbox(), { command: ["/nothing"] });
  expect(await bench.cri.refusal("startContainer", { containerId: id })).toMatchObject({
    status: NOT_FOUND,
    code: "COMMAND_NOT_FOUND",
  });
  expect(await bench.cri.status(id)).toMatchObject({
    state: ContainerState.CONTAINER_EXITED,
    exitCode: 127,
    reason: "StartError",
  });
});

test("containers get environment values byte for byte, and so do their execs", async () => {
  const value = Buffer.from([0x62, 0xff, 0xc3, 0xa9, 0x80, 0x5c, 0x22]);
  const id = await bench.cri.startContainer(await bench.sandbox(), { envs: [{ key: "BYTES", value }] });
  for (const cmd of [
    ["cat", "/proc/1/environ"],
    ["cat", "/proc/self/environ"],
  ]) {
    const { stdout } = await bench.cri.call("execSync", { containerId: id, cmd, timeout: 10n });
    if (cmd[1] === "/proc/1/environ") continue; // Pid 1 is minke-init in a shared namespace.
    expect(stdout.includes(Buffer.concat([Buffer.from("BYTES="), value, Buffer.from([0])]))).toBe(true);
  }
  const own = await bench.cri.startContainer(await bench.sandbox(), {
    envs: [{ key: "BYTES", value }],
    ...security({ namespaceOptions: { pid: NamespaceMode.CONTAINER } }),
  });
  const { stdout } = await bench.cri.call("execSync", {
    containerId: own,
    cmd: ["cat", "/proc/1/environ"],
    timeout: 10n,
  });
  expect(stdout.includes(Buffer.concat([Buffer.from("BYTES="), value, Buffer.from([0])]))).toBe(true);
});

test("containers stop by their own signal within the grace period", async () => {
  const id = await bench.cri.startContainer(await bench.sandbox(), {
    command: ["sh", "-c", "trap 'exit 42' USR1; while :; do sleep 0.05; done"],
    stopSignal: Signal.SIGNAL_SIGUSR1,
  });
  await bench.cri.call("stopContainer", { containerId: id, timeout: 5n });
  expect(await bench.cri.status(id)).toMatchObject({ exitCode: 42, stopSignal: Signal.SIGNAL_SIGUSR1 });
});

test("containers join the PID namespace of a target", async () => {
  const id = await bench.sandbox(security({ namespaceOptions: { pid: NamespaceMode.CONTAINER } }));
  const target = await bench.cri.startContainer(id, {
    command: ["sleep", "987654"],
    ...security({ namespaceOptions: { pid: NamespaceMode.CONTAINER } }),
  });
  const debug = await bench.cri.startContainer(
    id,
    security({ namespaceOptions: { pid: NamespaceMode.TARGET, targetId: target } }),
  );
  expect(await bench.cri.output(debug, "cat", "/proc/1/cmdline")).toBe("sleep\u0000987654\u0000");
});

test("containers see mounts as asked: read-only, and a missing source is refused", async () => {
  mkdirSync(join(bench.folder, "data"));
  writeFileSync(join(bench.folder, "data", "file"), "content");
  const id = await bench.sandbox();
  const mount = {
    containerPath: "/data",
    hostPath: join(bench.folder, "data"),
    readonly: true,
    propagation: MountPropagation.PROPAGATION_PRIVATE,
  };
  const container = await bench.cri.startContainer(id, { mounts: [mount] });
  expect(await bench.cri.output(container, "cat", "/data/file")).toBe("content");
  const { exitCode } = await bench.cri.call("execSync", {
    containerId: container,
    cmd: ["touch", "/data/x"],
    timeout: 10n,
  });
  expect(exitCode).toBe(1);
  const config = {
    metadata: { name: "c", attempt: 0 },
    image: { image: "minke.test/busybox:1" },
    mounts: [{ ...mount, hostPath: join(bench.folder, "none") }],
  };
  await expect(bench.cri.createContainer(id, config)).rejects.toThrow(/mounts\[0\]\.host_path/);
});

test("containers cannot run a file of a mount with noexec", async () => {
  writeFileSync(join(bench.folder, "program"), "#!/bin/sh\necho ran\n", { mode: 0o755 });
  const mount = { containerPath: "/m", hostPath: bench.folder };
  const id = await bench.cri.startContainer(await bench.sandbox(), {
    mounts: [mount, { ...mount, containerPath: "/n", mountOptions: ["noexec"] }],
  });
  expect(await bench.cri.output(id, "/m/program")).toBe("ran\n");
  const refused = await bench.cri.refusal("execSync", { containerId: id, cmd: ["/n/program"], timeout: 10n });
  expect(refused.code).toBe("COMMAND_NOT_EXECUTABLE");
});

test("containers see an image that is mounted: read-only, executable, and kept while it is in use", async () => {
  const image = ImageSpec.fromPartial({ image: "minke.test/probe:1" });
  const id = await bench.cri.startContainer(await bench.sandbox(), {
    mounts: [
      { containerPath: "/probe", image, readonly: true },
      { containerPath: "/part", image, imageSubPath: "usr/bin", readonly: true },
    ],
  });
  expect(await bench.cri.output(id, "ls", "/probe/usr/bin/probe")).toBe("/probe/usr/bin/probe\n");
  expect(await bench.cri.output(id, "/probe/bin/busybox", "echo", "runs")).toBe("runs\n");
  const { exitCode } = await bench.cri.call("execSync", { containerId: id, cmd: ["touch", "/probe/x"], timeout: 10n });
  expect(exitCode).toBe(1);
  expect(await bench.cri.output(id, "ls", "/part")).toBe("probe\n");
  expect((await bench.cri.status(id)).mounts[1]?.imageSubPath).toBe("usr/bin");
  const found = await bench.cri.call("imageStatus", { image });
  expect((await bench.cri.status(id)).mounts[0]?.image?.imageRef).toBe(found.image?.id);
  await bench.cri.call("removeImage", { image });
  expect((await bench.cri.call("imageStatus", { image })).image).toBeUndefined();
  expect(await bench.cri.output(id, "/probe/bin/busybox", "echo", "runs")).toBe("runs\n");
  await bench.daemon.expect("load", FIXTURE_LAYOUT);
});

test("containers use a device that they were given, and none that they were not", async () => {
  const id = await bench.sandbox();
  const device = { hostPath: "/dev/zero", containerPath: "/dev/nil", permissions: "r" };
  const container = await bench.cri.startContainer(id, { devices: [device] });
  expect(await bench.cri.output(container, "sh", "-c", "head -c 4 /dev/nil | wc -c")).toBe("4\n");
});

test("containers run under the default seccomp profile: no mount, no new namespaces, all else", async () => {
  const id = await bench.cri.startContainer(
    await bench.sandbox(),
    security({
      seccomp: { profileType: SecurityProfile_ProfileType.RuntimeDefault },
      capabilities: { addCapabilities: ["NET_ADMIN"] },
    }),
  );
  expect(await bench.cri.output(id, "grep", "Seccomp:", "/proc/self/status")).toBe("Seccomp:\t2\n");
  const { stderr } = await bench.cri.call("execSync", {
    containerId: id,
    cmd: ["unshare", "-U", "true"],
    timeout: 10n,
  });
  expect(stderr.toString()).toMatch(/not permitted/);
  expect(await bench.cri.output(id, "sh", "-c", "ls / | wc -l")).toMatch(/^\d+\n$/);
});
