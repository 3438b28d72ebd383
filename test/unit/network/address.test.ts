import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  addressBytes,
  formatAddress,
  formatSubnet,
  maskBytes,
  overlaps,
  parseAddress,
  parseSubnet,
} from "../../../src/network/address.js";

function subnet(text: string) {
  const parsed = parseSubnet(text);
  if (!parsed) throw new Error(text);
  return parsed;
}

describe("addresses", () => {
  test.each([
    ["10.88.0.1", "10.88.0.1"],
    ["::", "::"],
    ["::1", "::1"],
    ["fd00:0:0:1:0:0:0:1", "fd00:0:0:1::1"],
    ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
    ["1:0:0:2:0:0:0:3", "1:0:0:2::3"],
    ["::ffff:10.0.0.1", "::ffff:a00:1"],
    ["fe80::", "fe80::"],
  ])("%s is written as %s (RFC 5952)", (text, canonical) => {
    const address = parseAddress(text);
    expect(address && formatAddress(address)).toBe(canonical);
  });

  test("what is written is read back", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }), (value) => {
        expect(parseAddress(formatAddress({ family: 6, value }))).toEqual({ family: 6, value });
      }),
    );
  });

  test.each(["", "10.0.0", "10.0.0.256", "fe80::1%eth0", "localhost"])("%j is none", (text) => {
    expect(parseAddress(text)).toBeUndefined();
  });

  test("bytes are in network order and whole", () => {
    expect(addressBytes({ family: 4, value: 1n }).toString("hex")).toBe("00000001");
    expect(addressBytes({ family: 6, value: 1n }).length).toBe(16);
  });
});

describe("subnets", () => {
  test.each(["10.88.0.1/16", "10.88.0.0", "10.88.0.0/33", "10.88.0.0/-1", "10.88.0.0/16/1", "fd00::1/64"])(
    "%j is none",
    (text) => {
      expect(parseSubnet(text)).toBeUndefined();
    },
  );

  test("mask and text follow the prefix length", () => {
    expect(maskBytes(subnet("10.88.0.0/13")).toString("hex")).toBe("fff80000");
    expect(maskBytes(subnet("fd00::/64")).toString("hex")).toBe("ffffffffffffffff0000000000000000");
    expect(formatSubnet(subnet("fd00::/64"))).toBe("fd00::/64");
  });

  test("overlap where one holds the other, never across families", () => {
    expect(overlaps(subnet("10.88.0.0/16"), subnet("10.88.7.0/24"))).toBe(true);
    expect(overlaps(subnet("10.88.7.0/24"), subnet("10.88.0.0/16"))).toBe(true);
    expect(overlaps(subnet("10.88.0.0/16"), subnet("10.89.0.0/16"))).toBe(false);
    expect(overlaps(subnet("0.0.0.0/0"), subnet("::/0"))).toBe(false);
  });
});
