import { expect, test } from "vitest";
import { deleteConntrack, parseConntrack } from "../../../../src/network/netlink/conntrack.js";

const TUPLE = [
  "1400 0180 0800 0100 7f000001 0800 0200 7f000001", // CTA_TUPLE_IP
  "1c00 0280 0500 0100 11000000 0600 0200 c0000000 0600 0300 4e230000", // CTA_TUPLE_PROTO: udp, 49152 -> 20003
]
  .join("")
  .replaceAll(" ", "");
const PAYLOAD = Buffer.from(`0200000034000180${TUPLE}08000c00deadbeef`, "hex");

test("parseConntrack reads protocol, destination and port of the original direction", () => {
  const entry = parseConntrack({ type: 0x100, flags: 0, sequence: 1, payload: PAYLOAD });
  expect(entry).toMatchObject({
    family: 4,
    protocol: 17,
    destination: Buffer.of(127, 0, 0, 1),
    destinationPort: 20003,
  });
});

test("deleteConntrack repeats the dumped tuple and id", () => {
  const entry = parseConntrack({ type: 0x100, flags: 0, sequence: 1, payload: PAYLOAD });
  expect(entry && deleteConntrack(entry).bytes.subarray(16).toString("hex")).toBe(PAYLOAD.toString("hex"));
});

test("parseConntrack of a message without a tuple is undefined", () => {
  expect(
    parseConntrack({ type: 0x100, flags: 0, sequence: 1, payload: Buffer.from("02000000", "hex") }),
  ).toBeUndefined();
});
