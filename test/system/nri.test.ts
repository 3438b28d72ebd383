/** NRI plugins against the whole daemon: what they hear of, and what they break. */
import { execFileSync } from "node:child_process";
import { createConnection } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { ContainerConfig, PodSandboxConfig } from "../../src/cri/generated/runtime/v1/api.js";
import type { CriError } from "../harness/cri.js";
import type { NriPlugin } from "../harness/nri-plugin.js";
import { nriSuite, REQUEST_TIMEOUT_MS } from "../harness/nri-suite.js";

const nri = nriSuite();

const CONTAINER = ContainerConfig.fromPartial({
  metadata: { name: "refused", attempt: 0 },
  image: { image: "minke.test/busybox:1" },
});

describe("events", () => {
  test("reach a plugin in the order of what happens, with what it is about", async () => {
    const one = await nri.plugin();
    const pod = await nri.sandbox({ labels: { app: "web" }, annotations: { note: "kept" } });
    const containerId = await nri.cri.startContainer(pod, { labels: { tier: "front" } });
    await nri.cri.call("updateContainerResources", { containerId, linux: undefined, annotations: {} });
    await nri.cri.call("stopContainer", { containerId, timeout: 0n });
    await nri.cri.call("removeContainer", { containerId });
    await nri.cri.call("updatePodSandboxResources", { podSandboxId: pod });
    await nri.cri.removeSandbox(pod);
    expect(one.heard).toEqual([
      "RunPodSandbox",
      "CreateContainer",
      "PostCreateContainer",
      "StartContainer",
      "PostStartContainer",
      "UpdateContainer",
      "PostUpdateContainer",
      "StopContainer",
      "RemoveContainer",
      "UpdatePodSandbox",
      "PostUpdatePodSandbox",
      "StopPodSandbox",
      "RemovePodSandbox",
    ]);
    const [run, create] = [one.calls[1]?.request, one.calls[2]?.request];
    expect(run?.pod).toMatchObject({ id: pod, labels: { app: "web" }, annotations: { note: "kept" } });
    expect(run?.pod?.ips[0]).toMatch(/^\d+\.\d+\.\d+\.\d+$/);
    expect(create?.container).toMatchObject({
      id: containerId,
      podSandboxId: pod,
      labels: { tier: "front" },
      args: ["sleep", "1000"],
    });
    expect(create?.container?.mounts.map(({ destination }) => destination)).toContain("/proc");
    const stop = one.calls.find(({ method }) => method === "StopContainer")?.request;
    expect(stop?.container).toMatchObject({ exitCode: 137 });
  });

  test("of a container that ends by itself reach a plugin without a stop", async () => {
    const one = await nri.plugin();
    const pod = await nri.sandbox();
    await nri.cri.startContainer(pod, { command: ["sh", "-c", "exit 7"] });
    await expect
      .poll(() => one.calls.find(({ method }) => method === "StopContainer")?.request.container?.exitCode, {
        timeout: 10_000,
      })
      .toBe(7);
  });

  test("reach a plugin that is older than their methods as StateChange", async () => {
    const one = await nri.plugin({ without: ["RunPodSandbox", "PostCreateContainer"] });
    const pod = await nri.sandbox();
    await nri.cri.createContainer(pod);
    const changes = one.calls.filter(({ method }) => method === "StateChange").map(({ request }) => request.event);
    expect(changes).toEqual([1, 5]);
  });

  test("that a plugin did not ask for do not reach it", async () => {
    const one = await nri.plugin({ events: 1 << 3 });
    await nri.cri.startContainer(await nri.sandbox());
    expect(one.heard).toEqual(["CreateContainer"]);
  });

  test("a plugin that comes later is told of all that there is", async () => {
    const pod = await nri.sandbox();
    const running = await nri.cri.startContainer(pod);
    const created = await nri.cri.createContainer(pod);
    const one = await nri.plugin();
    const { pods, containers } = one.calls[0]?.request ?? {};
    expect(pods?.map(({ id }) => id)).toEqual([pod]);
    expect(Object.fromEntries((containers ?? []).map(({ id, state }) => [id, state]))).toEqual({
      [running]: 3,
      [created]: 1,
    });
  });
});

