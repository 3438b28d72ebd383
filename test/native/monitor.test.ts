/**
 * The monitor against the real kernel: its life, its containers and their ends. Needs root.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmdirSync, statSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { newContainerId } from "../../src/base/ids.js";
import { MonitorClient } from "../../src/monitor/monitor-client.js";
import * as native from "../../src/native/index.js";
import { forgetKilled } from "../../src/runtime/forget-killed.js";
import { VERSION } from "../../src/settings/version.js";
import type { ExitRecord } from "../../src/state/container.js";
import { BINARY, IPC_AND_UTS, logText, MonitorBench, until } from "../harness/monitor.js";
import { requires } from "../harness/requires.js";

let bench: MonitorBench;
beforeEach(async (context) => {
  requires("root", "cgroup2")(context);
  bench = await MonitorBench.start();
});
afterEach(async () => {
  await bench?.stop();
});

const SIGTERM = 15;
const SIGKILL = 9;
const FOREVER = ["/bin/sleep", "1000"];
const IGNORES_TERM = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"];

describe("hello", () => {
  test("names the sandbox, the process and this release", () => {
    expect(bench.client.hello).toMatchObject({
      protocol: 1,
      version: VERSION,
      sandboxId: bench.sandboxId,
      pid: bench.child.pid,
    });
  });

  test("the socket is reachable for its owner only", () => {
    expect(statSync(bench.socketPath).mode & 0o777).toBe(0o600);
  });
});

describe("a monitor spawned from a sealed executable", () => {
  test("speaks over the socketpair, holds the namespaces it was given, and opens streams by its path", async () => {
    const executable = await native.sealedExecutable(BINARY);
    const made = await native.createSandboxNamespaces(IPC_AND_UTS);
    const socketPath = `${bench.dir}/spawned.sock`;
    const spawned = await native.spawnMonitor({
      executable,
      args: ["minke-monitor", bench.sandboxId, socketPath],
      fds: { ipc: made.ipc, uts: made.uts },
    });
    const client = await MonitorClient.fromFd(spawned.control as native.Fd);
    expect(client.hello).toMatchObject({ pid: spawned.pid, socketPath, fds: { ipc: 5, uts: 6 } });
    expect(client.hello.fds.net).toBeUndefined();
    expect(readlinkSync(`/proc/${spawned.pid}/fd/5`)).toMatch(/^ipc:/);
    expect(readFileSync(`/proc/${spawned.pid}/cmdline`, "utf8")).toMatch(/^monitor\[[0-9a-f]{13}\]/);
    const params = bench.prepare(["/bin/cat"], { stdin: true, stdinOnce: true });
    const ended = new Promise<ExitRecord>((resolve) => client.onExit(resolve));
    await client.start(params);
    const stream = await client.openStream({ containerId: params.containerId });
    stream.stdin?.end();
    expect(await ended).toMatchObject({ containerId: params.containerId, exitCode: 0 });
    await client.shutdown();
    await until(() => native.reapChild(spawned.pidfd) !== undefined);
    for (const fd of [executable, made.ipc, made.uts, spawned.pidfd]) fd?.close();
  });
});

describe("start", () => {
  test("answers with the pid and lists the container as running", async () => {
    const params = bench.prepare(FOREVER);
    const started = await bench.client.start(params);
    const { containers } = await bench.client.list();
    expect(containers).toEqual([
      { containerId: params.containerId, state: "running", pid: started.pid, startedAtNs: started.startedAtNs },
    ]);
    expect(readFileSync(`${params.cgroup}/cgroup.procs`, "utf8")).toBe(`${started.pid}\n`);
  });

  test("of a command that does not exist fails in step exec with ENOENT and leaves nothing", async () => {
    const params = bench.prepare(["/bin/missing"]);
    await expect(bench.client.start(params)).rejects.toMatchObject({
      code: "CONTAINER_START_FAILED",
      step: "exec",
      syscall: { errno: "ENOENT" },
    });
    expect((await bench.client.list()).containers).toEqual([]);
    expect(readFileSync(`${params.cgroup}/cgroup.procs`, "utf8")).toBe("");
    expect(existsSync(params.exitFile)).toBe(false);
  });

  test("with a log directory that does not exist fails in step log", async () => {
    const params = bench.prepare(FOREVER, { logPath: `${bench.dir}/missing/0.log` });
    await expect(bench.client.start(params)).rejects.toMatchObject({
      step: "log",
      syscall: { name: "open", errno: "ENOENT" },
    });
  });

  test("of an id that runs already is refused", async () => {
    const params = await bench.start(FOREVER);
    await expect(bench.client.start(params)).rejects.toMatchObject({ kind: "already-exists" });
  });

  test("without a parameter is refused", async () => {
    const { exitFile: _missing, ...params } = bench.prepare(FOREVER);
    await expect(bench.client.start(params as never)).rejects.toThrow('"exitFile"');
  });
});

describe("the end of a container", () => {
  test("is in the exit file before it is told, with code, times and usage", async () => {
    const params = bench.prepare(["/bin/sh", "-c", "exit 42"]);
    let fileAtEvent: unknown;
    bench.client.onExit(() => {
      fileAtEvent = JSON.parse(readFileSync(params.exitFile, "utf8"));
    });
    const started = await bench.client.start(params);
    const exit = await bench.exitOf(params.containerId);
    expect(fileAtEvent).toEqual(exit);
    expect(exit).toMatchObject({
      version: 1,
      exitCode: 42,
      signal: 0,
      oomKilled: false,
      startedAtNs: started.startedAtNs,
    });
    expect(BigInt(exit.finishedAtNs)).toBeGreaterThan(BigInt(exit.startedAtNs));
    expect(exit.rusage?.maxRssKib).toBeGreaterThan(0);
    expect(statSync(params.exitFile).mode & 0o777).toBe(0o600);
  });

  test("takes its cgroup along before it is told, and leaves one that holds others", async () => {
    const told = new Map<string, boolean>();
    const [plain, nested] = [bench.prepare(["/bin/true"]), bench.prepare(["/bin/true"])];
    mkdirSync(`${nested.cgroup}/inner`);
    bench.client.onExit(({ containerId }, isCgroupGone) => {
      expect(existsSync(plain.cgroup)).toBe(containerId !== plain.containerId && !told.has(plain.containerId));
      told.set(containerId, isCgroupGone);
    });
    for (const params of [plain, nested]) {
      await bench.client.start(params);
      await bench.exitOf(params.containerId);
    }
    expect([told.get(plain.containerId), told.get(nested.containerId)]).toEqual([true, false]);
    expect(existsSync(nested.cgroup)).toBe(true);
    rmdirSync(`${nested.cgroup}/inner`);
  });

  test("by a signal is 128 and the signal", async () => {
    const params = await bench.start(FOREVER);
    await bench.client.kill({ containerId: params.containerId });
    expect(await bench.exitOf(params.containerId)).toMatchObject({ exitCode: 137, signal: SIGKILL });
  });

  test("comes after the last line of its log", async () => {
    const logPaths = new Map<string, string>();
    const logged: string[] = [];
    bench.client.onExit(({ containerId }) => logged.push(logText(logPaths.get(containerId) ?? "")));
    for (let round = 0; round < 10; round += 1) {
      const params = bench.prepare(["/bin/sh", "-c", "echo one; echo two; printf three"]);
      logPaths.set(params.containerId, params.logPath ?? "");
      await bench.client.start(params);
      await bench.exitOf(params.containerId);
    }
    expect(logged).toEqual(Array.from({ length: 10 }, () => "one\ntwo\nthree\n"));
  });

  test("is listed until it is forgotten", async () => {
    const { params, exit } = await bench.run(["/bin/true"]);
    expect((await bench.client.list()).containers).toMatchObject([{ state: "exited", exit }]);
    await bench.client.forget({ containerId: params.containerId });
    expect((await bench.client.list()).containers).toEqual([]);
  });

  test("of a container that is being killed is written before it is forgotten", async () => {
    const params = await bench.start(FOREVER);
    const forgotten = forgetKilled(bench.client, params.containerId);
    await bench.client.list();
    await bench.client.kill({ containerId: params.containerId });
    await forgotten;
    expect(existsSync(params.exitFile)).toBe(true);
    expect((await bench.client.list()).containers).toEqual([]);
  });

  test("of a container that nobody kills is waited for until the deadline", async () => {
    const { containerId } = await bench.start(FOREVER);
    await expect(forgetKilled(bench.client, containerId, 30)).rejects.toMatchObject({ code: "CONTAINER_RUNNING" });
  });

  test("that nobody was there to see is known to the next client", async () => {
    const params = await bench.start(["/bin/sh", "-c", "sleep 0.2; exit 3"]);
    bench.client.close();
    await until(() => existsSync(params.exitFile));
    const next = await bench.connect();
    await until(async () => (await next.list()).containers[0]?.state === "exited");
    expect((await next.list()).containers).toMatchObject([{ exit: { exitCode: 3 } }]);
  });

  test("comes though a process outside keeps its standard output", async () => {
    const params = await bench.start(["/bin/sh", "-c", "read x; exit 5"], { stdin: true });
    // Holds the write end of the container's pipe, as a process that left the container would.
    const { openSync, closeSync } = await import("node:fs");
    const { containers } = await bench.client.list();
    const held = openSync(`/proc/${containers[0]?.pid}/fd/1`, "w");
    try {
      const stream = await bench.client.openStream({ containerId: params.containerId });
      stream.stdin?.write("\n");
      expect(await bench.exitOf(params.containerId)).toMatchObject({ exitCode: 5 });
    } finally {
      closeSync(held);
    }
  });
});

describe("stop", () => {
  test("ends a container that heeds the signal long before the deadline", async () => {
    const params = await bench.start(["/bin/sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done"]);
    await until(() => logText(params.logPath ?? "") === "ready\n");
    await bench.client.stop({ containerId: params.containerId, signal: SIGTERM, graceMs: 60_000 });
    expect(await bench.exitOf(params.containerId)).toMatchObject({ exitCode: 7, signal: 0 });
  });

  test("kills at the deadline, also when the client that asked is gone", async () => {
    const params = await bench.start(IGNORES_TERM);
    await until(() => logText(params.logPath ?? "") === "ready\n");
    const asker = await bench.connect();
    const askedAtNs = BigInt(Date.now()) * 1_000_000n;
    await asker.stop({ containerId: params.containerId, signal: SIGTERM, graceMs: 300 });
    asker.close();
    const exit = await bench.exitOf(params.containerId);
    expect(exit).toMatchObject({ exitCode: 137, signal: SIGKILL });
    expect(BigInt(exit.finishedAtNs) - askedAtNs).toBeGreaterThanOrEqual(299_000_000n);
  });

  test("asked again brings the deadline forward but never back", async () => {
    const params = await bench.start(IGNORES_TERM);
    await until(() => logText(params.logPath ?? "") === "ready\n");
    const { containerId } = params;
    await bench.client.stop({ containerId, signal: SIGTERM, graceMs: 60_000 });
    await bench.client.stop({ containerId, signal: SIGTERM, graceMs: 200 });
    await bench.client.stop({ containerId, signal: SIGTERM, graceMs: 60_000 });
    expect(await bench.exitOf(containerId)).toMatchObject({ exitCode: 137 });
  });

  test("of a container that has ended succeeds, of an unknown one does not", async () => {
    const { params } = await bench.run(["/bin/true"]);
    await bench.client.stop({ containerId: params.containerId, signal: SIGTERM, graceMs: 0 });
    await bench.client.kill({ containerId: params.containerId });
    const unknown = bench.client.stop({ containerId: newContainerId(), signal: SIGTERM, graceMs: 0 });
    await expect(unknown).rejects.toMatchObject({ kind: "not-found", code: "CONTAINER_NOT_FOUND" });
  });
});

describe("startInit", () => {
  test("is reaped when the monitor shuts down", async () => {
    const { pid } = await bench.client.startInit({ cgroup: bench.cgroup });
    await bench.client.shutdown();
    await until(() => bench.child.exitCode !== null || bench.child.signalCode !== null);
    expect(existsSync(`/proc/${pid}`)).toBe(false);
  });

  test("starts one process, pid 1 of a namespace of its own, with nothing to reach through it", async () => {
    const { pid } = await bench.client.startInit({ cgroup: bench.cgroup });
    expect(readFileSync(`/proc/${pid}/status`, "utf8")).toMatch(/^NSpid:\t\d+\t1$/m);
    expect(readFileSync(`/proc/${pid}/status`, "utf8")).toMatch(/^CapBnd:\t0+$/m);
    expect(readdirSync(`/proc/${pid}/root`)).toEqual([]);
    // The last one is closed after it has said through it that it is ready.
    await until(() => readdirSync(`/proc/${pid}/fd`).length === 0);
    expect(await bench.client.list()).toEqual({ containers: [], initPid: pid });
    await expect(bench.client.startInit({ cgroup: bench.cgroup })).rejects.toMatchObject({ code: "INIT_EXISTS" });
  });

  test("it reaps the orphans of a container that shares its namespace, and a signal from there does not end it", async () => {
    const { pid } = await bench.client.startInit({ cgroup: bench.cgroup });
    const params = bench.prepare(
      ["/bin/sh", "-c", "sh -c 'sleep 0.05 &' ; kill -TERM 1; while :; do echo all; ls /proc; sleep 0.1; done"],
      {},
      0,
      `/proc/${pid}/ns/pid`,
    );
    await bench.client.start(params);
    const pids = () =>
      (
        logText(params.logPath ?? "")
          .split("all\n")
          .at(-2) ?? ""
      )
        .split("\n")
        .filter((name) => /^\d+$/.test(name));
    await until(() => pids().length === 3); // init, the shell, ls
    await bench.client.kill({ containerId: params.containerId });
    expect(await bench.exitOf(params.containerId)).toMatchObject({ exitCode: 137 });
    expect((await bench.client.list()).initPid).toBe(pid);
    process.kill(pid, "SIGTERM");
    await until(async () => (await bench.client.list()).initPid === undefined);
  });
});

describe("shutdown", () => {
  test("is refused while a container runs", async () => {
    await bench.start(FOREVER);
    await expect(bench.client.shutdown()).rejects.toMatchObject({ code: "CONTAINER_RUNNING" });
  });

  test("removes the socket and ends the process", async () => {
    await bench.run(["/bin/true"]);
    await bench.client.shutdown();
    await until(() => bench.child.exitCode !== null);
    expect(bench.child.exitCode).toBe(0);
    expect(existsSync(bench.socketPath)).toBe(false);
  });

  test("SIGTERM ends a monitor without containers and not one with", async () => {
    const params = await bench.start(FOREVER);
    bench.child.kill("SIGTERM");
    expect((await bench.client.list()).containers).toMatchObject([{ state: "running" }]);
    await bench.client.kill({ containerId: params.containerId });
    await bench.exitOf(params.containerId);
    bench.child.kill("SIGTERM");
    await until(() => bench.child.exitCode !== null);
    expect(bench.child.exitCode).toBe(0);
  });
});

test("a bench whose monitor answers nothing is taken down nevertheless, with its containers, and says so", async () => {
  const stuck = await MonitorBench.start();
  await stuck.start(FOREVER);
  stuck.child.kill("SIGSTOP");
  await expect(stuck.stop(100)).rejects.toThrow("no answer within 100 ms");
  expect([existsSync(stuck.dir), existsSync(stuck.cgroup)]).toEqual([false, false]);
});
