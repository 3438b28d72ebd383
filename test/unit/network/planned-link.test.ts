import { expect, test } from "vitest";
import { parseMessages } from "../../../src/network/netlink/message.js";
import * as rt from "../../../src/network/netlink/rtnetlink.js";
import { PlannedLink } from "../../../src/network/planned-link.js";

const veth = { hostName: "mk0", bridgeIndex: 9, podName: "eth0", podMac: Buffer.alloc(6, 1), mtu: 1500 };
const podEnd = (index: number) => [
  rt.setLinkUp(index),
  rt.addAddress(index, { family: 4, value: 0x0a580002n }, 16),
  rt.addAddress(index, { family: 6, value: 2n }, 64),
  rt.addDefaultRoute(index, { family: 4, value: 0x0a580001n }),
  rt.addDefaultRoute(index, { family: 6, value: 1n }),
];
const planOf = (netnsFd: number, index: number) => {
  const { name, bytes, isAnswered } = rt.setLinkUp(rt.LOOPBACK_INDEX);
  const port = rt.configurePort("mk0", "of a pod");
  return new PlannedLink(
    9,
    "eth0",
    [rt.createVeth({ ...veth, netnsFd }), port],
    [{ name, bytes, isAnswered }, ...podEnd(index)],
  );
};

test("PlannedLink with the numbers written into its places is the link that was made with them", () => {
  const [planned, whole] = [planOf(0, 0), planOf(21, 0x01020304)];
  planned.host.bytes.writeUInt32LE(21, planned.netnsAt);
  for (const at of planned.indexAt) planned.pod.bytes.writeUInt32LE(0x01020304, at);
  expect(planned.host.bytes.toString("hex")).toBe(whole.host.bytes.toString("hex"));
  expect(planned.pod.bytes.toString("hex")).toBe(whole.pod.bytes.toString("hex"));
  expect(planned.indexAt).toHaveLength(5);
  expect([planned.host.expectedEnds, planned.pod.expectedEnds]).toEqual([2, 6]);
});

test("PlannedLink gives each request its answer, and the pod's none where one of the host's was refused", () => {
  const planned = planOf(0, 0);
  const sent = parseMessages(planned.host.bytes);
  const answer = (sequence: number, errno: number) => {
    const bytes = Buffer.alloc(36);
    bytes.writeUInt32LE(36, 0);
    bytes.writeUInt16LE(2, 4); // NLMSG_ERROR
    bytes.writeUInt32LE(sequence, 8);
    bytes.writeInt32LE(-errno, 16);
    return bytes;
  };
  const host = Buffer.concat([answer(sent[0]?.sequence ?? 0, 0), answer(sent[1]?.sequence ?? 0, 19)]);
  const results = planned.results({ host, pod: Buffer.alloc(0) });
  expect(results.host.map(({ request, errno }) => [request.name, errno])).toEqual([
    ["RTM_NEWLINK", 0],
    ["RTM_NEWLINK", 19],
  ]);
  expect(results.pod).toEqual([]);
});
