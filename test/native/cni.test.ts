/**
 * src/network/cni against plugins of our own that do, fail, hang and print nonsense. Needs root:
 * namespaces are bound to paths of a folder of this test.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { newSandboxId, type SandboxId } from "../../src/base/ids.js";
import { createLog } from "../../src/base/log.js";
import { createSandboxNamespaces, type Fd, type SandboxNamespaceFds } from "../../src/native/index.js";
import type { AttachmentRecord } from "../../src/network/cni/cni-network.js";
import { NetnsPins } from "../../src/network/cni/netns-pins.js";
import { Networks } from "../../src/network/networks.js";
import type { NetworkRecord } from "../../src/network/pod-network.js";
import type { SandboxConfig, SandboxNetwork } from "../../src/state/sandbox.js";
import { TestPlugins } from "../harness/cni.js";
import { MemoryStore } from "../harness/memory-store.js";
import { isAlive } from "../harness/processes.js";
import { requires } from "../harness/requires.js";

/** Nobody waits for it; and where a plugin is to hang. */
const TIMEOUT_MS = 30_000;
const SHORT_MS = 400;
const log = createLog("silent");

let folder: string;
let plugins: TestPlugins;
let attachments: MemoryStore<AttachmentRecord>;
let networks: Networks;
let made: SandboxNamespaceFds[];

const configFile = () => join(folder, "net.d", "10-test.conflist");

function configure(fields: object = {}): void {
  const chain = [{ type: "first", capabilities: { portMappings: true, dns: true } }, { type: "second" }];
  writeFileSync(configFile(), JSON.stringify({ cniVersion: "1.0.0", name: "testnet", plugins: chain, ...fields }));
}

/** As a daemon that starts: the former one is gone without a word. */
async function open(timeoutMs = TIMEOUT_MS): Promise<void> {
  networks = await Networks.open({
    mode: "cni",
    builtin: { bridge: "mkcninone", owner: folder },
    cni: {
      configDir: join(folder, "net.d"),
      pluginDirs: [join(folder, "nowhere"), plugins.dir],
      timeoutMs,
      netnsDir: join(folder, "netns"),
    },
    leases: new MemoryStore<NetworkRecord>(),
    attachments,
    log,
  });
}

function configOf(fields: Partial<SandboxConfig> = {}): SandboxConfig {
  return {
    owner: "cri",
    metadata: { name: "web", uid: "u-1", namespace: "default", attempt: 0 },
    hostname: "web",
    logDirectory: "",
    hostAliases: [],
    portMappings: [{ protocol: "tcp", containerPort: 80, hostPort: 8080, hostIp: "" }],
    labels: {},
    annotations: {},
    namespaces: { network: "pod", pid: "pod", ipc: "pod" },
    sysctls: {},
    shmSizeBytes: 0,
    cgroupParent: "",
    runtimeHandler: "",
    ...fields,
  };
}

async function add(id: SandboxId, config = configOf()): Promise<SandboxNetwork> {
  const namespaces = await createSandboxNamespaces({
    network: true,
    ipc: false,
    uts: false,
    hostname: "",
    domainname: "",
    sysctls: {},
  });
  made.push(namespaces);
  await networks.reserve(id, config);
  return networks.setup(id, { netns: namespaces.net as Fd, netlink: namespaces.netlink as Fd, config });
}

/** As the runtime knows a sandbox that goes on. */
const alive = (id: SandboxId) => ({ id, config: configOf(), network: { interface: "eth0", ips: ["10.9.8.7"] } });

const pin = (id: SandboxId): string => join(folder, "netns", `minke-${id}`);

