/**
 * Nonsense over CRI: a sample of what test/soak sends, frames that are none, and fields that contradict each
 * other. A status of its own for each, a daemon that goes on, and nothing left.
 */
import { readdirSync } from "node:fs";
import { connect } from "node:net";
import { expect, test } from "vitest";
import { ContainerConfig, PodSandboxConfig } from "../../src/cri/generated/runtime/v1/api.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { nonsenseCases, PROTO, sample } from "../harness/cri-nonsense.js";
import { randomOf } from "../harness/random.js";
import { callRaw, connectRaw, framed } from "../harness/raw-grpc.js";
import { NonsenseRun } from "../harness/cri-nonsense-run.js";

const INVALID_ARGUMENT = 3;
const UNIMPLEMENTED = 12;
const INTERNAL = 13;
const RESOURCE_EXHAUSTED = 8;

const bench = useCriDaemon();
/** Another number is another sample. */
const seed = Number(process.env["MINKE_NONSENSE_SEED"] ?? 2721727172);

/** Of a method: those that make something take longest. */
const SAMPLE = { RunPodSandbox: 8, CreateContainer: 12 };

test(`a sample of nonsense to every method, MINKE_NONSENSE_SEED=${seed}`, async () => {
  const random = randomOf(seed);
  const cases = PROTO.methods.flatMap((method) => {
    const count = SAMPLE[method.path.split("/").at(-1) as keyof typeof SAMPLE] ?? 3;
    return [...nonsenseCases(method).slice(0, 3), ...sample(nonsenseCases(method), count, random)];
  });
  const run = await NonsenseRun.start(bench.daemon);
  try {
    expect(await run.complaints(cases)).toEqual([]);
  } finally {
    await run.close();
  }
});

const SANDBOX: readonly [string, Parameters<typeof PodSandboxConfig.fromPartial>[0]][] = [
  ["a group without a user", { linux: { securityContext: { runAsGroup: { value: 5n } } } }],
  [
    "a user namespace beside the host's network",
    {
      linux: {
        securityContext: {
          namespaceOptions: {
            network: 2,
            usernsOptions: {
              mode: 0,
              uids: [{ hostId: 100_000, containerId: 0, length: 65_536 }],
              gids: [{ hostId: 100_000, containerId: 0, length: 65_536 }],
            },
          },
        },
      },
    },
  ],
  [
    "another host port than container port on the host's network",
    {
      portMappings: [{ containerPort: 80, hostPort: 81 }],
      linux: { securityContext: { namespaceOptions: { network: 2 } } },
    },
  ],
  ["a cgroup parent that no path can name", { linux: { cgroupParent: `/${"x".repeat(70_000)}` } }],
  ["a container's PID namespace as target", { linux: { securityContext: { namespaceOptions: { pid: 3 } } } }],
];

test("a sandbox of fields that exclude each other is INVALID_ARGUMENT", async () => {
  for (const [what, fields] of SANDBOX) {
    const config = PodSandboxConfig.fromPartial({ metadata: { name: "n", uid: "n", namespace: "n" }, ...fields });
    const { status } = await bench.cri.refusal("runPodSandbox", { config });
    expect({ what, status }).toEqual({ what, status: INVALID_ARGUMENT });
  }
});

const MOUNT = { containerPath: "/mnt", hostPath: "/usr/share" };
const CONTAINER: readonly [string, Parameters<typeof ContainerConfig.fromPartial>[0]][] = [
  ["a uid beside a user name", { linux: { securityContext: { runAsUser: { value: 1n }, runAsUsername: "root" } } }],
  ["a group without a user", { linux: { securityContext: { runAsGroup: { value: 1n } } } }],
  ["the host's network in a pod's own", { linux: { securityContext: { namespaceOptions: { network: 2 } } } }],
  ["no target for its PID namespace", { linux: { securityContext: { namespaceOptions: { pid: 3 } } } }],
  ["a host path beside an image", { mounts: [{ ...MOUNT, image: { image: "minke.test/busybox:1" } }] }],
  ["a sub path without an image", { mounts: [{ ...MOUNT, imageSubPath: "x" }] }],
  ["a recursively read-only mount that may be written", { mounts: [{ ...MOUNT, recursiveReadOnly: true }] }],
  [
    "a recursively read-only mount that propagates",
    { mounts: [{ ...MOUNT, recursiveReadOnly: true, readonly: true, propagation: 2 }] },
  ],
  ["mapped uids and no gids", { mounts: [{ ...MOUNT, uidMappings: [{ hostId: 1, containerId: 0, length: 1 }] }] }],
  [
    "a page size that leads to another file",
    { linux: { resources: { hugepageLimits: [{ pageSize: "/../memory", limit: 1n }] } } },
  ],
  ["a log path that is too long", { logPath: "x".repeat(70_000) }],
];

