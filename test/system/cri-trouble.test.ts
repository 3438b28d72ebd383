/** What goes wrong with sandboxes and containers over CRI, against the whole daemon. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ContainerState, PodSandboxState } from "../../src/cri/generated/runtime/v1/api.js";
import { MonitorClient } from "../../src/monitor/monitor-client.js";
import { CriClient } from "../harness/cri.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { cgroup2Mount } from "../harness/requires.js";
import { SLOWNESS } from "../harness/slowness.js";

const bench = useCriDaemon();

test("a shared PID namespace that loses its first process ends its sandbox", async () => {
  const id = await bench.sandbox();
  const container = await bench.cri.startContainer(id);
  const { info } = await bench.cri.call("podSandboxStatus", { podSandboxId: id, verbose: true });
  const { initPid } = JSON.parse(info["info"] ?? "{}") as { initPid: number };
  process.kill(initPid, "SIGKILL");
  const state = async () => (await bench.cri.call("podSandboxStatus", { podSandboxId: id })).status?.state;
  await expect.poll(state).toBe(PodSandboxState.SANDBOX_NOTREADY);
  expect(await bench.cri.status(container)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 137 });
});

test("a frozen container is stopped and removed, and its monitor forgets it", async () => {
  const sandboxId = await bench.sandbox();
  const id = await bench.cri.startContainer(sandboxId);
  const { info } = await bench.cri.call("containerStatus", { containerId: id, verbose: true });
  const { cgroupPath } = JSON.parse(info["info"] ?? "{}") as { cgroupPath: string };
  writeFileSync(join(cgroup2Mount() ?? "", cgroupPath, "cgroup.freeze"), "1");
  await bench.cri.call("stopContainer", { containerId: id, timeout: 1n });
  const { state, exitCode } = await bench.cri.status(id);
  expect(state).toBe(ContainerState.CONTAINER_EXITED);
  // SIGTERM was pending when SIGKILL thawed it: either may be the one that ended it.
  expect([137, 143]).toContain(exitCode);
  await bench.cri.call("removeContainer", { containerId: id });
  await expect.poll(() => containersOfMonitor(sandboxId), { timeout: 10_000 * SLOWNESS }).toEqual([]);
});

test("a killed daemon finds its containers running, and how one ended meanwhile", async () => {
  const id = await bench.sandbox();
  const stays = await bench.cri.startContainer(id);
  const ends = await bench.cri.startContainer(id, { command: ["sh", "-c", "sleep 3; exit 6"] });
  // Its monitor is told of a removal a moment later, which the daemon does not live to see.
  const removed = await bench.cri.startContainer(id);
  await bench.cri.call("removeContainer", { containerId: removed });
  await bench.daemon.kill9();
  await bench.daemon.containerEnded(ends);
  const halves = ["containers", "sandboxes"].map((noun) => leaveWithoutRecord(noun));
  await bench.daemon.start();
  const again = new CriClient(bench.daemon.criSocket);
  try {
    expect((await again.status(stays)).state).toBe(ContainerState.CONTAINER_RUNNING);
    expect(await again.status(ends)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 6 });
    expect(await again.output(stays, "echo", "on")).toBe("on\n");
    expect(await containersOfMonitor(id)).toEqual([stays, ends]);
    expect(bench.daemon.log).not.toContain("killed containers that belong to no record");
    expect(halves.filter(existsSync)).toEqual([]);
  } finally {
    again.close();
  }
  // The old connection reconnects by itself.
  await expect
    .poll(() =>
      bench.cri.call("version").then(
        () => true,
        () => false,
      ),
    )
    .toBe(true);
  await bench.cri.removeSandbox(id);
  bench.forgetSandboxes();
});

/** What a daemon leaves that dies while it removes an object: files whose record is gone. */
function leaveWithoutRecord(noun: string): string {
  const dir = join(bench.daemon.root, noun, "e".repeat(64));
  mkdirSync(join(dir, "bundle"), { recursive: true });
  writeFileSync(join(dir, "bundle", "config.json"), "{}");
  return dir;
}

async function containersOfMonitor(sandboxId: string): Promise<string[]> {
  const sockets = readdirSync(bench.daemon.run, { recursive: true, encoding: "utf8" });
  const socket = sockets.find((path) => path.endsWith(`${sandboxId}.sock`)) ?? "none";
  const monitor = await MonitorClient.connect(join(bench.daemon.run, socket));
  try {
    return (await monitor.list()).containers.map(({ containerId }) => containerId);
  } finally {
    monitor.close();
  }
}
