/**
 * As many pods as one node is asked for, through CRI: all run, all answer, nothing is left. Needs root.
 */
import { expect, test } from "vitest";
import { ContainerState } from "../../src/cri/generated/runtime/v1/api.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { scaled } from "./scale.js";

const PODS = scaled(500);
const WORKERS = 8;

const bench = useCriDaemon({ subnetIpv4: "10.207.240.0/21" });

/** Calls `work` for each item, several at once. */
async function forEach<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = items[Symbol.iterator]();
  const worker = async () => {
    for (const item of queue) await work(item);
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
}

test(`${PODS} pods start, are listed, answer an exec after kill -9 of the daemon, stop, and leave nothing`, async () => {
  const containerOf = new Map<string, string>();
  await forEach(Array.from({ length: PODS }), async () => {
    const sandboxId = await bench.cri.runSandbox();
    containerOf.set(sandboxId, await bench.cri.startContainer(sandboxId));
  });
  const { containers } = await bench.cri.call("listContainers");
  expect(containers.filter(({ state }) => state === ContainerState.CONTAINER_RUNNING)).toHaveLength(PODS);
  const { items } = await bench.cri.call("listPodSandbox");
  expect(new Set(items.map(({ id }) => id))).toEqual(new Set(containerOf.keys()));

  await bench.daemon.kill9();
  await bench.daemon.start();
  await forEach([...containerOf.values()], async (id) => {
    expect(await bench.cri.output(id, "echo", "here")).toBe("here\n");
  });

  const addresses = new Set<string>();
  await forEach([...containerOf.keys()], async (podSandboxId) => {
    const { status } = await bench.cri.call("podSandboxStatus", { podSandboxId });
    addresses.add(status?.network?.ip ?? "");
  });
  expect(addresses.size).toBe(PODS);

  await forEach([...containerOf.keys()], (id) => bench.cri.removeSandbox(id));
  expect((await bench.cri.call("listPodSandbox")).items).toEqual([]);
});
