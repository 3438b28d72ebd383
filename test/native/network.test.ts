/**
 * src/network against the real kernel: pods of two namespaces each, and an "outside" host in a
 * namespace of its own behind a veth. Needs root, nft, ip and nsenter.
 *
 * Bridges mknet…, subnets of 10.203.0.0/16; every test removes what it made.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { newSandboxId, type SandboxId } from "../../src/base/ids.js";
import { createLog } from "../../src/base/log.js";
import { createSandboxNamespaces, dialInNetns, type Fd, type SandboxNamespaceFds } from "../../src/native/index.js";
import { linkPrefix } from "../../src/network/link-names.js";
import { type NetworkRecord, PodNetwork } from "../../src/network/pod-network.js";
import type { PortMapping, SandboxNetwork } from "../../src/state/sandbox.js";
import { MemoryStore } from "../harness/memory-store.js";
import { requires } from "../harness/requires.js";

const BRIDGE = "mknet0";
const SETTINGS = { bridge: BRIDGE, subnet4: "10.203.0.0/20", subnet6: "fd10:203::/64", owner: "/tmp/minke-net-test" };
const log = createLog("silent");

interface Pod {
  readonly id: SandboxId;
  readonly namespaces: SandboxNamespaceFds;
  readonly network: SandboxNetwork;
}

let store: MemoryStore<NetworkRecord>;
let network: PodNetwork;
let namespaces: SandboxNamespaceFds[];
let programs: ChildProcess[];

const run = (command: string, ...args: string[]): string => execFileSync(command, args, { encoding: "utf8" });
const forwarding = (): string =>
  ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]
    .map((path) => readFileSync(`/proc/sys/net/${path}`, "utf8").trim())
    .join(" ");
const hasOtherDaemon = (): boolean =>
  run("ip", "-o", "link").replaceAll("minke /tmp/minke-net-test", "").includes("alias minke ");
/** Links and tables of this test: the machine may run other daemons meanwhile. */
const ownLinks = (): string[] =>
  run("ip", "-br", "-o", "link")
    .split("\n")
    .filter((line) => line.startsWith("mknet") || line.startsWith(linkPrefix(BRIDGE)));
const ownTables = (): string[] =>
  run("nft", "list", "tables")
    .split("\n")
    .filter((line) => line.includes("minke_mknet"));

async function makeNamespaces(): Promise<SandboxNamespaceFds> {
  const made = await createSandboxNamespaces({
    network: true,
    ipc: false,
    uts: false,
    hostname: "",
    domainname: "",
    sysctls: {},
  });
  namespaces.push(made);
  return made;
}

function netnsOf(made: SandboxNamespaceFds): Fd {
  if (!made.net) throw new Error("no network namespace");
  return made.net;
}

const netnsPath = (made: SandboxNamespaceFds): string => `/proc/${process.pid}/fd/${netnsOf(made).number}`;

async function addPod(portMappings: readonly PortMapping[] = [], id = newSandboxId()): Promise<Pod> {
  const made = await makeNamespaces();
  if (!made.netlink) throw new Error("no netlink socket");
  const set = await network.setup(id, { netns: netnsOf(made), netlink: made.netlink, portMappings });
  return { id, namespaces: made, network: set };
}

function port(
  hostPort: number,
  hostIp = "",
  protocol: PortMapping["protocol"] = "tcp",
  containerPort = 80,
): PortMapping {
  return { protocol, containerPort, hostPort, hostIp };
}

/** A TCP server that tells each client the address it sees; settles when it listens. */
async function serve(made: SandboxNamespaceFds, port: number): Promise<void> {
  const code = `require("net").createServer(s=>s.end(s.remoteAddress.replace("::ffff:",""))).listen(${port},"::",()=>console.log("up"))`;
  await start(made, code);
}

/** A UDP server that answers with its own name. */
async function serveUdp(made: SandboxNamespaceFds, port: number, name: string): Promise<void> {
  const code = `const s=require("dgram").createSocket("udp4");s.on("message",(m,r)=>s.send("${name}",r.port,r.address));s.bind(${port},()=>console.log("up"))`;
  await start(made, code);
}

async function start(made: SandboxNamespaceFds, code: string): Promise<void> {
  const child = spawn("nsenter", [`--net=${netnsPath(made)}`, process.execPath, "-e", code], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  programs.push(child);
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once("data", () => resolve());
    child.once("exit", () => reject(new Error("server ended")));
  });
}

