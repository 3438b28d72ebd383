/** Pod sandboxes over CRI, against the whole daemon. */
import { describe, expect, test } from "vitest";
import {
  ContainerConfig,
  ContainerState,
  NamespaceMode,
  PodSandboxConfig,
  PodSandboxState,
} from "../../src/cri/generated/runtime/v1/api.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { freePort } from "../harness/free-port.js";
import { requires } from "../harness/requires.js";

const DEADLINE_EXCEEDED = 4;
const NOT_FOUND = 5;

const bench = useCriDaemon();

test("sandboxes are ready with addresses, listed by filter and prefix, and gone after their removal", async () => {
  const id = await bench.sandbox({ labels: { app: "web" }, annotations: { note: "kept" } });
  const { status } = await bench.cri.call("podSandboxStatus", { podSandboxId: id.slice(0, 12) });
  expect(status).toMatchObject({
    id,
    state: PodSandboxState.SANDBOX_READY,
    labels: { app: "web" },
    annotations: { note: "kept" },
  });
  expect(status?.network?.ip).toMatch(/^\d+\.\d+\.\d+\.\d+$/);
  const listed = async (labelSelector: Record<string, string>) =>
    (await bench.cri.call("listPodSandbox", { filter: { id: "", state: undefined, labelSelector } })).items.map(
      (item) => item.id,
    );
  expect(await listed({ app: "web" })).toEqual([id]);
  expect(await listed({ app: "db" })).toEqual([]);
  await bench.cri.removeSandbox(id);
  expect(await bench.cri.refusal("podSandboxStatus", { podSandboxId: id })).toMatchObject({
    status: NOT_FOUND,
    code: "SANDBOX_NOT_FOUND",
  });
});

test("sandboxes made twice with one name are one", async () => {
  const metadata = { name: "twin", uid: "u", namespace: "n", attempt: 0 };
  const [first, second] = await Promise.all([bench.sandbox({ metadata }), bench.cri.runSandbox({ metadata })]);
  expect(second).toBe(first);
});

test("sandboxes whose caller's deadline passes are undone or joined: a retry has one, and nothing else is left", async () => {
  for (let deadlineMs = 1; deadlineMs <= 15; deadlineMs += 2) {
    const metadata = { name: `late-${deadlineMs}`, uid: "u", namespace: "n", attempt: 0 };
    const config = PodSandboxConfig.fromPartial({ metadata });
    const first = await bench.cri.call("runPodSandbox", { config }, deadlineMs).then(
      ({ podSandboxId }) => podSandboxId,
      ({ code }: { code: number }) => code,
    );
    const id = await bench.sandbox({ metadata });
    expect([DEADLINE_EXCEEDED, id]).toContain(first);
    expect((await bench.cri.call("listPodSandbox")).items.map((item) => item.id)).toEqual([id]);
    await bench.cri.removeSandbox(id);
  }
  const podSandboxId = await bench.sandbox();
  for (let deadlineMs = 1; deadlineMs <= 6; deadlineMs++) {
    const config = ContainerConfig.fromPartial({
      metadata: { name: `late-${deadlineMs}`, attempt: 0 },
      image: { image: "minke.test/busybox:1" },
    });
    await bench.cri.call("createContainer", { podSandboxId, config }, deadlineMs).catch(() => undefined);
    await bench.cri.call("createContainer", { podSandboxId, config });
  }
  expect((await bench.cri.call("listContainers")).containers).toHaveLength(6);
});

test("sandboxes of a pod of minke's own do not exist here", async () => {
  await bench.daemon.runPod(`
apiVersion: v1
kind: Pod
metadata: { name: own }
spec:
  terminationGracePeriodSeconds: 0
  containers: [{ name: main, image: "minke.test/busybox:1", command: ["sleep", "1000"] }]
`);
  expect((await bench.cri.call("listPodSandbox")).items).toEqual([]);
  expect((await bench.cri.call("listContainers")).containers).toEqual([]);
  await bench.daemon.expect("delete", "pod", "own");
});

test("sandboxes stopped end their containers, and stopping again succeeds", async () => {
  const id = await bench.sandbox();
  const container = await bench.cri.startContainer(id);
  await bench.cri.call("stopPodSandbox", { podSandboxId: id });
  await bench.cri.call("stopPodSandbox", { podSandboxId: id });
  expect(await bench.cri.status(container)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 137 });
});

/** A kubelet sends the ports of pods in the host's network too; there the process itself is what listens. */
describe("in the host's network, ports of a manifest publish nothing, reserve nothing, and the process has them:", () => {
  const rules = () => bench.daemon.snapshot()["rules"];
  const answer = async (port: number) => {
    const response = await fetch(`http://127.0.0.1:${port}/hostname`).catch(() => undefined);
    return response?.status;
  };
  const listening = (port: number) => ["httpd", "-f", "-p", `127.0.0.1:${port}`, "-h", "/etc"];

  test("a sandbox over CRI", async (context) => {
    requires("nft")(context);
    const port = await freePort();
    const portMappings = [{ containerPort: port, hostPort: port }, { containerPort: 80 }];
    const linux = { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } };
    const before = rules();
    expect(before?.length).toBeGreaterThan(10);
    expect(before?.filter((line) => line.includes(String(port)))).toEqual([]);
    const first = await bench.sandbox({ linux, portMappings });
    const second = await bench.sandbox({ linux, portMappings });
    expect(rules()).toEqual(before);
    const server = await bench.cri.startContainer(first, { linux, command: listening(port) });
    await expect.poll(() => answer(port)).toBe(200);
    const late = await bench.cri.startContainer(second, { linux, command: listening(port) });
    await expect.poll(async () => (await bench.cri.status(late)).state).toBe(ContainerState.CONTAINER_EXITED);
    expect((await bench.cri.status(server)).state).toBe(ContainerState.CONTAINER_RUNNING);
    await bench.cri.removeSandbox(first);
    expect(rules()).toEqual(before);
    await expect.poll(() => answer(port)).toBeUndefined();
    // Nobody has it now: a pod of its own network is given it, by rules.
    await bench.sandbox({ portMappings });
    expect(rules()?.filter((line) => line.includes(String(port)))).not.toEqual([]);
  });

  test("a pod of the API", async (context) => {
    requires("nft")(context);
    const port = await freePort();
    const before = rules();
    await bench.daemon.runPod(`
apiVersion: v1
kind: Pod
metadata: { name: on-host }
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers:
  - { name: web, image: "minke.test/busybox:1", command: ${JSON.stringify(listening(port))}, ports: [{ containerPort: ${port}, hostPort: ${port} }] }`);
    await expect.poll(() => answer(port)).toBe(200);
    expect(rules()).toEqual(before);
    await bench.daemon.expect("delete", "pod", "on-host", "--force");
    await expect.poll(() => answer(port)).toBeUndefined();
    expect(rules()).toEqual(before);
  });
});
