/**
 * As many pods as one node is asked for, through CRI: all run, all answer, nothing is left. Needs root.
 */
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { ContainerState } from "../../src/cri/generated/runtime/v1/api.js";
import { CriClient } from "../harness/cri.js";
import { TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";
import { scaled } from "./scale.js";

const PODS = scaled(500);
const WORKERS = 8;

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;
let cri: CriClient;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  daemon = await TestDaemon.startWithImages({ subnetIpv4: "10.207.240.0/21" });
  cri = new CriClient(daemon.criSocket);
});
afterAll(async () => {
  cri?.close();
  await daemon?.dispose();
});

/** Calls `work` for each item, several at once. */
async function forEach<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = items[Symbol.iterator]();
  const worker = async () => {
    for (const item of queue) await work(item);
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
}

test(`${PODS} pods start, are listed, answer an exec after kill -9 of the daemon, stop, and leave nothing`, async () => {
  const before = daemon.snapshot();
  const containerOf = new Map<string, string>();
  await forEach(Array.from({ length: PODS }), async () => {
    const sandboxId = await cri.runSandbox();
    containerOf.set(sandboxId, await cri.startContainer(sandboxId));
  });
  const { containers } = await cri.call("listContainers");
  expect(containers.filter(({ state }) => state === ContainerState.CONTAINER_RUNNING)).toHaveLength(PODS);
  const { items } = await cri.call("listPodSandbox");
  expect(new Set(items.map(({ id }) => id))).toEqual(new Set(containerOf.keys()));

  await daemon.kill9();
  await daemon.start();
  await forEach([...containerOf.values()], async (id) => {
    expect(await cri.output(id, "echo", "here")).toBe("here\n");
  });

  const addresses = new Set<string>();
  await forEach([...containerOf.keys()], async (podSandboxId) => {
    const { status } = await cri.call("podSandboxStatus", { podSandboxId });
    addresses.add(status?.network?.ip ?? "");
  });
  expect(addresses.size).toBe(PODS);

  await forEach([...containerOf.keys()], (id) => cri.removeSandbox(id));
  expect((await cri.call("listPodSandbox")).items).toEqual([]);
  await daemon.expectNothingLeft(before);
});