beforeEach(requires("root", "netns"));
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "minke-net-cni-"));
  mkdirSync(join(folder, "net.d"));
  plugins = new TestPlugins(join(folder, "bin"), ["first", "second"]);
  attachments = new MemoryStore();
  made = [];
  configure();
  await open();
});
afterEach(async () => {
  for (const type of ["first", "second"])
    for (const command of ["ADD", "DEL"]) plugins.behave(type, command, undefined);
  await networks.close({ removeAll: true });
  for (const namespaces of made) for (const fd of Object.values(namespaces)) (fd as Fd).close();
  const left = [...attachments.records.keys(), ...(existsSync(join(folder, "netns")) ? ["netns"] : [])];
  const mounts = readFileSync("/proc/self/mountinfo", "utf8").includes(folder);
  rmSync(folder, { recursive: true });
  if (left.length > 0 || mounts) throw new Error(`left behind: ${left.join(", ")}${mounts ? ", mounts" : ""}`);
});

describe("a chain that works", () => {
  test("is added in order and deleted in reverse, with result, arguments and the namespace's path", async () => {
    const id = newSandboxId();
    const dns = { servers: ["1.1.1.1"], searches: [], options: [] };
    expect(await add(id, configOf({ dns }))).toEqual({
      interface: "eth0",
      ips: ["10.9.8.7"],
      routes: [{ destination: "0.0.0.0/0" }],
      dns: { servers: ["10.9.8.53"], searches: ["cluster.local"], options: [] },
    });
    await networks.teardown(id);
    expect(plugins.order).toEqual(["ADD first", "ADD second", "DEL second", "DEL first"]);
    const [first, second, third, fourth] = plugins.calls;
    expect(first).toMatchObject({
      containerId: id,
      netns: pin(id),
      args: expect.stringContaining("K8S_POD_NAME=web;"),
    });
    expect(first?.config).toEqual({
      type: "first",
      name: "testnet",
      cniVersion: "1.0.0",
      capabilities: { portMappings: true, dns: true },
      runtimeConfig: { portMappings: [{ hostPort: 8080, containerPort: 80, protocol: "tcp" }], dns },
    });
    for (const call of [second, third, fourth])
      expect(call?.config["prevResult"]).toMatchObject({ cniVersion: "1.0.0" });
    expect(second?.config["runtimeConfig"]).toBeUndefined();
    expect(existsSync(pin(id))).toBe(false);
  });

  test("of version 0.3.1 gets no result at DEL, which came with 0.4.0", async () => {
    configure({ cniVersion: "0.3.1" });
    await expect.poll(async () => (await networks.readiness()).holds).toBe(true);
    const id = newSandboxId();
    await add(id);
    await networks.teardown(id);
    expect(plugins.calls.at(-1)?.config).not.toHaveProperty("prevResult");
  });

  test("deletes by the configuration that it was added with, though that is gone", async () => {
    const id = newSandboxId();
    await add(id);
    rmSync(configFile());
    await networks.teardown(id);
    expect(plugins.order.slice(2)).toEqual(["DEL second", "DEL first"]);
  });

  test("DEL of an id that never existed asks nobody", async () => {
    await networks.teardown(newSandboxId());
    expect(plugins.calls).toEqual([]);
  });
});

