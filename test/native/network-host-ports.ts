/**
 * Host ports of pods against the real kernel: who reaches them, which two are one, and that they
 * come back after rules were flushed by hand. A part of network.test.ts: files run side by side,
 * and a network that is removed switches the host's forwarding off.
 */
import { createSocket } from "node:dgram";
import { createServer } from "node:net";
import { describe, expect, test } from "vitest";
import { ask, type networkBench, port, run } from "../harness/network-bench.js";
import { requires } from "../harness/requires.js";

/** @param bridge of the bench, whose pods' network begins with 10.203.0.1 */
export function describeHostPorts(
  { bench, netnsPath, addPod, serve, serveUdp, start, askFrom }: ReturnType<typeof networkBench>,
  bridge: string,
): void {
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
      const client = createSocket("udp4");
      const askUdp = () =>
        new Promise<string>((resolve, reject) => {
          const timer = setTimeout(() => reject(new Error("no answer")), 20_000);
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
        await bench.network.teardown(one.id);
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
      expect([...bench.store.records.keys()].toSorted()).toEqual([one.id, "network"].toSorted());
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
      run("nft", "delete", "table", "inet", `minke_${bridge}`);
      await addPod([port(20_307)]);
      await serve(one.namespaces, 80);
      expect(await ask("127.0.0.1", 20_306)).toBe("10.203.0.1");
    });

    test("rules flushed by hand are noticed and made again, whether the table is gone, empty or lacks a port", async () => {
      const pod = await addPod([port(20_311)]);
      await serve(pod.namespaces, 80);
      const table = `minke_${bridge}`;
      for (const deed of [
        ["delete", "table", "inet", table],
        ["flush", "table", "inet", table],
        ["flush", "map", "inet", table, "ports4"],
        ["flush", "chain", "inet", table, "leaving"],
      ]) {
        await bench.network.verify();
        expect(await bench.network.verify()).toEqual([]);
        run("nft", ...deed);
        expect(await bench.network.verify()).toEqual(["rules"]);
        expect(await ask("127.0.0.1", 20_311)).toBe("10.203.0.1");
      }
    });

    test("changes to other tables are none of ours", async () => {
      await bench.network.verify();
      run("nft", "add", "table", "inet", "mknet_other");
      try {
        expect(await bench.network.verify()).toEqual([]);
      } finally {
        run("nft", "delete", "table", "inet", "mknet_other");
      }
    });

    test.each([
      ["two protocols", port(20_313, "", "tcp"), port(20_313, "", "udp", 53)],
      ["two addresses of the host", port(20_314, "127.0.0.1"), port(20_314, "10.203.0.1")],
      ["two families", port(20_315, "0.0.0.0"), port(20_315, "::")],
    ])("%s of one number are two ports", async (_, first, second) => {
      await addPod([first]);
      await addPod([second]);
    });

    test.each([
      ["a wildcard and an address of its family", port(20_316, "0.0.0.0"), port(20_316, "127.0.0.1")],
      ["no address and one of IPv6", port(20_317), port(20_317, "::1")],
      ["the same address, written in two ways", port(20_318, "fd10:203::1"), port(20_318, "fd10:203:0::0:1")],
    ])("%s are one port: HOST_PORT_IN_USE, in one pod and in two", async (_, first, second) => {
      // On ::1 alone a port may be none of this host's.
      const refused = { code: expect.stringMatching(/^HOST_PORT_(IN_USE|UNREACHABLE)$/) as string };
      await expect(addPod([first, second])).rejects.toMatchObject(refused);
      await addPod([first]);
      await expect(addPod([second])).rejects.toMatchObject(refused);
    });

    test("a range of a hundred ports of both families is published and goes with its pod", async () => {
      const ports = Array.from({ length: 100 }, (_, i) => port(22_000 + i, "", "tcp", 80));
      const pod = await addPod(ports);
      await serve(pod.namespaces, 80);
      expect(await ask("127.0.0.1", 22_099)).toBe("10.203.0.1");
      const listed = () =>
        run("nft", "list", "table", "inet", `minke_${bridge}`).match(/tcp \. 22\d{3} :/g)?.length ?? 0;
      expect(listed()).toBe(200);
      await bench.network.teardown(pod.id);
      expect(listed()).toBe(0);
    });

    test("an SCTP port answers, and is refused to a second pod", async (context) => {
      requires("sctp")(context);
      const pod = await addPod([port(20_320, "", "sctp", 80)]);
      const socket = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)";
      const server = [
        socket,
        's.bind(("0.0.0.0", 80)); s.listen(); print("up", flush=True)',
        'while True: s.accept()[0].send(b"sctp")',
      ].join("\n");
      await start(pod.namespaces, server, ["python3", "-c"]);
      const client = [socket, 's.settimeout(10); s.connect(("127.0.0.1", 20320)); print(s.recv(9).decode())'].join(
        "\n",
      );
      expect(run("python3", "-c", client)).toBe("sctp\n");
      await expect(addPod([port(20_320, "", "sctp", 80)])).rejects.toMatchObject({ code: "HOST_PORT_IN_USE" });
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
        expect(() => askFrom(pod.namespaces, "127.0.0.1", 20_308, 1500)).toThrow("Command failed");
      } finally {
        await new Promise((resolve) => server.close(resolve));
      }
    });
  });
}