describe("while a plugin is asked", () => {
  test("a pod is not listed and takes no container, and a container is not listed", async () => {
    const listed: number[] = [];
    let refusal: CriError | undefined;
    await nri.plugin({
      methods: {
        RunPodSandbox: async ({ pod }) => {
          listed.push((await nri.cri.call("listPodSandbox")).items.length);
          const streamed = await nri.cri.all("streamPodSandboxes");
          listed.push(streamed.flatMap(({ podSandboxes }) => podSandboxes).length);
          refusal = await nri.cri.refusal("createContainer", { podSandboxId: pod?.id ?? "", config: CONTAINER });
          return undefined;
        },
        CreateContainer: async ({ container }) => {
          listed.push((await nri.cri.call("listContainers")).containers.length);
          const { code } = await nri.cri.refusal("containerStatus", { containerId: container?.id ?? "" });
          expect(code).toBe("CONTAINER_NOT_FOUND");
          return undefined;
        },
      },
    });
    const pod = await nri.sandbox();
    await nri.cri.createContainer(pod);
    expect(listed).toEqual([0, 0, 0]);
    expect(refusal).toMatchObject({ code: "SANDBOX_NOT_READY" });
    expect((await nri.cri.call("listPodSandbox")).items.map(({ id }) => id)).toEqual([pod]);
  });

  test("about the end of a pod, its containers have ended and it is still there", async () => {
    const states: unknown[] = [];
    await nri.plugin({
      methods: {
        StopPodSandbox: async ({ pod }) => {
          const { containers } = await nri.cri.call("listContainers");
          const { status } = await nri.cri.call("podSandboxStatus", { podSandboxId: pod?.id ?? "" });
          states.push(
            containers.map(({ state }) => state),
            status?.id,
          );
          return undefined;
        },
      },
    });
    const podSandboxId = await nri.cri.runSandbox();
    await nri.cri.startContainer(podSandboxId);
    await nri.cri.removeSandbox(podSandboxId);
    expect(states).toEqual([[2], podSandboxId]);
  });
});

test("a request that is refused, or has nothing to do, is no event", async () => {
  const one = await nri.plugin();
  const pod = await nri.sandbox();
  const containerId = "0".repeat(64);
  const anonymous = { ...CONTAINER, metadata: undefined };
  expect(await nri.cri.refusal("startContainer", { containerId })).toMatchObject({ code: "CONTAINER_NOT_FOUND" });
  for (const [podSandboxId, config, code] of [
    [pod, anonymous, "INVALID_FIELD"],
    [containerId, CONTAINER, "SANDBOX_NOT_FOUND"],
  ] as const) {
    expect(await nri.cri.refusal("createContainer", { podSandboxId, config })).toMatchObject({ code });
  }
  expect(await nri.cri.refusal("runPodSandbox", { config: PodSandboxConfig.fromPartial({}) })).toMatchObject({
    code: "INVALID_FIELD",
  });
  for (const method of ["stopContainer", "removeContainer"] as const) await nri.cri.call(method, { containerId });
  for (const method of ["stopPodSandbox", "removePodSandbox"] as const) {
    await nri.cri.call(method, { podSandboxId: containerId });
  }
  for (let times = 0; times < 2; times++) await nri.cri.call("stopPodSandbox", { podSandboxId: pod });
  expect(await nri.cri.refusal("createContainer", { podSandboxId: pod, config: CONTAINER })).toMatchObject({
    code: "SANDBOX_NOT_READY",
  });
  expect(one.heard).toEqual(["RunPodSandbox", "StopPodSandbox"]);
});

test("the same pod twice is one event, and plugins are asked in the order of their indices", async () => {
  const order: string[] = [];
  const asked = (index: string) => async () => {
    order.push(`${index} begins`);
    await sleep(20);
    order.push(`${index} ends`);
    return undefined;
  };
  for (const index of ["11", "10"]) await nri.plugin({ index, methods: { RunPodSandbox: asked(index) } });
  const name = `twice-${process.pid}`;
  const config = PodSandboxConfig.fromPartial({ metadata: { name, uid: name, namespace: "test", attempt: 0 } });
  const [first, second] = await Promise.all([
    nri.cri.call("runPodSandbox", { config }),
    nri.cri.call("runPodSandbox", { config }),
  ]);
  nri.removeLater(first.podSandboxId);
  expect(second).toEqual(first);
  expect(order).toEqual(["10 begins", "10 ends", "11 begins", "11 ends"]);
});

