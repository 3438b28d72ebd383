/**
 * A sandbox's monitor killed, or stopped so that it answers nothing: what is reported is true, the
 * daemon goes on answering, and the pod is recovered or can be deleted.
 */
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { ContainerState } from "../../src/cri/generated/runtime/v1/api.js";
import { CriClient } from "../harness/cri.js";
import { codeOf, FaultDaemon, isRunning, SLEEPER } from "../harness/fault-daemon.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "cgroup2", "overlayfs"] as const;
const lacking = missing(...NEEDS);
let faults: FaultDaemon;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (!lacking) faults = await FaultDaemon.start();
});
afterEach(async () => {
  for (const pid of faults?.monitorPids() ?? []) signal(pid, "SIGCONT");
  await faults?.reset();
});
afterAll(() => faults?.dispose());

const TWO = { containers: ["one", "two"].map((name) => ({ name, script: SLEEPER })) };

test("a pod whose monitor is killed is made again by its restart policy, and says that the exits are unknown", async () => {
  const before = await faults.run("lost", TWO);
  signal(onlyMonitor(), "SIGKILL");
  const { status } = await faults.until("lost", "running again", (pod) => isRunning(pod) && isRestarted(pod));
  for (const container of status.containerStatuses ?? []) {
    expect(container.lastState.terminated).toMatchObject({
      exitCode: 137,
      reason: "ContainerStatusUnknown",
      message: "the sandbox's monitor died",
    });
  }
  expect((await faults.pod("lost")).metadata.uid).toBe(before.metadata.uid);
  expect(faults.monitorPids()).toHaveLength(1);
  await faults.delete("lost");
  await faults.expectNothingLeft();
});

test("a pod that is never restarted fails when its monitor is killed, and leaves nothing", async () => {
  await faults.run("final", { ...TWO, restartPolicy: "Never" });
  signal(onlyMonitor(), "SIGKILL");
  await faults.until("final", "Failed", ({ status }) => status.phase === "Failed");
  await faults.delete("final");
  await faults.expectNothingLeft();
});

test("a monitor killed while the daemon is down is noticed by the next one", async () => {
  await faults.run("lost", TWO);
  const monitor = onlyMonitor();
  await faults.killAndRestart(() => signal(monitor, "SIGKILL"));
  const { status } = await faults.until("lost", "running again", (pod) => isRunning(pod) && isRestarted(pod));
  expect(status.containerStatuses?.[0]?.lastState.terminated).toMatchObject({ reason: "ContainerStatusUnknown" });
  await faults.delete("lost");
  await faults.expectNothingLeft();
});

test("a container that began when daemon and monitor died has exited, one that was only created has not", async () => {
  const cri = new CriClient(faults.daemon.criSocket);
  try {
    const sandbox = await cri.runSandbox();
    const created = await cri.createContainer(sandbox);
    const begun = await cri.createContainer(sandbox);
    faults.arm("after monitor start=kill");
    await expect(cri.call("startContainer", { containerId: begun })).rejects.toMatchObject({ code: 14 });
    await faults.daemon.ended();
    signal(onlyMonitor(), "SIGKILL");
    // What the next daemon asks for where the cgroups are gone.
    const hasMounted = (id: string) => existsSync(join(faults.daemon.root, "containers", id, "work", "work"));
    expect([begun, created].map(hasMounted)).toEqual([true, false]);
    await faults.restartAfterDeath();
    expect(await cri.status(begun)).toMatchObject({
      state: ContainerState.CONTAINER_EXITED,
      exitCode: 255,
      reason: "ContainerStatusUnknown",
    });
    expect(await cri.status(created)).toMatchObject({ state: ContainerState.CONTAINER_CREATED });
    await cri.removeSandbox(sandbox);
  } finally {
    cri.close();
  }
  await faults.expectNothingLeft();
});