test("a container of fields that exclude each other is INVALID_ARGUMENT", async () => {
  const podSandboxId = await bench.sandbox({ logDirectory: bench.folder });
  for (const [what, fields] of CONTAINER) {
    const config = ContainerConfig.fromPartial({
      metadata: { name: "n" },
      image: { image: "minke.test/busybox:1" },
      ...fields,
    });
    const refusal = await bench.cri.refusal("createContainer", { podSandboxId, config });
    expect({ what, status: refusal.status }).toEqual({ what, status: INVALID_ARGUMENT });
  }
  const containerId = await bench.cri.startContainer(podSandboxId);
  const streams = { containerId, cmd: ["true"], stdout: true };
  for (const fields of [{ cmd: [] }, { cmd: ["a\0b"] }, { stdout: false }, { tty: true, stderr: true }]) {
    expect(await bench.cri.refusal("exec", { ...streams, ...fields })).toMatchObject({ status: INVALID_ARGUMENT });
  }
  expect(await bench.cri.refusal("execSync", { containerId, cmd: ["a\0b"] })).toMatchObject({
    status: INVALID_ARGUMENT,
  });
  expect(await bench.cri.refusal("attach", { containerId, stdout: true, tty: true })).toMatchObject({
    status: INVALID_ARGUMENT,
  });
});

test("a mount of a host path that is not there is MOUNT_SOURCE_INVALID", async () => {
  const config = ContainerConfig.fromPartial({
    metadata: { name: "n" },
    image: { image: "minke.test/busybox:1" },
    mounts: [{ ...MOUNT, hostPath: "/no/such/path" }],
  });
  const podSandboxId = await bench.sandbox();
  expect(await bench.cri.refusal("createContainer", { podSandboxId, config })).toMatchObject({
    status: 9,
    code: "MOUNT_SOURCE_INVALID",
  });
});

test("checkpoints are refused with a sentence", async () => {
  expect(await bench.cri.refusal("checkpointPod", { podSandboxId: "x" })).toMatchObject({
    status: UNIMPLEMENTED,
    message: expect.stringContaining("checkpoints are not implemented"),
  });
});

/** gRPC's status of a call of raw bytes; -1: the connection or stream ended without one. */
function rawCall(path: string, bytes: Buffer, headers: Record<string, string> = {}): Promise<number> {
  const session = connectRaw(bench.daemon.criSocket);
  return new Promise<number>((resolve) => {
    session.on("error", () => resolve(-1));
    const stream = callRaw(session, path, bytes, headers);
    const take = (got: object): void => {
      const status = (got as Record<string, unknown>)["grpc-status"];
      if (status !== undefined) resolve(Number(status));
    };
    stream.on("response", take);
    stream.on("trailers", take);
    stream.on("error", () => resolve(-1));
    stream.on("close", () => resolve(-1));
    stream.resume();
  }).finally(() => session.destroy());
}

const VERSION = "/runtime.v1.RuntimeService/Version";

test("methods and services that there are not are UNIMPLEMENTED", async () => {
  const empty = Buffer.alloc(5);
  expect(await rawCall("/runtime.v1.RuntimeService/Fly", empty)).toBe(UNIMPLEMENTED);
  expect(await rawCall("/runtime.v9.RuntimeService/Version", empty)).toBe(UNIMPLEMENTED);
  expect(await rawCall("/", empty)).toBe(UNIMPLEMENTED);
});

const FRAMES: readonly [string, Buffer, Record<string, string>, number][] = [
  ["whose payload is no message", framed(Buffer.from([0x0f, 0xff, 0xff])), {}, INVALID_ARGUMENT],
  ["that says it is 4 GiB", framed(Buffer.alloc(10), 0xffff_ffff), {}, RESOURCE_EXHAUSTED],
  ["that ends before its length", framed(Buffer.alloc(10), 100), {}, INTERNAL],
  ["of half a head", Buffer.from([0, 0]), {}, INTERNAL],
  ["that is compressed as nobody says", framed(Buffer.from("ab"), 2, 1), {}, INTERNAL],
  ["of an unknown compression", framed(Buffer.from("ab"), 2, 1), { "grpc-encoding": "zip" }, UNIMPLEMENTED],
];

test("frames that are none end with a status, and harm nobody", async () => {
  for (const [what, bytes, headers, status] of FRAMES) {
    expect({ what, status: await rawCall(VERSION, bytes, headers) }).toEqual({ what, status });
    expect(await bench.cri.call("version")).toMatchObject({ runtimeName: "minke" });
  }
});

test("bytes that are no HTTP/2 at all harm nobody", async () => {
  const descriptors = () => readdirSync(`/proc/${bench.daemon.pid}/fd`).length;
  const before = descriptors();
  for (const text of ["GET / HTTP/1.1\r\n\r\n", "\0\0\0", `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${"\xff".repeat(9)}`]) {
    const socket = connect(bench.daemon.criSocket);
    socket.on("error", () => undefined);
    await new Promise<void>((resolve) => socket.write(Buffer.from(text, "latin1"), () => resolve()));
    expect(await bench.cri.call("version")).toMatchObject({ runtimeName: "minke" });
    socket.destroy();
  }
  await expect.poll(descriptors).toBeLessThanOrEqual(before);
});
