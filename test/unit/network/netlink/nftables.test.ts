/** Golden bytes: written by hand from linux/netfilter/nf_tables.h. What `nft list` says of them is test/native's. */
import { expect, test } from "vitest";
import { be16, u8 } from "../../../../src/network/netlink/message.js";
import * as nft from "../../../../src/network/netlink/nftables.js";

const hex = (...parts: string[]): string => parts.join("").replaceAll(" ", "");
const body = ({ bytes }: { bytes: Buffer }): string => bytes.subarray(16).toString("hex");

test("addTable names the table in the inet family", () => {
  const request = nft.addTable("t");
  expect(request.bytes.readUInt16LE(4)).toBe(0x0a00); // NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWTABLE
  expect(body(request)).toBe(hex("01 00 0000", "0600 0100 7400 0000", "0800 0200 00000000"));
});

test("addMap gives the concatenated types and padded lengths of key and value", () => {
  const shape = { name: "m", key: ["inet_proto", "inet_service"], value: ["ipv4_addr", "inet_service"] } as const;
  expect(body(nft.addMap("t", shape, 1))).toBe(
    hex(
      "01 00 0000",
      "0600 0100 7400 0000",
      "0600 0200 6d00 0000",
      "0800 0300 00000008", // NFT_SET_MAP
      "0800 0400 0000030d", // inet_proto . inet_service
      "0800 0500 00000008",
      "0800 0600 000001cd", // ipv4_addr . inet_service
      "0800 0700 00000008",
      "0800 0a00 00000001",
    ),
  );
});

test("addElements pads each field of key and value to four bytes", () => {
  const element = { key: [u8(6), be16(8080)], value: [Buffer.of(10, 88, 0, 2), be16(80)] };
  expect(body(nft.addElements("t", "m", [element]))).toBe(
    hex(
      "01 00 0000",
      "0600 0100 7400 0000",
      "0600 0200 6d00 0000",
      "2800 0380", // NFTA_SET_ELEM_LIST_ELEMENTS
      "2400 0180", // NFTA_LIST_ELEM
      "1000 0180 0c00 0100 06000000 1f900000",
      "1000 0280 0c00 0100 0a580002 00500000",
    ),
  );
});

test("a base chain carries hook, signed priority and type", () => {
  const base = { type: "nat", hook: "prerouting", priority: -100 } as const;
  expect(body(nft.addChain("t", "c", base))).toBe(
    hex(
      "01 00 0000",
      "0600 0100 7400 0000",
      "0600 0300 6300 0000",
      "1400 0480 0800 0100 00000000 0800 0200 ffffff9c",
      "0800 0700 6e617400",
    ),
  );
});

test("matchLink compares the whole of the kernel's 16-byte name", () => {
  const [, compare] = nft.matchLink("iifname", "==", "mk0");
  expect(compare?.toString("hex")).toContain(hex("1400 0100 6d6b3000", "00".repeat(12)));
});

test("a transaction is bracketed for the nftables subsystem, and the brackets are not answered", () => {
  const requests = nft.transaction([nft.deleteTable("t")]);
  expect(requests.map(({ name, isAnswered }) => [name, isAnswered])).toEqual([
    ["NFNL_MSG_BATCH_BEGIN", false],
    ["NFT_MSG_DELTABLE", true],
    ["NFNL_MSG_BATCH_END", false],
  ]);
  expect(requests[0]?.bytes.toString("hex")).toBe(hex("14000000 1000 0100 00000000 00000000", "00 00 000a"));
});