/** What the server sees as the client's address, asked from the host. */
function ask(host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    const socket = connect({ host, port, timeout: 2000 });
    socket.on("data", (bytes) => (text += bytes));
    socket.on("end", () => resolve(text));
    socket.on("error", reject);
    socket.on("timeout", () => reject(new Error(`no answer from ${host} port ${port}`)));
  });
}

/** The same, asked from inside a namespace. */
function askFrom(made: SandboxNamespaceFds, host: string, port: number): string {
  const code = `const s=require("net").connect({host:"${host}",port:${port},timeout:2000});s.pipe(process.stdout);s.on("error",e=>{console.log(e.code);process.exit(1)});s.on("timeout",()=>{console.log("timeout");process.exit(1)})`;
  return run("nsenter", `--net=${netnsPath(made)}`, process.execPath, "-e", code);
}

/** Another host behind the link mknetout, with routes to the pods through this one. */
async function withOutside(work: (outside: SandboxNamespaceFds) => Promise<void>): Promise<void> {
  const outside = await makeNamespaces();
  run("ip", "link", "add", "mknetout", "type", "veth", "peer", "name", "eth0", "netns", netnsPath(outside));
  try {
    run("ip", "addr", "add", "10.203.128.1/24", "dev", "mknetout");
    run("ip", "addr", "add", "fd10:204::1/64", "dev", "mknetout", "nodad");
    run("ip", "link", "set", "mknetout", "up");
    const inside = (...args: string[]) => run("nsenter", `--net=${netnsPath(outside)}`, "ip", ...args);
    inside("link", "set", "eth0", "up");
    inside("addr", "add", "10.203.128.2/24", "dev", "eth0");
    inside("addr", "add", "fd10:204::2/64", "dev", "eth0", "nodad");
    inside("route", "add", "default", "via", "10.203.128.1");
    inside("-6", "route", "add", "default", "via", "fd10:204::1");
    await work(outside);
  } finally {
    run("ip", "link", "del", "mknetout");
  }
}

beforeEach(requires("root", "netns", "nft"));
beforeEach(async () => {
  store = new MemoryStore<NetworkRecord>();
  namespaces = [];
  programs = [];
  network = await PodNetwork.open(SETTINGS, store, log);
});

afterEach(async () => {
  for (const program of programs) program.kill("SIGKILL");
  await network.close({ removeAll: true });
  for (const made of namespaces) for (const fd of Object.values(made)) (fd as Fd).close();
  const left = [...ownLinks(), ...ownTables(), ...store.records.keys()];
  if (left.length > 0) throw new Error(`left behind: ${left.join(", ")}`);
});

