import { expect, test } from "vitest";
import { sysctlPath } from "../../../src/native/namespaces.js";

test.each([
  ["net.ipv4.ip_forward", "net/ipv4/ip_forward"],
  ["net/ipv4/ip_forward", "net/ipv4/ip_forward"],
  ["net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"],
  ["net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"],
])("sysctlPath of %s is %s", (name, path) => {
  expect(sysctlPath(name)).toBe(path);
});
