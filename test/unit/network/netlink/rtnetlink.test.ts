/** Golden bytes: written by hand from rtnetlink(7), not by the code under test. */
import { describe, expect, test } from "vitest";
import { parseMessages } from "../../../../src/network/netlink/message.js";
import * as rt from "../../../../src/network/netlink/rtnetlink.js";

const HEADER = 16;
const body = ({ bytes }: { bytes: Buffer }): string => bytes.subarray(HEADER).toString("hex");
const hex = (...parts: string[]): string => parts.join("").replaceAll(" ", "");

describe("requests", () => {
  test("addAddress of IPv4 has the broadcast address of its subnet", () => {
    const request = rt.addAddress(2, { family: 4, value: 0x0a580002n }, 16);
    expect(body(request)).toBe(
      hex("02 10 00 00 02000000", "0800 0200 0a580002", "0800 0100 0a580002", "0800 0400 0a58ffff"),
    );
    expect(request.bytes.readUInt16LE(4)).toBe(20); // RTM_NEWADDR
    expect(request.bytes.readUInt16LE(6)).toBe(0x605); // CREATE | EXCL | ACK | REQUEST
  });

  test("addAddress of IPv6 switches duplicate address detection off", () => {
    const address = "fd000000000000000000000000000002";
    expect(body(rt.addAddress(2, { family: 6, value: BigInt(`0x${address}`) }, 64))).toBe(
      hex("0a 40 00 00 02000000", "1400 0200", address, "1400 0100", address, "0800 0800 02000000"),
    );
  });

  test("addDefaultRoute goes by the gateway in the main table", () => {
    expect(body(rt.addDefaultRoute(2, { family: 4, value: 0x0a580001n }))).toBe(
      hex("02 00 00 00 fe 04 00 01 00000000", "0800 0500 0a580001", "0800 0400 02000000"),
    );
  });

  test("createVeth is born up and on the bridge in the host, down and in its namespace in the pod", () => {
    const request = rt.createVeth({
      hostName: "mk0",
      bridgeIndex: 9,
      netnsFd: 21,
      podName: "eth0",
      podMac: Buffer.from("0a580a580002", "hex"),
      mtu: 1500,
    });
    expect(body(request)).toBe(
      hex(
        "00 00 0000 00000000 01000000 01000000",
        "0800 0300 6d6b3000", // IFLA_IFNAME
        "0800 0400 dc050000", // IFLA_MTU
        "0800 0a00 09000000", // IFLA_MASTER
        "5000 1280", // IFLA_LINKINFO
        "0900 0100 76657468 00000000", // IFLA_INFO_KIND "veth"
        "4000 0280", // IFLA_INFO_DATA
        "3c00 0180", // VETH_INFO_PEER
        "00 00 0000 00000000 00000000 00000000",
        "0900 0300 65746830 00000000", // "eth0"
        "0a00 0100 0a580a580002 0000",
        "0800 0400 dc050000",
        "0800 1c00 15000000", // IFLA_NET_NS_FD
      ),
    );
  });

  test("retireLink takes the link down, off the bridge and into the group in one message", () => {
    expect(body(rt.retireLink("mk0", 0x41424344))).toBe(
      hex("00 00 0000 00000000 00000000 01000000", "0800 0300 6d6b3000", "0800 1b00 44434241", "0800 0a00 00000000"),
    );
  });

  test("deleteLinkGroup names no link, only the group", () => {
    expect(body(rt.deleteLinkGroup(0x41424344))).toBe(hex("00".repeat(16), "0800 1b00 44434241"));
  });
});

describe("answers", () => {
  const message = (payload: string) => {
    const bytes = Buffer.concat([Buffer.alloc(HEADER), Buffer.from(payload.replaceAll(" ", ""), "hex")]);
    bytes.writeUInt32LE(bytes.length, 0);
    const [parsed] = parseMessages(bytes);
    if (!parsed) throw new Error("no message");
    return parsed;
  };

  test("parseLink reads names, master, group, kind and the peer's index", () => {
    const link = rt.parseLink(
      message(
        hex(
          "00 00 0100 06000000 43100100 00000000",
          "0800 0300 6d6b3000",
          "0800 0500 02000000",
          "0800 0a00 09000000",
          "0800 1b00 44434241",
          "0800 0400 dc050000",
          "1000 1280 0900 0100 76657468 00000000",
          "0a00 1400 6d696e6b6500 0000",
        ),
      ),
    );
    expect(link).toEqual({
      index: 6,
      name: "mk0",
      isUp: true,
      isLoopback: false,
      alias: "minke",
      master: 9,
      group: 0x41424344,
      mtu: 1500,
      kind: "veth",
      peerIndex: 2,
    });
  });

  test("parseRouteClaim leaves out default routes and the local table", () => {
    expect(rt.parseRouteClaim(message("02 00 00 00 fe 04 00 01 00000000"))).toBeUndefined();
    expect(rt.parseRouteClaim(message("02 20 00 00 ff 02 00 02 00000000 0800 0100 0a580001"))).toBeUndefined();
    const route = rt.parseRouteClaim(message("02 10 00 00 fe 02 00 01 00000000 0800 0100 0a580000 0800 0400 05000000"));
    expect(route && rt.claimText(route)).toBe("10.88.0.0/16");
  });
});
