/** NRI plugins against the whole daemon: what they hear of, what they adjust, and what they break. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ContainerConfig, PodSandboxConfig } from "../../src/cri/generated/runtime/v1/api.js";
import { CriClient } from "../harness/cri.js";
import { TestDaemon } from "../harness/daemon.js";
import type { Snapshot } from "../harness/leaks.js";
import { NriPlugin, type NriPluginOptions, writeCdiSpec } from "../harness/nri-plugin.js";
import { cgroup2Mount, missing, requires } from "../harness/requires.js";

const REQUEST_TIMEOUT_MS = 2_000;

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;
let cri: CriClient;
let before: Snapshot | undefined;
let cdiDir: string;
let folder: string;
let sandboxes: string[] = [];
let plugins: NriPlugin[] = [];

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  cdiDir = mkdtempSync(join(tmpdir(), "minke-nri-cdi-"));
  writeCdiSpec(cdiDir);
  daemon = await TestDaemon.startWithImages({
    tables: `[cdi]\nspec-dirs = ["${cdiDir}"]\n[nri]\nrequest-timeout-ms = ${REQUEST_TIMEOUT_MS}\nregistration-timeout-ms = 3000`,
  });
  cri = new CriClient(daemon.criSocket);
  before = daemon.snapshot();
});
// Once for all: the comparison takes longer than most of these tests.
afterAll(async () => {
  cri?.close();
  if (before) await daemon.expectNothingLeft(before);
  await daemon?.dispose();
  if (cdiDir) rmSync(cdiDir, { recursive: true, force: true });
});
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "minke-nri-test-"));
});
afterEach(async () => {
  for (const plugin of plugins.splice(0)) plugin.close();
  for (const id of sandboxes.splice(0)) await cri.removeSandbox(id);
  rmSync(folder, { recursive: true, force: true });
});

const nriSocket = () => join(daemon.run, "nri.sock");

async function plugin(options: NriPluginOptions = {}): Promise<NriPlugin> {
  const connected = await NriPlugin.connect(nriSocket(), options);
  plugins.push(connected);
  return connected;
}

async function sandbox(...args: Parameters<CriClient["runSandbox"]>): Promise<string> {
  const id = await cri.runSandbox(...args);
  sandboxes.push(id);
  return id;
}

describe("events", () => {
  test("reach a plugin in the order of what happens, with what it is about", async () => {
    const one = await plugin();
    const pod = await sandbox({ labels: { app: "web" }, annotations: { note: "kept" } });
    const containerId = await cri.startContainer(pod, { labels: { tier: "front" } });
    await cri.call("updateContainerResources", { containerId, linux: undefined, annotations: {} });
    await cri.call("stopContainer", { containerId, timeout: 0n });
    await cri.call("removeContainer", { containerId });
    await cri.call("updatePodSandboxResources", { podSandboxId: pod });
    await cri.removeSandbox(pod);
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
    const one = await plugin();
    const pod = await sandbox();
    await cri.startContainer(pod, { command: ["sh", "-c", "exit 7"] });
    await expect
      .poll(() => one.calls.find(({ method }) => method === "StopContainer")?.request.container?.exitCode, {
        timeout: 10_000,
      })
      .toBe(7);
  });

  test("reach a plugin that is older than their methods as StateChange", async () => {
    const one = await plugin({ without: ["RunPodSandbox", "PostCreateContainer"] });
    const pod = await sandbox();
    await cri.createContainer(pod);
    const changes = one.calls.filter(({ method }) => method === "StateChange").map(({ request }) => request.event);
    expect(changes).toEqual([1, 5]);
  });

  test("that a plugin did not ask for do not reach it", async () => {
    const one = await plugin({ events: 1 << 3 });
    await cri.startContainer(await sandbox());
    expect(one.heard).toEqual(["CreateContainer"]);
  });

  test("a plugin that comes later is told of all that there is", async () => {
    const pod = await sandbox();
    const running = await cri.startContainer(pod);
    const created = await cri.createContainer(pod);
    const one = await plugin();
    const { pods, containers } = one.calls[0]?.request ?? {};
    expect(pods?.map(({ id }) => id)).toEqual([pod]);
    expect(Object.fromEntries((containers ?? []).map(({ id, state }) => [id, state]))).toEqual({
      [running]: 3,
      [created]: 1,
    });
  });
});

describe("adjustments", () => {
  test("of arguments, environment, mounts, devices, limits and hooks are what the container has", async () => {
    writeFileSync(join(folder, "file"), "from the host");
    await plugin({
      methods: {
        CreateContainer: () => ({
          adjust: {
            annotations: { "nri/note": "x" },
            env: [
              { key: "ADDED", value: "1" },
              { key: "-GONE", value: "" },
            ],
            args: ["sleep", "2000"],
            mounts: [
              { destination: "/nri", type: "bind", source: folder, options: ["ro"] },
              { destination: "-/dev/mqueue" },
            ],
            rlimits: [{ type: "RLIMIT_NOFILE", hard: 512n, soft: 256n }],
            hooks: {
              createRuntime: [
                { path: "/bin/sh", args: ["sh", "-c", `cat > ${folder}/state; test -f ${folder}/state`], env: [] },
              ],
            },
            linux: {
              devices: [{ path: "/dev/nri-null", type: "c", major: 1n, minor: 3n }],
              oomScoreAdj: { value: 777n },
              sysctl: { "net.ipv4.ip_unprivileged_port_start": "99" },
              ioPriority: { class: 2, priority: 6 },
            },
          },
        }),
      },
    });
    const id = await cri.startContainer(await sandbox(), { envs: [{ key: "GONE", value: Buffer.from("1") }] });
    const script = `echo $ADDED-$GONE; cat /nri/file; touch /nri/x 2>/dev/null && echo written; echo
      ulimit -Sn; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_unprivileged_port_start; ls -l /dev/nri-null;
      for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done | grep -c '^sleep 2000 $'; grep -c mqueue /proc/mounts; echo x >/dev/nri-null && echo usable`;
    const output = await cri.output(id, "sh", "-c", script);
    expect(output.split("\n")).toEqual([
      "1-",
      "from the host",
      "256",
      "777",
      "99",
      expect.stringContaining("1,   3"),
      "1",
      "0",
      "usable",
      "",
    ]);
    expect(JSON.parse(readFileSync(join(folder, "state"), "utf8"))).toMatchObject({ id, status: "creating" });
  });

  test("of CDI devices are injected, and one that there is not refuses the container", async () => {
    let name = "minke.test/thing=one";
    await plugin({ methods: { CreateContainer: () => ({ adjust: { CDIDevices: [{ name }] } }) } });
    const pod = await sandbox();
    expect(await cri.output(await cri.startContainer(pod), "sh", "-c", "echo $CDI")).toBe("injected\n");
    name = "minke.test/thing=two";
    await expect(cri.createContainer(pod)).rejects.toMatchObject({ details: expect.stringContaining("thing=two") });
  });

  test("of resources are in the container's status, and each later plugin sees them", async () => {
    await plugin({
      index: "10",
      methods: { CreateContainer: () => ({ adjust: { linux: { resources: { cpu: { shares: { value: 333n } } } } } }) },
    });
    const second = await plugin({ index: "20" });
    const id = await cri.createContainer(await sandbox());
    expect((await cri.status(id)).resources?.linux?.cpuShares).toBe(333n);
    const seen = second.calls.find(({ method }) => method === "CreateContainer")?.request.container;
    expect(seen?.linux?.resources?.cpu?.shares).toEqual({ value: 333n });
  });

  test("of one thing by two plugins refuse the container, which leaves nothing", async () => {
    const methods = { CreateContainer: () => ({ adjust: { env: [{ key: "SAME", value: "1" }] } }) };
    await plugin({ index: "10", name: "first", methods });
    await plugin({ index: "20", name: "second", methods });
    const pod = await sandbox();
    const podSandboxId = pod;
    await expect(cri.createContainer(podSandboxId)).rejects.toMatchObject({
      details: expect.stringContaining('"10-first" and "20-second" both set Env "SAME"'),
    });
    expect((await cri.call("listContainers")).containers).toEqual([]);
  });

  test("of what an earlier plugin set are taken over by one that removes it first", async () => {
    const set = (value: string, ...more: object[]) => ({
      CreateContainer: () => ({ adjust: { env: [...more, { key: "SAME", value }] } }),
    });
    await plugin({ index: "10", methods: set("first") });
    await plugin({ index: "20", methods: set("second", { key: "-SAME", value: "" }) });
    const id = await cri.startContainer(await sandbox());
    expect(await cri.output(id, "sh", "-c", "echo $SAME")).toBe("second\n");
  });

  test("of the cgroup are made, and gone with the container; one that is there already is refused", async () => {
    const cgroup = `/${daemon.cgroupRoot}/nri-test`;
    await plugin({ methods: { CreateContainer: () => ({ adjust: { linux: { cgroupsPath: cgroup } } }) } });
    const pod = await sandbox();
    const id = await cri.startContainer(pod);
    const dir = join(cgroup2Mount() ?? "", cgroup);
    expect(readFileSync(join(dir, "cgroup.procs"), "utf8")).toMatch(/^\d+\n$/);
    await expect(cri.createContainer(pod)).rejects.toMatchObject({ details: expect.stringContaining("already") });
    await cri.call("removeContainer", { containerId: id });
    expect(existsSync(dir)).toBe(false);
  });

  test("that a validator rejects refuse the container with its reason and owners", async () => {
    await plugin({
      index: "10",
      name: "adjuster",
      methods: { CreateContainer: () => ({ adjust: { env: [{ key: "BAD", value: "1" }] } }) },
    });
    const validator = await plugin({
      index: "90",
      events: 1 << 13,
      methods: { ValidateContainerAdjustment: () => ({ reject: true, reason: "BAD is bad" }) },
    });
    await expect(cri.createContainer(await sandbox())).rejects.toMatchObject({
      details: expect.stringContaining("BAD is bad"),
    });
    const request = validator.calls.find(({ method }) => method === "ValidateContainerAdjustment")?.request;
    const id = request?.container?.id ?? "";
    expect(request?.adjust?.env).toEqual([{ key: "BAD", value: "1" }]);
    expect(request?.owners?.owners[id]?.compound[6]?.owners).toEqual({ BAD: "10-adjuster" });
    expect(request?.plugins?.map(({ index, name }) => `${index}-${name}`)).toEqual(["10-adjuster", "90-test"]);
  });
});

describe("updates", () => {
  test("that a plugin makes of an update are what the container gets", async () => {
    const pod = await sandbox();
    const containerId = await cri.startContainer(pod);
    await plugin({
      methods: {
        UpdateContainer: ({ container }) => ({
          update: [{ containerId: container?.id, linux: { resources: { cpu: { shares: { value: 444n } } } } }],
        }),
      },
    });
    await cri.call("updateContainerResources", { containerId, linux: undefined, annotations: {} });
    expect((await cri.status(containerId)).resources?.linux?.cpuShares).toBe(444n);
  });

  test("that nobody asked for are done, those that cannot be are answered, and evictions stop", async () => {
    const one = await plugin();
    const pod = await sandbox();
    const [first, second] = [await cri.startContainer(pod), await cri.startContainer(pod)];
    const shares = (containerId: string) => ({
      containerId,
      linux: { resources: { cpu: { shares: { value: 555n } } } },
    });
    const { failed } = await one.updateContainers({
      update: [shares(first), shares("0".repeat(64))],
      evict: [{ containerId: second, reason: "test" }],
    });
    expect(failed.map(({ containerId }) => containerId)).toEqual(["0".repeat(64)]);
    expect((await cri.status(first)).resources?.linux?.cpuShares).toBe(555n);
    await cri.call("stopContainer", { containerId: second, timeout: 0n });
    await expect.poll(async () => (await cri.status(second)).state).toBe(2);
  });
});

describe("a plugin that", () => {
  test("refuses a pod or a start is told of the end, and nothing is left of the pod", async () => {
    const one = await plugin({
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
      await cri.runSandbox({ labels: { refuse: "1" } }).then(
        () => "",
        (err: { details: string }) => err.details,
      ),
    ).toContain('NRI plugin "10-test" refuses RunPodSandbox: not wanted');
    expect(one.heard).toEqual(["RunPodSandbox", "RemovePodSandbox"]);
    const containerId = await cri.createContainer(await sandbox());
    expect(await cri.refusal("startContainer", { containerId })).toMatchObject({ code: "NRI_PLUGIN_REFUSED" });
    expect((await cri.status(containerId)).state).toBe(0);
  });

  test("is slow is the stage that a caller hears of just before its deadline, and a retry has what was made", async () => {
    const slow = () => sleep(REQUEST_TIMEOUT_MS - 200).then(() => undefined);
    await plugin({ methods: { RunPodSandbox: slow, CreateContainer: slow } });
    const late = expect.stringMatching(/before the caller's deadline, at stage "NRI plugins", \d/) as string;
    const name = `late-${process.pid}`;
    const config = PodSandboxConfig.fromPartial({ metadata: { name, uid: name, namespace: "test", attempt: 0 } });
    const deadlineMs = REQUEST_TIMEOUT_MS - 800;
    await expect(cri.call("runPodSandbox", { config }, deadlineMs)).rejects.toMatchObject({ code: 4, details: late });
    const { podSandboxId } = await cri.call("runPodSandbox", { config });
    sandboxes.push(podSandboxId);
    const container = ContainerConfig.fromPartial({
      metadata: { name, attempt: 0 },
      image: { image: "minke.test/busybox:1" },
    });
    const request = { podSandboxId, config: container };
    await expect(cri.call("createContainer", request, deadlineMs)).rejects.toMatchObject({ code: 4, details: late });
    await cri.call("createContainer", request);
    expect((await cri.call("listContainers")).containers.map(({ metadata }) => metadata?.name)).toEqual([name]);
  });

  test("hangs is disconnected after its time-out, and the pod starts without it", async () => {
    const one = await plugin({ methods: { RunPodSandbox: () => new Promise<never>(() => undefined) } });
    const startedAt = performance.now();
    await sandbox();
    expect(performance.now() - startedAt).toBeGreaterThan(REQUEST_TIMEOUT_MS - 50);
    await one.closed;
    expect(one.heard).toEqual(["RunPodSandbox"]);
  });

  test("hangs fails the request and stays, where its policy says so", async () => {
    const one = await plugin({
      failRequest: true,
      keepConnected: true,
      methods: { CreateContainer: () => sleep(REQUEST_TIMEOUT_MS + 1_000).then(() => undefined) },
    });
    const pod = await sandbox();
    await expect(cri.createContainer(pod)).rejects.toMatchObject({
      details: expect.stringContaining("CreateContainer: no answer within"),
    });
    await cri.removeSandbox(pod);
    expect(one.heard.slice(-2)).toEqual(["StopPodSandbox", "RemovePodSandbox"]);
  });

  test("dies in the middle of a call is left out of it", async () => {
    const one: NriPlugin = await plugin({
      methods: {
        CreateContainer: () => {
          one.close();
          return undefined;
        },
      },
    });
    const pod = await sandbox();
    const logged = daemon.log.length;
    await cri.startContainer(pod);
    expect(daemon.log.slice(logged)).not.toContain("no answer within");
  });

  test("sends garbage, or nothing, is disconnected; others go on", async () => {
    const good = await plugin({ index: "05" });
    for (const bytes of [Buffer.alloc(64, 0xff), Buffer.from("GET / HTTP/1.1\r\n\r\n"), Buffer.alloc(0)]) {
      const socket = createConnection(nriSocket());
      const closed = new Promise((resolve) => socket.once("close", resolve));
      socket.on("error", () => undefined);
      socket.write(bytes);
      await closed;
    }
    await sandbox();
    expect(good.heard).toEqual(["RunPodSandbox"]);
  });
});

test("plugins connect again to a daemon that was killed, and hear of what went on", async () => {
  const one = await plugin();
  const pod = await sandbox();
  const containerId = await cri.startContainer(pod);
  await daemon.kill9();
  await one.closed;
  await daemon.start();
  cri.close();
  cri = new CriClient(daemon.criSocket);
  const two = await plugin();
  expect(two.calls[0]?.request.containers?.map(({ id }) => id)).toEqual([containerId]);
  await cri.removeSandbox(pod);
  expect(two.heard).toEqual(["StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox"]);
  expect(() => execFileSync("kill", ["-0", String(daemon.pid)])).not.toThrow();
});
