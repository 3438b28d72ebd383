/**
 * The fork server against the real kernel: the monitors that it makes, and its own end. Needs root.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { parseProcessStat } from "../../src/base/process-stat.js";
import { ForkServer } from "../../src/monitor/fork-server.js";
import { MonitorClient } from "../../src/monitor/monitor-client.js";
import * as native from "../../src/native/index.js";
import { DEFAULT_DEVICE_RULES } from "../../src/spec/default-devices.js";
import type { ExitRecord } from "../../src/state/container.js";
import { BINARY, IPC_AND_UTS, MonitorBench, until } from "../harness/monitor.js";
import { isAlive } from "../harness/processes.js";
import { requires } from "../harness/requires.js";

let bench: MonitorBench;
let server: ForkServer;
beforeEach(async (context) => {
  requires("root", "cgroup2")(context);
  bench = await MonitorBench.start();
  server = new ForkServer(await native.sealedExecutable(BINARY), DEFAULT_DEVICE_RULES);
});
afterEach(async () => {
  await server?.close();
  await bench?.stop();
  // Where a test failed: monitors outlive us.
  for (const pid of childrenCalled("minke-monitor")) process.kill(pid, "SIGKILL");
});

/** Our children that are, or will become, what `name` says. */
function childrenCalled(name: string): number[] {
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry))
    .map(Number)
    .filter((pid) => {
      const stat = native.processStat(pid);
      return stat.includes(`(${name})`) && stat.slice(stat.lastIndexOf(")")).split(" ")[2] === String(process.pid);
    });
}

async function fork(name: string, fds: native.MonitorFork["fds"] = {}, cgroup?: native.Fd) {
  const socketPath = join(bench.dir, `${name}.sock`);
  const { pid, pidfd, control } = await server.fork({ sandboxId: bench.sandboxId, socketPath, fds, cgroup });
  const client = await MonitorClient.fromFd(control);
  const end = async () => {
    await client.shutdown();
    await until(() => native.reapChild(pidfd) !== undefined);
    pidfd.close();
  };
  return { pid, pidfd, client, socketPath, end };
}

test("a monitor is our child, born in its cgroup, with exactly its descriptors, and runs containers", async () => {
  const path = `${bench.cgroup}/monitors`;
  mkdirSync(path);
  const cgroup = native.openDirectory(path);
  const made = await native.createSandboxNamespaces(IPC_AND_UTS);
  const monitor = await fork("forked", { ipc: made.ipc, uts: made.uts }, cgroup);
  const { client, pid, socketPath } = monitor;
  expect(client.hello).toMatchObject({ pid, socketPath, fds: { ipc: 5, uts: 6 } });
  expect(client.hello.fds.net).toBeUndefined();
  expect(readlinkSync(`/proc/${pid}/fd/5`)).toMatch(/^ipc:/);
  expect(readFileSync(`/proc/${pid}/cgroup`, "utf8")).toMatch(/\/monitors\n$/m);
  expect(readFileSync(`/proc/${pid}/cmdline`, "utf8")).toMatch(/^monitor\[[0-9a-f]{13}\]\0/);
  expect(readFileSync(`/proc/${pid}/comm`, "utf8")).toBe("minke-monitor\n");
  expect(childrenCalled("minke-monitor")).toContain(pid);
  // 0 to 2; control, ipc, uts; the shared device policy; then what the monitor opens itself.
  const targets = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  expect(targets.filter((target) => target.includes("bpf-prog"))).toHaveLength(1);
  expect(targets.filter((target) => target.startsWith("socket:"))).toHaveLength(2);

  const params = bench.prepare(["/bin/cat"], { stdin: true, stdinOnce: true });
  const ended = new Promise<ExitRecord>((resolve) => client.onExit(resolve));
  await client.start(params);
  const stream = await client.openStream({ containerId: params.containerId });
  stream.stdin?.end();
  expect(await ended).toMatchObject({ containerId: params.containerId, exitCode: 0 });
  await monitor.end();
  for (const fd of [cgroup, made.ipc, made.uts]) fd?.close();
  rmdirSync(path);
});

test("twenty at once are twenty monitors, each with its own connection", async () => {
  const monitors = await Promise.all(Array.from({ length: 20 }, (_, i) => fork(`many-${i}`)));
  expect(new Set(monitors.map(({ pid }) => pid)).size).toBe(20);
  for (const [i, { client, pid }] of monitors.entries()) {
    expect(client.hello).toMatchObject({ pid, socketPath: join(bench.dir, `many-${i}.sock`) });
  }
  await Promise.all(monitors.map(({ end }) => end()));
  expect(childrenCalled("minke-fork")).toHaveLength(1);
});