describe("a plugin that", () => {
  test("refuses a pod or a start is told of the end, and nothing is left of the pod", async () => {
    const one = await nri.plugin({
      methods: {
        RunPodSandbox: ({ pod }) => {
          if (pod?.labels["refuse"]) throw new Error("not wanted");
        },
        StartContainer: () => {
          throw new Error("not now");
        },
      },
    });
    expect(
      await nri.cri.runSandbox({ labels: { refuse: "1" } }).then(
        () => "",
        (err: { details: string }) => err.details,
      ),
    ).toContain('NRI plugin "10-test" refuses RunPodSandbox: not wanted');
    expect(one.heard).toEqual(["RunPodSandbox", "RemovePodSandbox"]);
    const containerId = await nri.cri.createContainer(await nri.sandbox());
    expect(await nri.cri.refusal("startContainer", { containerId })).toMatchObject({ code: "NRI_PLUGIN_REFUSED" });
    expect((await nri.cri.status(containerId)).state).toBe(0);
  });

  test("is slow is the stage that a caller hears of just before its deadline, and a retry has what was made", async () => {
    const slow = () => sleep(REQUEST_TIMEOUT_MS - 200).then(() => undefined);
    await nri.plugin({ methods: { RunPodSandbox: slow, CreateContainer: slow } });
    const late = expect.stringMatching(/before the caller's deadline, at stage "NRI plugins", \d/) as string;
    const name = `late-${process.pid}`;
    const config = PodSandboxConfig.fromPartial({ metadata: { name, uid: name, namespace: "test", attempt: 0 } });
    const deadlineMs = REQUEST_TIMEOUT_MS - 800;
    await expect(nri.cri.call("runPodSandbox", { config }, deadlineMs)).rejects.toMatchObject({
      code: 4,
      details: late,
    });
    const { podSandboxId } = await nri.cri.call("runPodSandbox", { config });
    nri.removeLater(podSandboxId);
    const container = ContainerConfig.fromPartial({
      metadata: { name, attempt: 0 },
      image: { image: "minke.test/busybox:1" },
    });
    const request = { podSandboxId, config: container };
    await expect(nri.cri.call("createContainer", request, deadlineMs)).rejects.toMatchObject({
      code: 4,
      details: late,
    });
    await nri.cri.call("createContainer", request);
    expect((await nri.cri.call("listContainers")).containers.map(({ metadata }) => metadata?.name)).toEqual([name]);
  });

  test("hangs is disconnected after its time-out, and the pod starts without it", async () => {
    const one = await nri.plugin({ methods: { RunPodSandbox: () => new Promise<never>(() => undefined) } });
    const startedAt = performance.now();
    await nri.sandbox();
    expect(performance.now() - startedAt).toBeGreaterThan(REQUEST_TIMEOUT_MS - 50);
    await one.closed;
    expect(one.heard).toEqual(["RunPodSandbox"]);
  });

  test("hangs fails the request and stays, where its policy says so", async () => {
    const one = await nri.plugin({
      failRequest: true,
      keepConnected: true,
      methods: { CreateContainer: () => sleep(REQUEST_TIMEOUT_MS + 1_000).then(() => undefined) },
    });
    const pod = await nri.sandbox();
    await expect(nri.cri.createContainer(pod)).rejects.toMatchObject({
      details: expect.stringContaining("CreateContainer: no answer within"),
    });
    await nri.cri.removeSandbox(pod);
    expect(one.heard.slice(-2)).toEqual(["StopPodSandbox", "RemovePodSandbox"]);
  });

  test("dies in the middle of a call is left out of it", async () => {
    const one: NriPlugin = await nri.plugin({
      methods: {
        CreateContainer: () => {
          one.close();
          return undefined;
        },
      },
    });
    const pod = await nri.sandbox();
    const logged = nri.daemon.log.length;
    await nri.cri.startContainer(pod);
    expect(nri.daemon.log.slice(logged)).not.toContain("no answer within");
  });

  test("sends garbage, or nothing, is disconnected; others go on", async () => {
    const good = await nri.plugin({ index: "05" });
    for (const bytes of [Buffer.alloc(64, 0xff), Buffer.from("GET / HTTP/1.1\r\n\r\n"), Buffer.alloc(0)]) {
      const socket = createConnection(nri.nriSocket);
      const closed = new Promise((resolve) => socket.once("close", resolve));
      socket.on("error", () => undefined);
      socket.write(bytes);
      await closed;
    }
    await nri.sandbox();
    expect(good.heard).toEqual(["RunPodSandbox"]);
  });
});

test("plugins connect again to a daemon that was killed, and hear of what went on", async () => {
  const one = await nri.plugin();
  const pod = await nri.sandbox();
  const containerId = await nri.cri.startContainer(pod);
  await nri.daemon.kill9();
  await one.closed;
  await nri.daemon.start();
  nri.connectAgain();
  const two = await nri.plugin();
  expect(two.calls[0]?.request.containers?.map(({ id }) => id)).toEqual([containerId]);
  await nri.cri.removeSandbox(pod);
  expect(two.heard).toEqual(["StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox"]);
  expect(() => execFileSync("kill", ["-0", String(nri.daemon.pid)])).not.toThrow();
});
