/**
 * src/network against the real kernel: pods of two namespaces each, and an "outside" host in a
 * namespace of its own behind a veth. Needs root, nft, ip and nsenter.
 *
 * Bridges mknet…, subnets of 10.203.0.0/16; every test removes what it made.
 */
import { readFileSync } from "node:fs";
import { describe, expect, test, vi } from "vitest";
import { newSandboxId } from "../../src/base/ids.js";
import { dialInNetns, type Fd } from "../../src/native/index.js";
import { linkName } from "../../src/network/link-names.js";
import { NetlinkSocket } from "../../src/network/netlink/socket.js";
import { type NetworkRecord, PodNetwork } from "../../src/network/pod-network.js";
import { MemoryStore } from "../harness/memory-store.js";
import { ask, log, netnsOf, networkBench, port, run } from "../harness/network-bench.js";
import { describeHostPorts } from "./network-host-ports.js";

const BRIDGE = "mknet0";
const SETTINGS = { bridge: BRIDGE, subnet4: "10.203.0.0/20", subnet6: "fd10:203::/64", owner: "/tmp/minke-net-test" };
const made = networkBench(SETTINGS);
const { bench, makeNamespaces, netnsPath, addPod, plan, serve, serveUdp, askFrom, withOutside } = made;

const forwarding = (): string =>
  ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]
    .map((path) => readFileSync(`/proc/sys/net/${path}`, "utf8").trim())
    .join(" ");
const hasOtherDaemon = (): boolean =>
  run("ip", "-o", "link").replaceAll("minke /tmp/minke-net-test", "").includes("alias minke ");

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
      await bench.network.close({ removeAll: true });
      bench.network = await PodNetwork.open({ ...SETTINGS, isolateFrom: ["mknetout"] }, bench.store, log);
      await serve(outside, 80);
      const pod = await addPod([port(20_312)]);
      await serve(pod.namespaces, 80);
      expect(() => askFrom(pod.namespaces, "10.203.128.2", 80, 700)).toThrow("Command failed");
      expect(() => askFrom(outside, pod.network.ips[1] ?? "", 80, 700)).toThrow("Command failed");
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
    await bench.network.teardown(one.id);
    await bench.network.gone(one.id);
    const two = await addPod();
    expect(two.network.ips[0]).not.toBe(one.network.ips[0]);
  });

  test("a setup that fails leaves no link and no lease", async () => {
    const made = await makeNamespaces();
    const id = newSandboxId();
    const closed = (await makeNamespaces()).netlink;
    closed?.close();
    await bench.network.reserve(id, [port(20_390)]);
    await expect(bench.network.setup(id, { netns: netnsOf(made), netlink: closed as Fd })).rejects.toThrow("is closed");
    expect(bench.store.get(id)).toBeUndefined();
    expect(run("nft", "list", "table", "inet", `minke_${BRIDGE}`)).not.toContain("20390");
  });

  test("a bridge that was deleted by hand is made again and keeps the pods that were on it", async () => {
    const one = await addPod();
    run("ip", "link", "del", BRIDGE);
    const two = await addPod();
    await serve(one.namespaces, 80);
    expect(askFrom(two.namespaces, one.network.ips[0] ?? "", 80)).toBe(two.network.ips[0]);
  });

  test("a bridge that was deleted by hand while a pod's link was planned is made again, and the pod has its link", async () => {
    const id = newSandboxId();
    const setUp = await plan([], id, () => run("ip", "link", "del", BRIDGE));
    const [late, other] = [await setUp(), await addPod()];
    await serve(late.namespaces, 80);
    expect(askFrom(other.namespaces, late.network.ips[1] ?? "", 80)).toBe(other.network.ips[1]);
  });

  test("a planned link whose name is taken is refused, and leaves no lease", async () => {
    const id = newSandboxId();
    const name = linkName(BRIDGE, id);
    const setUp = await plan([], id, () => run("ip", "link", "add", name, "type", "bridge"));
    await expect(setUp()).rejects.toMatchObject({ syscall: { name: "RTM_NEWLINK", errno: "EEXIST" } });
    expect(bench.store.get(id)).toBeUndefined();
  });

  test("a planned link is made also where the descriptors are closed before, and goes with the namespace", async () => {
    const id = newSandboxId();
    const { link } = await bench.network.reserve(id, []);
    const { link: replies, ...fds } = await makeNamespaces(link);
    for (const fd of Object.values(fds)) fd.close();
    if (!replies) throw new Error("no link was asked for");
    const { host, pod } = link.results(await replies);
    expect([...host, ...pod].map(({ errno }) => errno)).toEqual(Array(8).fill(0));
    await expect.poll(() => run("ip", "-o", "link")).not.toContain(linkName(BRIDGE, id));
    await bench.network.teardown(id);
    await bench.network.gone(id);
  });

  const place = async () => {
    const [id, namespaces] = [newSandboxId(), await makeNamespaces()];
    await bench.network.reserve(id, []);
    return () => bench.network.setup(id, { netns: netnsOf(namespaces), netlink: namespaces.netlink as Fd });
  };

  test("a pod that asked before another one made a deleted bridge again asks once more", async () => {
    const [early, late] = [await place(), await place()];
    let goOn: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (goOn = resolve));
    // The first batch is that of the early pod's link: it is refused, and hears of it late.
    vi.spyOn(NetlinkSocket.prototype, "exchange").mockImplementationOnce(async function (
      this: NetlinkSocket,
      requests,
    ) {
      const results = await this.exchange(requests);
      await held;
      return results;
    });
    run("ip", "link", "del", BRIDGE);
    const setup = early();
    setup.catch(() => undefined);
    await late().finally(() => (goOn(), vi.restoreAllMocks()));
    expect((await setup).ips).toHaveLength(2);
  });

  test("a bridge that is deleted again while it is made again is made once more", async () => {
    const setUp = await place();
    const spy = vi.spyOn(NetlinkSocket.prototype, "exchange");
    let isDeleted = false;
    // Once each time: what it asks itself goes to the kernel.
    spy.mockImplementationOnce(async function deleteOnce(this: NetlinkSocket, requests) {
      // Up, two addresses and a route: what follows on the bridge's sysctls.
      isDeleted = requests.length === 4;
      if (isDeleted) run("ip", "link", "del", BRIDGE);
      const answer = this.exchange(requests);
      if (!isDeleted) spy.mockImplementationOnce(deleteOnce);
      return answer;
    });
    run("ip", "link", "del", BRIDGE);
    try {
      expect((await setUp()).ips).toHaveLength(2);
    } finally {
      spy.mockRestore();
    }
    expect(isDeleted).toBe(true);
  });
});