describe("setup", () => {
  test("two pods reach each other by IPv4 and by IPv6, each seeing the other's own address", async () => {
    const [one, two] = [await addPod(), await addPod()];
    await serve(two.namespaces, 80);
    for (const family of [0, 1]) {
      expect(askFrom(one.namespaces, two.network.ips[family] ?? "", 80)).toBe(one.network.ips[family]);
    }
  });

  test("host and pod reach each other at once, without waiting for address detection", async () => {
    const pod = await addPod();
    await serve(pod.namespaces, 80);
    expect(await ask(pod.network.ips[0] ?? "", 80)).toBe("10.203.0.1");
    expect(await ask(pod.network.ips[1] ?? "", 80)).toBe("fd10:203::1");
  });

  test("a pod reaches the outside with the host's address", () =>
    withOutside(async (outside) => {
      await serve(outside, 80);
      const pod = await addPod();
      expect(askFrom(pod.namespaces, "10.203.128.2", 80)).toBe("10.203.128.1");
      expect(askFrom(pod.namespaces, "fd10:204::2", 80)).toBe("fd10:204::1");
    }));

  test("a link of isolateFrom is not reached and does not reach pods, but for host ports", () =>
    withOutside(async (outside) => {
      await network.close({ removeAll: true });
      network = await PodNetwork.open({ ...SETTINGS, isolateFrom: ["mknetout"] }, store, log);
      await serve(outside, 80);
      const pod = await addPod([port(20_312)]);
      await serve(pod.namespaces, 80);
      for (const [host4, host6, from] of [
        ["10.203.128.2", "fd10:204::2", pod.namespaces],
        [pod.network.ips[0], pod.network.ips[1], outside],
      ] as const) {
        for (const host of [host4 ?? "", host6 ?? ""]) expect(() => askFrom(from, host, 80)).toThrow("Command failed");
      }
      expect(askFrom(outside, "10.203.128.1", 20_312)).toBe("10.203.128.2");
      expect(askFrom(outside, "fd10:204::1", 20_312)).toBe("fd10:204::2");
    }));

  test("dialInNetns reaches a server on the pod's localhost", async () => {
    const pod = await addPod();
    await serve(pod.namespaces, 8080);
    (await dialInNetns(netnsOf(pod.namespaces), 8080)).close();
    await expect(dialInNetns(netnsOf(pod.namespaces), 8081)).rejects.toMatchObject({
      syscall: { errno: "ECONNREFUSED" },
    });
  });

  test("an address is not given out again right after its release", async () => {
    const one = await addPod();
    await network.teardown(one.id);
    await network.gone(one.id);
    const two = await addPod();
    expect(two.network.ips[0]).not.toBe(one.network.ips[0]);
  });

  test("a setup that fails leaves no link and no lease", async () => {
    const made = await makeNamespaces();
    const id = newSandboxId();
    const closed = (await makeNamespaces()).netlink;
    closed?.close();
    await expect(
      network.setup(id, { netns: netnsOf(made), netlink: closed as Fd, portMappings: [port(20_390)] }),
    ).rejects.toThrow("is closed");
    expect(store.get(id)).toBeUndefined();
    expect(run("nft", "list", "table", "inet", `minke_${BRIDGE}`)).not.toContain("20390");
  });

  test("a bridge that was deleted by hand is made again and keeps the pods that were on it", async () => {
    const one = await addPod();
    run("ip", "link", "del", BRIDGE);
    const two = await addPod();
    await serve(one.namespaces, 80);
    expect(askFrom(two.namespaces, one.network.ips[0] ?? "", 80)).toBe(two.network.ips[0]);
  });
});

test.each([
  ["deleted", ["link", "del", BRIDGE]],
  ["taken down", ["link", "set", BRIDGE, "down"]],
])("a bridge that was %s by hand is put right without another pod coming", async (_, deed) => {
  const [one, two] = [await addPod(), await addPod()];
  await serve(one.namespaces, 80);
  run("ip", ...deed);
  expect(await network.verify()).toContain("bridge");
  expect(askFrom(two.namespaces, one.network.ips[0] ?? "", 80)).toBe(two.network.ips[0]);
  expect(await ask(one.network.ips[1] ?? "", 80)).toBe("fd10:203::1");
});

