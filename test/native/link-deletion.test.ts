/**
 * Links of pods that leave: "gone" is what the kernel says, and never later than it must be.
 *
 * Bridges mklnd…, subnets of 10.203.192.0/20; every test removes what it made. Needs root and ip.
 */
import { describe, expect, test } from "vitest";
import { deleteLinks } from "../../src/native/index.js";
import { linkName } from "../../src/network/link-names.js";
import { batch, parseMessages } from "../../src/network/netlink/message.js";
import { deleteLink, deleteLinkGroup } from "../../src/network/netlink/rtnetlink.js";
import { toResult } from "../../src/network/netlink/socket.js";
import { networkBench, run } from "../harness/network-bench.js";

const BRIDGE = "mklnd0";
const SETTINGS = { bridge: BRIDGE, subnet4: "10.203.192.0/20", subnet6: "fd10:206::/64", owner: "/tmp/minke-lnd-test" };
const { bench, addPod } = networkBench(SETTINGS);
const ENODEV = 19;
/** A group that no daemon of this machine has. */
const EMPTY_GROUP = 0x6d6c6e64;

const links = (): string => run("ip", "-o", "link");

describe("teardown", () => {
  test("says that a link is gone only when no list has it, however many the kernel still frees", async () => {
    const pods = [];
    for (let i = 0; i < 12; i++) pods.push(await addPod());
    for (const { id } of pods) {
      const link = linkName(BRIDGE, id);
      expect(links()).toContain(`${link}@`);
      await bench.network.teardown(id);
      await bench.network.gone(id);
      expect(links()).not.toContain(`${link}@`);
    }
  });

  test("of a pod whose link was deleted by hand ends, and frees the lease", async () => {
    const pod = await addPod();
    run("ip", "link", "delete", linkName(BRIDGE, pod.id));
    await bench.network.teardown(pod.id);
    await bench.network.gone(pod.id);
    expect(bench.store.get(pod.id)).toBeUndefined();
  });
});

describe("deleteLinks", () => {
  const request = deleteLinkGroup(EMPTY_GROUP);

  test("of a group that has no link gives the kernel's refusal", async () => {
    const answer = await deleteLinks(batch([request], 1), ["mklndnone"]);
    expect(toResult(request, 1, parseMessages(answer)).errno).toBe(ENODEV);
  });

  test("without a name waits for the answer, and with the name of another link too", async () => {
    for (const names of [[], ["mklndother"]]) {
      run("ip", "link", "add", "mklndone", "type", "veth", "peer", "name", "mklndtwo");
      const one = deleteLink("mklndone");
      const answer = await deleteLinks(batch([one], 1), names);
      expect(toResult(one, 1, parseMessages(answer)).errno).toBe(0);
      expect(links()).not.toContain("mklndone");
    }
  });
});