describe("a plugin that misbehaves at ADD", () => {
  test.each([
    [
      "fail",
      "failed-precondition",
      "CNI_PLUGIN_FAILED",
      /"second".*ADD: no good; the switch said no \(code 7\); it wrote: warn: a word/,
    ],
    ["retry", "unavailable", "CNI_PLUGIN_FAILED", /"second".*later \(code 11\)/],
    ["garbage", "internal", "CNI_BAD_OUTPUT", /"second".*not a JSON object: well \[31m, hello/],
    ["silent", "internal", "CNI_BAD_OUTPUT", /"second".*it printed no result/],
    ["crash", "internal", "CNI_PLUGIN_FAILED", /"second".*killed by SIGSEGV/],
  ] as const)(
    "%s: is %s %s with its words, and teardown gives the address back",
    async (behaviour, kind, code, message) => {
      plugins.behave("second", "ADD", behaviour);
      const id = newSandboxId();
      await expect(add(id)).rejects.toMatchObject({ kind, code, message: expect.stringMatching(message) as string });
      expect(plugins.hasAddress(id)).toBe(true);
      await networks.teardown(id);
      expect(plugins.order.slice(2)).toEqual(["DEL second", "DEL first"]);
      expect(plugins.hasAddress(id)).toBe(false);
    },
  );

  test("hangs: is deadline-exceeded CNI_PLUGIN_TIMEOUT, and its children are dead", async () => {
    await open(SHORT_MS);
    plugins.behave("first", "ADD", "hang");
    const id = newSandboxId();
    await expect(add(id)).rejects.toMatchObject({ kind: "deadline-exceeded", code: "CNI_PLUGIN_TIMEOUT" });
    await expect.poll(() => isAlive(plugins.hangingPid)).toBe(false);
    await open();
    await networks.teardown(id);
  });

  test("answers without an address for the pod: is CNI_BAD_OUTPUT", async () => {
    plugins.answer({ cniVersion: "1.0.0" });
    const id = newSandboxId();
    await expect(add(id)).rejects.toMatchObject({ code: "CNI_BAD_OUTPUT" });
    await networks.teardown(id);
  });

  test("is missing: is CNI_PLUGIN_MISSING, the network is not ready, no plugin ran and no DEL waits for it", async () => {
    rmSync(join(plugins.dir, "second"));
    const id = newSandboxId();
    await expect(add(id)).rejects.toMatchObject({ kind: "failed-precondition", code: "CNI_PLUGIN_MISSING" });
    expect(await networks.readiness()).toMatchObject({ holds: false, reason: "NetworkPluginNotReady" });
    expect(plugins.calls.filter(({ command }) => command === "ADD")).toEqual([]);
    await networks.teardown(id);
  });

  test("goes missing after ADD: DEL is CNI_PLUGIN_MISSING until it is there again", async () => {
    const id = newSandboxId();
    await add(id);
    rmSync(join(plugins.dir, "second"));
    // DEL needs it as well: it comes back, as with an upgrade of the plugins.
    await expect(networks.teardown(id)).rejects.toMatchObject({ code: "CNI_PLUGIN_MISSING" });
    plugins = new TestPlugins(plugins.dir, ["second"]);
    await networks.teardown(id);
  });
});

describe("a plugin that misbehaves at DEL", () => {
  test.each([
    ["fail", "CNI_PLUGIN_FAILED"],
    ["garbage", "CNI_BAD_OUTPUT"],
    ["crash", "CNI_PLUGIN_FAILED"],
    ["hang", "CNI_PLUGIN_TIMEOUT"],
  ] as const)("%s: is %s, the address stays taken, and the next try frees it", async (behaviour, code) => {
    const id = newSandboxId();
    await add(id);
    plugins.behave("second", "DEL", behaviour);
    if (behaviour === "hang") await open(SHORT_MS);
    await expect(networks.teardown(id)).rejects.toMatchObject({ code });
    // The rules of "second" may still lead to it.
    expect(plugins.hasAddress(id)).toBe(true);
    plugins.behave("second", "DEL", undefined);
    await open();
    await networks.teardown(id);
    expect(plugins.hasAddress(id)).toBe(false);
  });
});

describe("recover", () => {
  test("deletes attachments of sandboxes that do not live, and keeps the others", async () => {
    const [dead, live] = [newSandboxId(), newSandboxId()];
    await add(dead);
    await add(live);
    await open();
    await networks.recover([alive(live)]);
    expect(plugins.hasAddress(dead)).toBe(false);
    expect(existsSync(pin(dead))).toBe(false);
    expect(plugins.hasAddress(live)).toBe(true);
    expect(existsSync(pin(live))).toBe(true);
  });

  test.each(["0.4.0", "1.0.0", "1.1.0"])(
    "makes the lost record of a pod that lives again, so that its address is given back: %s",
    async (cniVersion) => {
      configure({ cniVersion });
      await expect.poll(async () => (await networks.readiness()).holds).toBe(true);
      plugins.answer({ cniVersion, ips: [{ version: "4", address: "10.9.8.7/24", gateway: "10.9.8.1" }] });
      const id = newSandboxId();
      await add(id);
      const args = plugins.calls[0]?.args;
      attachments.records.clear();
      await open();
      await networks.recover([alive(id)]);
      expect(existsSync(pin(id))).toBe(true);
      plugins.forgetCalls();
      await networks.teardown(id);
      expect(plugins.order.filter((call) => call.startsWith("DEL"))).toEqual(["DEL second", "DEL first"]);
      const call = plugins.calls.find(({ command }) => command === "DEL");
      expect(call?.args).toBe(args);
      expect(call?.config["prevResult"]).toMatchObject({
        cniVersion,
        interfaces: [{ name: "eth0", sandbox: pin(id) }],
        ips: [{ address: "10.9.8.7/32", interface: 0 }],
      });
      expect(plugins.hasAddress(id)).toBe(false);
      expect(existsSync(pin(id))).toBe(false);
    },
  );

  test("after a reboot asks for DEL with no namespace", async () => {
    const id = newSandboxId();
    await add(id);
    await new NetnsPins(join(folder, "netns")).unpin(id);
    plugins.forgetCalls();
    await open();
    await networks.recover([]);
    expect(plugins.calls.map(({ netns }) => netns)).toEqual(["", ""]);
    expect(plugins.hasAddress(id)).toBe(false);
  });

  test("kills a plugin that a daemon left hanging in ADD, then deletes what it made", async () => {
    plugins.behave("second", "ADD", "hang");
    const id = newSandboxId();
    const hanging = add(id).catch((err: unknown) => err);
    await expect.poll(() => plugins.hangingPid).toBeGreaterThan(0);
    const pid = plugins.hangingPid;
    await open();
    await networks.recover([]);
    await expect.poll(() => isAlive(pid)).toBe(false);
    expect(plugins.hasAddress(id)).toBe(false);
    await hanging;
  });

  test("CHECKs what goes on, and where a version has GC tells plugins what is valid", async () => {
    configure({ cniVersion: "1.1.0" });
    await expect.poll(async () => (await networks.readiness()).holds).toBe(true);
    const id = newSandboxId();
    await add(id);
    plugins.forgetCalls();
    await open();
    await networks.recover([alive(id)]);
    await expect.poll(() => plugins.order).toEqual(["GC first", "GC second", "CHECK first", "CHECK second"]);
    expect(plugins.calls[0]?.config["cni.dev/valid-attachments"]).toEqual([{ containerID: id, ifname: "eth0" }]);
  });

  test("a plugin that fails at DEL does not stop the others, and is tried again", async () => {
    const ids = [newSandboxId(), newSandboxId()];
    for (const id of ids) await add(id);
    plugins.behave("first", "DEL", "fail");
    await open();
    await networks.recover([]);
    plugins.behave("first", "DEL", undefined);
    await networks.recover([]);
    for (const id of ids) expect(plugins.hasAddress(id)).toBe(false);
  });
});

describe("readiness", () => {
  test("follows the configuration as it goes and comes, and setup says why", async () => {
    rmSync(configFile());
    await expect.poll(() => networks.readiness()).toMatchObject({ holds: false, reason: "NetworkPluginNotReady" });
    const id = newSandboxId();
    await expect(add(id)).rejects.toMatchObject({ kind: "failed-precondition", code: "CNI_NOT_CONFIGURED" });
    writeFileSync(configFile(), "{");
    await expect.poll(async () => (await networks.readiness()).message).toMatch(/10-test\.conflist": not JSON/);
    configure();
    await expect.poll(() => networks.readiness()).toEqual({ holds: true, reason: "", message: "" });
    await add(id);
    await networks.teardown(id);
  });

  test("is what STATUS of a 1.1 plugin says", async () => {
    plugins.behave("first", "STATUS", "retry");
    configure({ cniVersion: "1.1.0" });
    await expect
      .poll(async () => (await networks.readiness()).message)
      .toMatch(/"first" of network "testnet": STATUS: later/);
  });
});
