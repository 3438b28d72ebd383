/**
 * kill -9 of the daemon in the middle of a CRI request: the caller asks the next daemon the same, as a
 * kubelet does, and gets a container that runs.
 */
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { CriClient } from "../harness/cri.js";
import { FaultDaemon } from "../harness/fault-daemon.js";
import { PersistentCaller } from "../harness/persistent-caller.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "cgroup2", "overlayfs"] as const;

const lacking = missing(...NEEDS);
let faults: FaultDaemon;
let caller: PersistentCaller;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  faults = await FaultDaemon.start();
  caller = new PersistentCaller(new CriClient(faults.daemon.criSocket));
});
afterAll(async () => {
  caller?.cri.close();
  await faults?.dispose();
});

test.each(["after record ready", "after record container", "after container cgroup", "monitor start"])(
  "killed at %s, and asked again: the container runs",
  async (point) => {
    const before = faults.daemon.snapshot();
    faults.arm(`${point}=kill`);
    const death = faults.restartAfterDeath();
    const sandbox = await caller.runSandbox("again");
    const container = await caller.createContainer(sandbox, "again");
    await caller.start(container);
    await death;
    expect(await caller.cri.output(container, "echo", "here")).toBe("here\n");
    expect((await caller.cri.call("listPodSandbox")).items).toHaveLength(1);
    expect((await caller.cri.call("listContainers")).containers).toHaveLength(1);
    await caller.removeSandbox(sandbox);
    await faults.daemon.expectNothingLeft(before);
  },
);