test("a stopped monitor stops neither the API nor other pods, is named by exec, and delete with no grace ends it", async () => {
  await faults.run("hung", TWO);
  const monitor = onlyMonitor();
  signal(monitor, "SIGSTOP");
  const exec = faults.exec("hung", "true");
  await faults.run("other");
  const askedAt = performance.now();
  await faults.client.listPods();
  await faults.pod("hung");
  expect(performance.now() - askedAt).toBeLessThan(4500);
  await expect(exec).rejects.toMatchObject({
    code: "MONITOR_HUNG",
    message: expect.stringMatching(new RegExp(`pid ${monitor}\\b.*state T`)),
  });
  await faults.delete("hung", 0);
  expect(faults.daemon.log).toContain("a sandbox lost its monitor");
  await faults.delete("other");
  await faults.expectNothingLeft();
});

test("a command without a time limit whose monitor stops is given up, and its container removed without rest", async () => {
  const cri = new CriClient(faults.daemon.criSocket);
  try {
    const sandbox = await cri.runSandbox();
    const containerId = await cri.startContainer(sandbox);
    const monitor = onlyMonitor();
    const refusal = cri.refusal("execSync", { containerId, cmd: ["sleep", "1000"], timeout: 0n });
    await expect.poll(() => faults.pidsOf(/^sleep 1000$/).length).toBe(2);
    signal(monitor, "SIGSTOP");
    expect(await refusal).toMatchObject({ code: "MONITOR_HUNG" });
    await cri.removeSandbox(sandbox);
  } finally {
    cri.close();
  }
  await faults.expectNothingLeft();
}, 60_000);

test("a stopped monitor that goes on within the grace period loses nothing", async () => {
  await faults.run("paused", {
    restartPolicy: "Never",
    containers: [{ name: "main", script: "trap 'exit 7' TERM; while :; do sleep 1000 & wait; done" }],
  });
  const monitor = onlyMonitor();
  signal(monitor, "SIGSTOP");
  signal(faults.initOf(/exit 7/), "SIGTERM");
  await expect.poll(() => faults.pidsOf(/exit 7/)).toEqual([]);
  signal(monitor, "SIGCONT");
  const { status } = await faults.until("paused", "Failed", (pod) => pod.status.phase === "Failed");
  expect(status.containerStatuses?.[0]?.state.terminated).toMatchObject({ exitCode: 7 });
});

test("a monitor without its socket runs on: exec says what is missing, and the pod is deleted without rest", async () => {
  await faults.run("deaf");
  faults.removeMonitorSockets();
  expect(await codeOf(faults.exec("deaf", "true"))).toBe("MONITOR_UNREACHABLE");
  expect(isRunning(await faults.pod("deaf"))).toBe(true);
  await faults.delete("deaf");
  await faults.expectNothingLeft();
});

test("a monitor without its socket is given up by the next daemon, which makes the pod again", async () => {
  await faults.run("deaf");
  await faults.killAndRestart(() => faults.removeMonitorSockets());
  await faults.until("deaf", "running again", (pod) => isRunning(pod) && isRestarted(pod));
  expect(await faults.exec("deaf", "true")).toMatchObject({ code: 0 });
  await faults.delete("deaf");
  await faults.expectNothingLeft();
});

test("the API's socket removed by hand comes back with the next daemon", async () => {
  await faults.run("kept");
  await faults.killAndRestart(() => faults.removeApiSocket());
  expect(isRunning(await faults.pod("kept"))).toBe(true);
  await new Promise<void>((resolve, reject) => {
    const socket = connect(faults.daemon.apiSocket, () => (socket.destroy(), resolve()));
    socket.once("error", reject);
  });
});

function onlyMonitor(): number {
  const pids = faults.monitorPids();
  if (pids.length !== 1 || pids[0] === undefined) throw new Error(`${pids.length} monitors, not one`);
  return pids[0];
}

function isRestarted({ status }: Awaited<ReturnType<FaultDaemon["pod"]>>): boolean {
  return status.containerStatuses?.every(({ restartCount }) => restartCount === 1) ?? false;
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== "ESRCH") throw err;
  }
}