describe("host ports", () => {
  test("a host port answers on 127.0.0.1, on the bridge's addresses, from another pod and from the pod itself", async () => {
    const pod = await addPod([port(20_301)]);
    const other = await addPod();
    await serve(pod.namespaces, 80);
    expect(await ask("127.0.0.1", 20_301)).toBe("10.203.0.1");
    expect(await ask("10.203.0.1", 20_301)).toBe("10.203.0.1");
    expect(await ask("fd10:203::1", 20_301)).toBe("fd10:203::1");
    expect(askFrom(other.namespaces, "10.203.0.1", 20_301)).toBe("10.203.0.1");
    expect(askFrom(other.namespaces, "fd10:203::1", 20_301)).toBe("fd10:203::1");
    expect(askFrom(pod.namespaces, "10.203.0.1", 20_301)).toBe("10.203.0.1");
    expect(askFrom(pod.namespaces, "fd10:203::1", 20_301)).toBe("fd10:203::1");
  });

  test("a host port with a hostIp answers on that address only", async () => {
    const pod = await addPod([port(20_302, "127.0.0.1")]);
    await serve(pod.namespaces, 80);
    expect(await ask("127.0.0.1", 20_302)).toBe("10.203.0.1");
    await expect(ask("10.203.0.1", 20_302)).rejects.toMatchObject({ code: "ECONNREFUSED" });
  });

  test("a UDP port moves to the next pod at once, though the client keeps its socket", async () => {
    const { createSocket } = await import("node:dgram");
    const client = createSocket("udp4");
    const askUdp = () =>
      new Promise<string>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error("no answer")), 2000);
        client.once("message", (bytes) => {
          clearTimeout(timer);
          resolve(String(bytes));
        });
        client.send("hello", 20_303, "127.0.0.1");
      });
    try {
      const one = await addPod([port(20_303, "", "udp", 53)]);
      await serveUdp(one.namespaces, 53, "one");
      expect(await askUdp()).toBe("one");
      await network.teardown(one.id);
      const two = await addPod([port(20_303, "", "udp", 53)]);
      await serveUdp(two.namespaces, 53, "two");
      expect(await askUdp()).toBe("two");
    } finally {
      client.close();
    }
  });

  test("a port of another pod is failed-precondition HOST_PORT_IN_USE and frees the address", async () => {
    const one = await addPod([port(20_304)]);
    await expect(addPod([port(20_304, "127.0.0.1")])).rejects.toMatchObject({
      kind: "failed-precondition",
      code: "HOST_PORT_IN_USE",
      message: expect.stringContaining(one.id.slice(0, 13)) as string,
    });
    expect([...store.records.keys()].toSorted()).toEqual([one.id, "network"].toSorted());
  });

  test("a port that a process of the host listens on is HOST_PORT_IN_USE and names the process", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(20_305, "127.0.0.1", resolve));
    try {
      await expect(addPod([port(20_305)])).rejects.toMatchObject({
        code: "HOST_PORT_IN_USE",
        message: expect.stringContaining(`process ${process.pid}`) as string,
      });
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
  });

  test("a table that was flushed by hand is made again with the next pod's ports, with all of them", async () => {
    const one = await addPod([port(20_306)]);
    run("nft", "delete", "table", "inet", `minke_${BRIDGE}`);
    await addPod([port(20_307)]);
    await serve(one.namespaces, 80);
    expect(await ask("127.0.0.1", 20_306)).toBe("10.203.0.1");
  });

  test("rules flushed by hand are noticed and made again, whether the table is gone, empty or lacks a port", async () => {
    const pod = await addPod([port(20_311)]);
    await serve(pod.namespaces, 80);
    const table = `minke_${BRIDGE}`;
    for (const deed of [
      ["delete", "table", "inet", table],
      ["flush", "table", "inet", table],
      ["flush", "map", "inet", table, "ports4"],
      ["flush", "chain", "inet", table, "leaving"],
    ]) {
      await network.verify();
      expect(await network.verify()).toEqual([]);
      run("nft", ...deed);
      expect(await network.verify()).toEqual(["rules"]);
      expect(await ask("127.0.0.1", 20_311)).toBe("10.203.0.1");
    }
  });

  test("changes to other tables are none of ours", async () => {
    await network.verify();
    run("nft", "add", "table", "inet", "mknet_other");
    try {
      expect(await network.verify()).toEqual([]);
    } finally {
      run("nft", "delete", "table", "inet", "mknet_other");
    }
  });

  test("a pod cannot reach the host's loopback through the bridge", async () => {
    const pod = await addPod();
    run("nsenter", `--net=${netnsPath(pod.namespaces)}`, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo");
    run(
      "nsenter",
      `--net=${netnsPath(pod.namespaces)}`,
      "sh",
      "-c",
      "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; ip route add 127.0.0.1/32 via 10.203.0.1 dev eth0 onlink",
    );
    const server = createServer((socket) => socket.end("reached"));
    await new Promise<void>((resolve) => server.listen(20_308, "127.0.0.1", resolve));
    try {
      expect(() => askFrom(pod.namespaces, "127.0.0.1", 20_308)).toThrow("Command failed");
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
  });
});

describe("teardown", () => {
  test("of an id that never existed succeeds", async () => {
    await expect(network.teardown(newSandboxId())).resolves.toBeUndefined();
  });

  test("frees link, lease and port, and the port can be used again before the link is gone", async () => {
    const pod = await addPod([port(20_310)]);
    await network.teardown(pod.id);
    await addPod([port(20_310)]);
    await network.gone(pod.id);
    expect(store.get(pod.id)).toBeUndefined();
    expect(run("ip", "-o", "link", "show", "master", BRIDGE).trim().split("\n")).toHaveLength(1);
  });

  test("of many pods at once ends in one deletion", async () => {
    const pods = [];
    for (let i = 0; i < 10; i++) pods.push(await addPod());
    await Promise.all(pods.map(({ id }) => network.teardown(id)));
    await Promise.all(pods.map(({ id }) => network.gone(id)));
    expect(run("ip", "-o", "link", "show", "master", BRIDGE)).toBe("");
    expect(store.records.size).toBe(1);
  });
});

