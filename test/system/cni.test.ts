/**
 * The whole daemon on Debian's CNI plugins, over CRI: a bridge with addresses of both families,
 * host ports, bandwidth, firewall and sysctls; the daemon killed; plugins taken away.
 */
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { CriClient } from "../harness/cri.js";
import { TestDaemon } from "../harness/daemon.js";
import { freePort } from "../harness/free-port.js";
import type { Snapshot } from "../harness/leaks.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "cgroup2", "overlayfs", "cni"] as const;
const PLUGINS = "/usr/lib/cni";
const lacking = missing(...NEEDS);
const n = process.pid % 250;
const BRIDGE = `mkc${process.pid.toString(36)}`;
const NETWORK = `mkcni${process.pid}`;
const HOST_PORT = await freePort();

let folder: string;
let daemon: TestDaemon;
let cri: CriClient;
let before: Snapshot;

const chain = () => ({
  cniVersion: "1.0.0",
  name: NETWORK,
  plugins: [
    {
      type: "bridge",
      bridge: BRIDGE,
      isGateway: true,
      ipMasq: true,
      hairpinMode: true,
      ipam: {
        type: "host-local",
        dataDir: join(folder, "addresses"),
        ranges: [[{ subnet: `10.209.${n}.0/24` }], [{ subnet: `fd10:209:${n.toString(16)}::/64` }]],
        routes: [{ dst: "0.0.0.0/0" }, { dst: "::/0" }],
      },
    },
    { type: "portmap", capabilities: { portMappings: true } },
    { type: "bandwidth", capabilities: { bandwidth: true } },
    { type: "firewall", backend: "iptables" },
    { type: "tuning", sysctl: { "net.ipv4.conf.eth0.arp_filter": "1" } },
  ],
});

const addresses = (): string[] =>
  readdirSync(join(folder, "addresses", NETWORK)).filter((name) => !/^(lock|last_reserved)/.test(name));
const natRules = (): string =>
  ["iptables", "ip6tables"].map((command) => execFileSync(`${command}-save`, { encoding: "utf8" })).join("");

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(tmpdir(), "minke-net-cnisys-"));
  mkdirSync(join(folder, "net.d"));
  mkdirSync(join(folder, "bin"));
  for (const name of readdirSync(PLUGINS)) symlinkSync(join(PLUGINS, name), join(folder, "bin", name));
  writeFileSync(join(folder, "net.d", "10-test.conflist"), JSON.stringify(chain()));
  daemon = await TestDaemon.startWithImages({
    networkMode: "cni",
    tables: `[network.cni]\nconfig-dir = "${folder}/net.d"\nplugin-dirs = ["${folder}/bin"]\ntimeout-ms = 20000`,
  });
  cri = new CriClient(daemon.criSocket);
  // The bridge and the chains that plugins make once stay theirs.
  await cri.removeSandbox(await cri.runSandbox({ portMappings: [{ containerPort: 80, hostPort: HOST_PORT }] }));
  before = daemon.snapshot();
});
afterAll(async () => {
  if (lacking) return;
  execFileSync("ip", ["link", "del", BRIDGE]);
  await daemon.dispose();
  rmSync(folder, { recursive: true });
});
afterEach(async () => {
  if (lacking) return;
  await daemon.expectNothingLeft(before);
  expect(addresses()).toEqual([]);
  expect(natRules()).not.toContain(`${HOST_PORT}`);
});

async function statusOf(id: string) {
  const { status, info } = await cri.call("podSandboxStatus", { podSandboxId: id, verbose: true });
  const ips = [status?.network?.ip ?? "", ...(status?.network?.additionalIps ?? []).map(({ ip }) => ip)];
  const { network, monitor } = JSON.parse(info["info"] ?? "{}") as {
    network: { routes: object[] };
    monitor: { pid: number; netFd: number };
  };
  return { ips, routes: network.routes, netns: `/proc/${monitor.pid}/fd/${monitor.netFd}` };
}

/** What a server in the pod answers, asked from the host. */
function ask(host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    const socket = connect({ host, port, timeout: 20_000 });
    socket.on("data", (bytes) => (text += bytes));
    socket.on("end", () => resolve(text));
    socket.on("error", reject);
    socket.on("timeout", () => reject(new Error("timeout")));
  });
}

async function serve(netns: string): Promise<() => void> {
  const code = `require("net").createServer(s=>s.end("served")).listen(80,"::",()=>console.log("up"))`;
  const child = spawn("nsenter", [`--net=${netns}`, process.execPath, "-e", code], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  return () => child.kill("SIGKILL");
}

test("a pod has all that the chain gives, keeps it while the daemon is killed with -9, and leaves nothing", async () => {
  const id = await cri.runSandbox({
    portMappings: [{ containerPort: 80, hostPort: HOST_PORT }],
    annotations: { "kubernetes.io/ingress-bandwidth": "100M" },
  });
  const { ips, routes, netns } = await statusOf(id);
  expect(ips[0]).toMatch(new RegExp(`^10\\.209\\.${n}\\.`));
  expect(ips[1]).toMatch(/^fd10:209:/);
  expect(routes).toContainEqual({ destination: "::/0" });
  const inside = (...args: string[]) => execFileSync("nsenter", [`--net=${netns}`, ...args], { encoding: "utf8" });
  expect(inside("cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter").trim()).toBe("1");
  expect(execFileSync("tc", ["qdisc", "show"], { encoding: "utf8" })).toContain("rate 100Mbit");
  const stop = await serve(netns);
  try {
    for (const ip of ips) expect(await ask(ip, 80)).toBe("served");
    await daemon.kill9();
    for (const ip of [ips[0] ?? "", ips[1] ?? ""]) expect(await ask(ip, 80)).toBe("served");
    expect(await ask("127.0.0.1", HOST_PORT)).toBe("served");
  } finally {
    stop();
  }
  await daemon.start();
  expect((await statusOf(id)).ips).toEqual(ips);
  await cri.removeSandbox(id);
});

test("a plugin that is gone at removal keeps the pod and its address until it is back, and says which", async () => {
  const id = await cri.runSandbox();
  const plugin = join(folder, "bin", "firewall");
  renameSync(plugin, `${plugin}.away`);
  const status = await cri.call("status");
  expect(status.status?.conditions).toContainEqual(
    expect.objectContaining({ type: "NetworkReady", status: false, reason: "NetworkPluginNotReady" }),
  );
  expect(await cri.refusal("stopPodSandbox", { podSandboxId: id })).toMatchObject({ code: "CNI_PLUGIN_MISSING" });
  expect(addresses()).toHaveLength(2);
  renameSync(`${plugin}.away`, plugin);
  await cri.removeSandbox(id);
});