test("a cgroup that is gone is refused with clone3's errno, and the next monitor is made", async () => {
  const path = `${bench.cgroup}/gone`;
  mkdirSync(path);
  const cgroup = native.openDirectory(path);
  rmdirSync(path);
  await expect(fork("refused", {}, cgroup)).rejects.toMatchObject({
    syscall: { name: "clone3", errno: expect.stringMatching(/^(ENOENT|ENODEV)$/) },
  });
  cgroup.close();
  await (await fork("next")).end();
});

test("a fork server that was killed is started again for the next monitor, and reaped", async () => {
  const first = await fork("first");
  const [killed] = childrenCalled("minke-fork");
  process.kill(killed as number, "SIGKILL");
  await until(() => !isAlive(killed as number));
  await (await fork("second")).end();
  expect(childrenCalled("minke-fork")).not.toContain(killed);
  expect(await first.client.list()).toEqual({ containers: [] });
  await first.end();
});

test("one that is killed with requests unread refuses them, and is started again", async () => {
  await (await fork("first")).end();
  const [server] = childrenCalled("minke-fork");
  process.kill(server as number, "SIGSTOP");
  // A moment passes until it has stopped, in which it could still answer.
  await until(() => parseProcessStat(native.processStat(server as number))?.state === "T");
  const asked = fork("unread");
  const refused = expect(asked).rejects.toMatchObject({ kind: "unavailable", code: "MONITOR_UNREACHABLE" });
  // What is asked for is sent by then.
  await setImmediate();
  // The request is in its queue: the end of the connection is ECONNRESET then.
  process.kill(server as number, "SIGKILL");
  await refused;
  await (await fork("next")).end();
  await until(() => !isAlive(server as number));
});

test("one that is killed between fork and answer leaves no monitor, not even a zombie, and no other child is waited for", async () => {
  const other = await fork("other");
  process.kill(other.pid, "SIGKILL");
  await until(() => !isAlive(other.pid));
  const monitors = childrenCalled("minke-monitor");
  expect(monitors).toContain(other.pid);
  const path = `${bench.cgroup}/${bench.sandboxId}`;
  mkdirSync(path);
  const cgroup = native.openDirectory(path);
  const [server] = childrenCalled("minke-fork");
  // Its answer is the one call of this kind (send(3) is sendto(2)); a tracer sees only the server.
  const killer = spawn("strace", ["-p", String(server), "-o", "/dev/null", "-e", "inject=sendto:signal=KILL"], {
    stdio: "ignore",
  });
  const killed = once(killer, "exit");
  await until(() => !/^TracerPid:\t0$/m.test(readFileSync(`/proc/${server}/status`, "utf8")));
  await expect(fork("unanswered", {}, cgroup)).rejects.toMatchObject({ code: "MONITOR_UNREACHABLE" });
  await killed;
  await until(() => readFileSync(`${path}/cgroup.events`, "utf8").includes("populated 0"));
  await until(() => childrenCalled("minke-fork").length === 0);
  await until(() => childrenCalled("minke-monitor").length === monitors.length);
  expect(childrenCalled("minke-monitor")).toEqual(monitors);
  expect(native.reapChild(other.pidfd)).toEqual({ exitCode: 0, signal: 9 });
  other.client.close();
  for (const fd of [cgroup, other.pidfd]) fd.close();
  rmdirSync(path);
});

test("closed, it leaves no process, and its monitors go on", async () => {
  const monitor = await fork("stays");
  await server.close();
  expect(childrenCalled("minke-fork")).toEqual([]);
  expect(await monitor.client.list()).toEqual({ containers: [] });
  await monitor.end();
});

test.each([
  ["fewer bytes than a request has", Buffer.alloc(4)],
  ["a request without descriptors", Buffer.from("\x01\0\0\0\x01\0\0\0id\0path\0")],
  ["a mask of descriptors that there are not", Buffer.from("\x01\0\0\0\xff\xff\0\0id\0path\0", "latin1")],
  ["a path without its end", Buffer.from("\x01\0\0\0\0\0\0\0id\0path")],
])("%s ends it with status 1", async (_, bytes) => {
  const executable = await native.sealedExecutable(BINARY);
  const { control, pidfd } = await native.spawnMonitor({ executable, args: ["minke-fork", "{}"], fds: {} });
  const { writeSync } = await import("node:fs");
  writeSync((control as native.Fd).number, bytes);
  expect(await native.waitForProcess(pidfd, 30_000)).toBe(true);
  expect(native.reapChild(pidfd)).toEqual({ exitCode: 1, signal: 0 });
  for (const fd of [executable, control, pidfd]) fd?.close();
});