describe("close", () => {
  test("with removeAll puts back the sysctls that open has changed, and only those", async (context) => {
    if (hasOtherDaemon()) context.skip("another daemon of this machine needs them");
    const changed = store.records.get("network");
    const paths = changed?.type === "bridge" ? changed.sysctls : [];
    const expected = forwarding()
      .split(" ")
      .map((now, family) =>
        paths.some(({ path }) => path === ["ipv4/ip_forward", "ipv6/conf/all/forwarding"][family]) ? "0" : now,
      );
    expect(forwarding()).toBe("1 1");
    await network.close({ removeAll: true });
    expect(forwarding()).toBe(expected.join(" "));
    network = await PodNetwork.open(SETTINGS, store, log);
  });
});

describe("a new daemon", () => {
  test("keeps the pods that live, with their ports, and removes the others", async () => {
    const [live, dead] = [await addPod([port(20_320)]), await addPod([port(20_321)])];
    await network.close({ removeAll: false });
    network = await PodNetwork.open(SETTINGS, store, log);
    const recovery = await network.recover([live.id]);
    expect(recovery.removedLeases).toEqual([dead.id]);
    expect(recovery.unreachable).toEqual([]);
    await serve(live.namespaces, 80);
    expect(await ask("127.0.0.1", 20_320)).toBe("10.203.0.1");
    expect(run("nft", "list", "table", "inet", `minke_${BRIDGE}`)).not.toContain("20321");
    expect(run("ip", "-o", "link", "show", "master", BRIDGE).trim().split("\n")).toHaveLength(1);
    const next = await addPod();
    expect(next.network.ips[0]).not.toBe(live.network.ips[0]);
  });

  test("reads a lost lease back from the link", async () => {
    const pod = await addPod();
    await network.close({ removeAll: false });
    store.records.delete(pod.id);
    network = await PodNetwork.open(SETTINGS, store, log);
    await network.recover([pod.id]);
    expect(store.get(pod.id)).toMatchObject({ ips: pod.network.ips });
  });

  test("with a taken bridge name is BRIDGE_TAKEN and names the setting", async () => {
    await expect(
      PodNetwork.open({ ...SETTINGS, owner: "/tmp/other" }, new MemoryStore<NetworkRecord>(), log),
    ).rejects.toMatchObject({
      code: "BRIDGE_TAKEN",
      message: expect.stringContaining("network.bridge") as string,
    });
  });

  test("with a taken subnet is SUBNET_TAKEN and names link and setting", async () => {
    const settings = { bridge: "mknet1", subnet4: "10.203.0.0/16", subnet6: "none", owner: "/tmp/other" };
    await expect(PodNetwork.open(settings, new MemoryStore<NetworkRecord>(), log)).rejects.toMatchObject({
      code: "SUBNET_TAKEN",
      message: expect.stringMatching(/mknet0.*network\.subnet-ipv4/) as string,
    });
  });

  test("beside another chooses its own subnets and leaves the other's pods alone", async () => {
    const pod = await addPod([port(20_330)]);
    const second = await PodNetwork.open(
      { bridge: "mknet1", owner: "/tmp/other" },
      new MemoryStore<NetworkRecord>(),
      log,
    );
    expect(second.subnets[0]).toBe("10.231.0.0/16");
    await second.recover([]);
    await second.close({ removeAll: true });
    await serve(pod.namespaces, 80);
    expect(await ask("127.0.0.1", 20_330)).toBe("10.203.0.1");
  });

  test("that runs out of addresses says NO_ADDRESSES and names the subnet", async () => {
    await network.close({ removeAll: true });
    network = await PodNetwork.open({ ...SETTINGS, subnet4: "10.203.0.0/29", subnet6: "none" }, store, log);
    for (let i = 0; i < 5; i++) await addPod();
    await expect(addPod()).rejects.toMatchObject({
      kind: "resource-exhausted",
      code: "NO_ADDRESSES",
      message: expect.stringContaining("10.203.0.0/29") as string,
    });
  });
});
