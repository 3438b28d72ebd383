import { expect, test } from "vitest";
import type { ContainerId, Digest, SandboxId } from "../../../../src/base/ids.js";
import { toContainerConfig } from "../../../../src/cri/convert/container-config.js";
import { toSandboxConfig } from "../../../../src/cri/convert/sandbox-config.js";
import { toCriSignal, toSignalName } from "../../../../src/cri/convert/signals.js";
import { toContainerStatus, toImage, toInfo, toPodSandboxStatus } from "../../../../src/cri/convert/status.js";
import {
  ContainerConfig,
  ContainerState,
  NamespaceMode,
  PodSandboxConfig,
  PodSandboxState,
  Signal,
} from "../../../../src/cri/generated/runtime/v1/api.js";
import type { ImageRecord } from "../../../../src/image/image-record.js";
import type { ContainerStatus } from "../../../../src/state/container.js";

const sandboxConfig = toSandboxConfig(
  PodSandboxConfig.fromPartial({ metadata: { name: "p", uid: "u", namespace: "n", attempt: 3 }, labels: { a: "b" } }),
  "",
);
const container: ContainerStatus = {
  id: "c".repeat(64) as ContainerId,
  sandboxId: "5".repeat(64) as SandboxId,
  bootId: "b",
  config: toContainerConfig(
    ContainerConfig.fromPartial({
      metadata: { name: "c", attempt: 1 },
      image: { image: "busybox" },
      envs: [{ key: "TOKEN", value: Buffer.from("secret") }],
      linux: { resources: { cpuShares: 512n } },
    }),
    sandboxConfig,
  ),
  imageId: `sha256:${"1".repeat(64)}` as Digest,
  imageRef: "busybox",
  state: "running",
  createdAtNs: "1700000000000000001",
  startedAtNs: "1700000000000000002",
  cgroupPath: "/x",
  logPath: "/log",
  stopSignal: "SIGTERM",
  user: { uid: 1000, gid: 2000, supplementalGroups: [2000] },
};

const image: ImageRecord = {
  id: container.imageId,
  manifestDigest: `sha256:${"2".repeat(64)}` as Digest,
  repoTags: ["docker.io/library/busybox:latest"],
  repoDigests: [`docker.io/library/busybox@sha256:${"3".repeat(64)}`],
  sizeBytes: 10,
  layers: [],
  createdAtNs: "0",
  pulledAtNs: "0",
  config: {
    user: "www-data:100",
    env: [],
    entrypoint: [],
    cmd: [],
    workingDir: "",
    volumes: [],
    exposedPorts: [],
    labels: {},
  },
};

test("a ready sandbox shows its addresses, IPv4 first, and what it shares", () => {
  const status = toPodSandboxStatus({
    id: container.sandboxId,
    bootId: "b",
    config: sandboxConfig,
    state: "ready",
    createdAtNs: "5",
    cgroupPath: "/x",
    network: { interface: "eth0", ips: ["10.0.0.2", "fd00::2"] },
    spans: [],
  });
  expect(status).toMatchObject({
    metadata: { name: "p", uid: "u", namespace: "n", attempt: 3 },
    state: PodSandboxState.SANDBOX_READY,
    createdAt: 5n,
    network: { ip: "10.0.0.2", additionalIps: [{ ip: "fd00::2" }] },
    linux: { namespaces: { options: { network: NamespaceMode.POD, pid: NamespaceMode.POD } } },
    labels: { a: "b" },
  });
});

test("a running container has times in nanoseconds, no end, its user and its resources", () => {
  expect(toContainerStatus(container, image)).toMatchObject({
    state: ContainerState.CONTAINER_RUNNING,
    createdAt: 1700000000000000001n,
    startedAt: 1700000000000000002n,
    finishedAt: 0n,
    exitCode: 0,
    image: { image: "docker.io/library/busybox:latest", userSpecifiedImage: "busybox" },
    imageRef: image.repoDigests[0],
    imageId: container.imageId,
    logPath: "/log",
    resources: { linux: { cpuShares: 512n } },
    user: { linux: { uid: 1000n, gid: 2000n, supplementalGroups: [2000n] } },
    stopSignal: Signal.SIGNAL_SIGTERM,
  });
});

test("a container that could not be started has ended, with the code that says why", () => {
  const startError = { reason: "StartError", message: "no such file", exitCode: 127 };
  expect(
    toContainerStatus(
      { ...container, state: "exited", startError, reason: "StartError", message: "no such file" },
      undefined,
    ),
  ).toMatchObject({
    state: ContainerState.CONTAINER_EXITED,
    exitCode: 127,
    finishedAt: 1700000000000000002n,
    reason: "StartError",
    message: "no such file",
    imageRef: container.imageId,
  });
});

test("an image names its user by number or by name", () => {
  expect(toImage(image, false)).toMatchObject({ uid: undefined, username: "www-data", size: 10n });
  expect(toImage({ ...image, config: { ...image.config, user: "1003:users" } }, true)).toMatchObject({
    uid: { value: 1003n },
    username: "",
    pinned: true,
  });
});

test("verbose info holds no environment value", () => {
  expect(toInfo(container).info).toContain("TOKEN");
  expect(toInfo(container).info).not.toContain("secret");
});

test("every signal of CRI comes back as itself", () => {
  const values = Object.entries(Signal).filter(
    ([name, value]) => typeof value === "number" && value > 0 && name.startsWith("SIGNAL_"),
  );
  expect(values).toHaveLength(65);
  for (const [, value] of values) {
    const name = toSignalName(value, "stop_signal") ?? "";
    expect(toSignalName(toCriSignal(name), "stop_signal")).toBe(name);
  }
  expect(toCriSignal("term")).toBe(Signal.SIGNAL_SIGTERM);
});
