import { expect, test } from "vitest";
import { newSandboxId } from "../../../src/base/ids.js";
import { bridgeMac, linkName, linkPrefix, podMac, retiredGroup } from "../../../src/network/link-names.js";

test("linkName fits into a link's 15 bytes, follows from the id and begins with the bridge's prefix", () => {
  const id = newSandboxId();
  expect(linkName("minke0", id)).toBe(linkName("minke0", id));
  expect(linkName("minke0", id)).toHaveLength(14);
  expect(linkName("minke0", id).startsWith(linkPrefix("minke0"))).toBe(true);
  expect(linkName("minke1", id)).not.toBe(linkName("minke0", id));
});

test("MACs are unicast and locally administered, six bytes", () => {
  for (const mac of [
    podMac([{ family: 4, value: 0x0a580002n }]),
    podMac([{ family: 6, value: 2n }]),
    bridgeMac("minke0"),
  ]) {
    expect(mac).toHaveLength(6);
    expect((mac[0] ?? 0) & 3).toBe(2);
  }
  expect(podMac([{ family: 4, value: 0x0a580002n }]).toString("hex")).toBe("0a580a580002");
});

test("retiredGroup is never the default group and positive as a signed number", () => {
  for (const bridge of ["minke0", "minke1", "x"]) {
    expect(retiredGroup(bridge)).toBeGreaterThan(0);
    expect(retiredGroup(bridge)).toBeLessThan(2 ** 31);
  }
});
