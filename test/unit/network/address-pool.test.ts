import { expect, test } from "vitest";
import { parseSubnet, type Subnet } from "../../../src/network/address.js";
import { AddressPool } from "../../../src/network/address-pool.js";

function pool(...texts: string[]): AddressPool {
  return new AddressPool(texts.map((text) => parseSubnet(text) as Subnet));
}

test("take leaves out network, gateway and broadcast", () => {
  const small = pool("10.0.0.0/29");
  expect(small.capacity).toBe(5);
  expect(Array.from({ length: 5 }, () => small.take())).toEqual([2, 3, 4, 5, 6]);
});

test("take of an exhausted pool is resource-exhausted NO_ADDRESSES and names the subnets", () => {
  const small = pool("10.0.0.0/29", "fd00::/64");
  for (let i = 0; i < 5; i++) small.take();
  expect(() => small.take()).toThrow(
    expect.objectContaining({
      kind: "resource-exhausted",
      code: "NO_ADDRESSES",
      message:
        'lease an address: all 5 of "10.0.0.0/29" and "fd00::/64" are in use (settings: network.subnet-ipv4, network.subnet-ipv6)',
    }),
  );
});

test("a released address is the last to be given out again", () => {
  const small = pool("10.0.0.0/29");
  const first = small.take();
  small.release(first);
  expect([small.take(), small.take(), small.take(), small.take(), small.take()]).toEqual([3, 4, 5, 6, 2]);
});

test("after mark the search goes on behind the highest lease", () => {
  const large = pool("10.0.0.0/16");
  large.mark(700);
  large.mark(40);
  expect(large.take()).toBe(701);
  expect(large.isUsed(40)).toBe(true);
});
