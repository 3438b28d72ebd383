import { describe, expect, test } from "vitest";
import { formatSubnet, parseAddress, parseSubnet, type Subnet } from "../../../src/network/address.js";
import { assertSubnetFree, chooseSubnet, type HostNetworks, parseSubnetSetting } from "../../../src/network/subnets.js";

function host(...networks: string[]): HostNetworks {
  const claims = networks.map((text) => {
    const [literal = "", length] = text.split("/");
    const address = parseAddress(literal);
    if (!address) throw new Error(text);
    return { index: 7, address, prefixLength: Number(length) };
  });
  return { claims, linkName: () => "eth7" };
}

describe("chooseSubnet", () => {
  test("takes the first that no address and no route of the host has", () => {
    expect(formatSubnet(chooseSubnet(4, host(), "seed"))).toBe("10.231.0.0/16");
    expect(formatSubnet(chooseSubnet(4, host("10.231.3.4/24"), "seed"))).toBe("10.88.0.0/16");
  });

  test("makes a unique local IPv6 prefix that follows from the seed", () => {
    const one = formatSubnet(chooseSubnet(6, host(), "one"));
    expect(one).toMatch(/^fd[0-9a-f:]+::\/64$/);
    expect(formatSubnet(chooseSubnet(6, host(), "one"))).toBe(one);
    expect(formatSubnet(chooseSubnet(6, host(), "two"))).not.toBe(one);
  });

  test("is SUBNET_TAKEN where the host has them all", () => {
    expect(() => chooseSubnet(4, host("0.0.0.0/1", "128.0.0.0/1"), "seed")).toThrow(
      expect.objectContaining({ kind: "failed-precondition", code: "SUBNET_TAKEN" }),
    );
  });
});

test("assertSubnetFree names the link and the setting", () => {
  const subnet = parseSubnet("10.88.0.0/16") as Subnet;
  expect(() => assertSubnetFree(subnet, host("10.88.3.4/24"))).toThrow(
    'use pod subnet "10.88.0.0/16": link "eth7" has "10.88.3.4/24" (settings: network.subnet-ipv4)',
  );
});

test.each([
  ["0.0.0.0/8", 4],
  ["127.5.0.0/16", 4],
  ["169.254.8.0/24", 4],
  ["224.0.0.0/24", 4],
  ["250.0.0.0/8", 4],
  ["::/64", 6],
  ["::ffff:10.0.0.0/112", 6],
  ["fe80::/64", 6],
  ["ff00::/64", 6],
] as const)(
  "parseSubnetSetting of %j, which pods cannot have addresses of, is INVALID_NETWORK_SETTING",
  (text, family) => {
    expect(() => parseSubnetSetting(text, family)).toThrow(
      expect.objectContaining({
        code: "INVALID_NETWORK_SETTING",
        message: expect.stringContaining("pods cannot have addresses of it"),
      }),
    );
  },
);

test.each(["fd00::/64", "10.0.0.0/30", "10.0.0.1/16", "0.0.0.0/0", "x"])(
  "parseSubnetSetting of %j for IPv4 is INVALID_NETWORK_SETTING",
  (text) => {
    expect(() => parseSubnetSetting(text, 4)).toThrow(expect.objectContaining({ code: "INVALID_NETWORK_SETTING" }));
  },
);