test.each([
  ["deleted", ["link", "del", BRIDGE]],
  ["taken down", ["link", "set", BRIDGE, "down"]],
  ["robbed of its addresses", ["addr", "flush", "dev", BRIDGE]],
])("a bridge that was %s by hand is put right without another pod coming", async (_, deed) => {
  const [one, two] = [await addPod(), await addPod()];
  await serve(one.namespaces, 80);
  run("ip", ...deed);
  expect(await bench.network.verify()).toContain("bridge");
  expect(await bench.network.verify()).toEqual([]);
  expect(askFrom(two.namespaces, one.network.ips[0] ?? "", 80)).toBe(two.network.ips[0]);
  expect(await ask(one.network.ips[1] ?? "", 80)).toBe("fd10:203::1");
});

test("a UDP client outside gets the answer of a host port from the address and port that it asked", () =>
  withOutside(async (outside) => {
    const pod = await addPod([port(20_319, "", "udp", 53)]);
    await serveUdp(pod.namespaces, 53, "answer");
    // A connected socket takes answers of its peer alone.
    const code = `const s=require("dgram").createSocket("udp4");s.on("message",m=>{console.log(String(m));s.close()});s.connect(20319,"10.203.128.1",()=>s.send("x"));setTimeout(()=>{console.log("no answer");process.exit()},20000).unref()`;
    expect(run("nsenter", `--net=${netnsPath(outside)}`, process.execPath, "-e", code)).toBe("answer\n");
  }));

describeHostPorts(made, BRIDGE);

describe("teardown", () => {
  test("of an id that never existed succeeds", async () => {
    await expect(bench.network.teardown(newSandboxId())).resolves.toBeUndefined();
  });

  test("frees link, lease and port, and the port can be used again before the link is gone", async () => {
    const pod = await addPod([port(20_310)]);
    await bench.network.teardown(pod.id);
    await addPod([port(20_310)]);
    await bench.network.gone(pod.id);
    expect(bench.store.get(pod.id)).toBeUndefined();
    expect(run("ip", "-o", "link", "show", "master", BRIDGE).trim().split("\n")).toHaveLength(1);
  });

  test("of many pods at once ends in one deletion", async () => {
    const pods = [];
    for (let i = 0; i < 10; i++) pods.push(await addPod());
    await Promise.all(pods.map(({ id }) => bench.network.teardown(id)));
    await Promise.all(pods.map(({ id }) => bench.network.gone(id)));
    expect(run("ip", "-o", "link", "show", "master", BRIDGE)).toBe("");
    expect(bench.store.records.size).toBe(1);
  });
});

describe("close", () => {
  test("with removeAll puts back the sysctls that open has changed, and only those", async (context) => {
    if (hasOtherDaemon()) context.skip("another daemon of this machine needs them");
    const changed = bench.store.records.get("network");
    const paths = changed?.type === "bridge" ? changed.sysctls : [];
    const expected = forwarding()
      .split(" ")
      .map((now, family) =>
        paths.some(({ path }) => path === ["ipv4/ip_forward", "ipv6/conf/all/forwarding"][family]) ? "0" : now,
      );
    expect(forwarding()).toBe("1 1");
    await bench.network.close({ removeAll: true });
    // Or one has come meanwhile: it keeps them on.
    if (!hasOtherDaemon()) expect(forwarding()).toBe(expected.join(" "));
    bench.network = await PodNetwork.open(SETTINGS, bench.store, log);
  });
});

describe("a new daemon", () => {
  test("keeps the pods that live, with their ports, and removes the others", async () => {
    const [live, dead] = [await addPod([port(20_320)]), await addPod([port(20_321)])];
    await bench.network.close({ removeAll: false });
    bench.network = await PodNetwork.open(SETTINGS, bench.store, log);
    const recovery = await bench.network.recover([live.id]);
    expect(recovery.removedLeases).toEqual([dead.id]);
    expect(recovery.unreachable).toEqual([]);
    await serve(live.namespaces, 80);
    expect(await ask("127.0.0.1", 20_320)).toBe("10.203.0.1");
    expect(run("nft", "list", "table", "inet", `minke_${BRIDGE}`)).not.toContain("20321");
    expect(run("ip", "-o", "link", "show", "master", BRIDGE).trim().split("\n")).toHaveLength(1);
    const next = await addPod();
    expect(next.network.ips[0]).not.toBe(live.network.ips[0]);
  });

  test("removes a lease that has neither a sandbox nor a link", async () => {
    const { id } = await addPod([port(20_322)]);
    run("ip", "link", "del", linkName(BRIDGE, id));
    await bench.network.close({ removeAll: false });
    bench.network = await PodNetwork.open(SETTINGS, bench.store, log);
    expect((await bench.network.recover([])).removedLeases).toEqual([id]);
    expect(bench.store.get(id)).toBeUndefined();
    await addPod([port(20_322)]);
  });

  test("reads a lost lease back from the link", async () => {
    const pod = await addPod();
    await bench.network.close({ removeAll: false });
    bench.store.records.delete(pod.id);
    bench.network = await PodNetwork.open(SETTINGS, bench.store, log);
    await bench.network.recover([pod.id]);
    expect(bench.store.get(pod.id)).toMatchObject({ ips: pod.network.ips });
  });

  test("with another bridge name keeps the former bridge while a pod is on it, then removes it with its rules", async () => {
    const renamed = { ...SETTINGS, bridge: "mknet2" };
    const reopen = async () => {
      await bench.network.close({ removeAll: false });
      bench.network = await PodNetwork.open(renamed, bench.store, log);
    };
    const pod = await addPod([port(20_331)]);
    await reopen();
    await bench.network.recover([pod.id]);
    await serve(pod.namespaces, 80);
    expect(await ask("127.0.0.1", 20_331)).toBe("10.203.0.1");
    await bench.network.teardown(pod.id);
    await bench.network.gone(pod.id);
    await reopen();
    expect(run("ip", "-o", "link")).not.toContain(`${BRIDGE}:`);
    expect(run("nft", "list", "tables")).not.toContain(`minke_${BRIDGE}\n`);
    await serve((await addPod([port(20_331)])).namespaces, 80);
    expect(await ask("127.0.0.1", 20_331)).toBe("10.203.0.1");
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
    // Which one depends on what else this machine runs.
    expect(second.subnets[0]).toMatch(/^10\.|^172\.|^192\.168\./);
    expect(second.subnets[0]).not.toBe(bench.network.subnets[0]);
    await second.recover([]);
    await second.close({ removeAll: true });
    await serve(pod.namespaces, 80);
    expect(await ask("127.0.0.1", 20_330)).toBe("10.203.0.1");
  });

  test("that runs out of addresses says NO_ADDRESSES and names the subnet", async () => {
    await bench.network.close({ removeAll: true });
    bench.network = await PodNetwork.open({ ...SETTINGS, subnet4: "10.203.0.0/29", subnet6: "none" }, bench.store, log);
    for (let i = 0; i < 5; i++) await addPod();
    await expect(addPod()).rejects.toMatchObject({
      kind: "resource-exhausted",
      code: "NO_ADDRESSES",
      message: expect.stringContaining("10.203.0.0/29") as string,
    });
  });
});
