/**
 * Execs in the monitor: captured and streamed, their cgroups, timeouts and terminals. Needs root.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { MonitorStream, StartParams } from "../../src/monitor/monitor-client.js";
import { MonitorBench, until } from "../harness/monitor.js";
import { requires } from "../harness/requires.js";

let bench: MonitorBench;
let container: StartParams;
beforeEach(async (context) => {
  requires("root", "cgroup2")(context);
  bench = await MonitorBench.start();
  container = await bench.start(["/bin/sleep", "1000"]);
});
afterEach(async () => {
  await bench?.stop();
});

function execCgroups(): string[] {
  return readdirSync(container.cgroup).filter((name) => name.startsWith("exec-"));
}

function execPids(): number[] {
  return execCgroups().flatMap((name) =>
    readFileSync(`${container.cgroup}/${name}/cgroup.procs`, "utf8").split("\n").filter(Boolean).map(Number),
  );
}

/** What runs in the execs' cgroups, as /proc/PID/comm has it. */
function execCommands(): string[] {
  return execPids().map((pid) => readFileSync(`/proc/${pid}/comm`, "utf8"));
}

async function openExec(
  args: readonly string[],
  changes: { stdin?: boolean; terminal?: boolean; timeoutMs?: number } = {},
): Promise<MonitorStream> {
  const params = bench.execParams(container, "stream", args, changes);
  await bench.client.exec(params);
  return bench.client.openStream({ execId: params.execId });
}

test("a stream whose client is still sending when the process ends brings output and exit code whole", async () => {
  for (let round = 0; round < 40; round++) {
    const stream = await openExec(["/bin/sh", "-c", "echo out; exit 3"], { stdin: true, terminal: round % 2 === 0 });
    stream.stdin?.on("error", () => undefined);
    const output = text(stream.stdout);
    const over = new AbortController();
    const exited = stream.exited.finally(() => over.abort());
    const typing = (async () => {
      while (!over.signal.aborted) {
        stream.stdin?.write("typed\n");
        stream.resize(80, 24);
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    expect(await exited).toEqual({ exitCode: 3 });
    expect(await output).toContain("out");
    await typing;
  }
});

describe("exec capture", () => {
  test("returns code, standard output and standard error", async () => {
    const result = await bench.capture(container, ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]);
    expect(result).toEqual({
      exitCode: 3,
      signal: 0,
      stdout: Buffer.from("out\n"),
      stderr: Buffer.from("err\n"),
      truncated: false,
      timedOut: false,
    });
  });

  test("leaves no cgroup", async () => {
    await bench.capture(container, ["/bin/true"]);
    expect(execCgroups()).toEqual([]);
  });

  test("cuts what is beyond the limit and lets the command end", async () => {
    const result = await bench.capture(container, ["/bin/sh", "-c", "yes | head -c 300000; exit 4"], {
      limitBytes: 1000,
    });
    expect(result).toMatchObject({ exitCode: 4, truncated: true });
    expect(result.stdout.length).toBe(1000);
  });

  test("of a command that does not exist fails in step exec and leaves no cgroup", async () => {
    await expect(bench.capture(container, ["/bin/missing"])).rejects.toMatchObject({
      code: "EXEC_FAILED",
      step: "exec",
      syscall: { errno: "ENOENT" },
    });
    await until(() => execCgroups().length === 0);
  });

  test("kills everything it started at the timeout", async () => {
    const result = await bench.capture(container, ["/bin/sh", "-c", "sleep 1000 & echo begun; sleep 1000"], {
      timeoutMs: 200,
    });
    expect(result).toMatchObject({ exitCode: 137, signal: 9, timedOut: true, stdout: Buffer.from("begun\n") });
    await until(() => execCgroups().length === 0);
  });

  test("does not wait for a background process that keeps standard output, and does not kill it", async () => {
    const result = await bench.capture(container, ["/bin/sh", "-c", "sleep 1000 & echo done $!"]);
    expect(result).toMatchObject({ exitCode: 0, stdout: expect.any(Buffer) as Buffer });
    expect(result.stdout.toString()).toMatch(/^done \d+\n$/);
    await until(() => execCommands().join() === "sleep\n");
    expect(execCgroups()).toHaveLength(1);
    for (const pid of execPids()) process.kill(pid, "SIGKILL");
    await until(() => execCgroups().length === 0);
  });

  test("ends with its container", async () => {
    const result = bench.capture(container, ["/bin/sleep", "1000"]);
    // Killed before its execve, it would be a failure to start instead.
    await until(() => execCommands().includes("sleep\n"));
    await bench.client.kill({ containerId: container.containerId });
    expect(await result).toMatchObject({ exitCode: 137 });
    await bench.exitOf(container.containerId);
    // It is removed only where no exec's is in it any more.
    expect(existsSync(container.cgroup)).toBe(false);
  });

  test("in a container that has ended is refused", async () => {
    const { params } = await bench.run(["/bin/true"]);
    await expect(bench.capture(params, ["/bin/true"])).rejects.toMatchObject({ code: "CONTAINER_NOT_RUNNING" });
  });

  test("with a terminal has one", async () => {
    const result = await bench.capture(container, ["/bin/sh", "-c", "test -t 0 && test -t 1 && echo yes"], {
      terminal: true,
    });
    expect(result).toMatchObject({ exitCode: 0, stdout: Buffer.from("yes\r\n") });
  });

  test("two hundred at once all answer and leave nothing", async () => {
    const results = await Promise.all(
      Array.from({ length: 200 }, (_, index) => bench.capture(container, ["/bin/echo", String(index)])),
    );
    expect(results.map(({ stdout }) => stdout.toString().trim())).toEqual(results.map((_, index) => String(index)));
    await until(() => execCgroups().length === 0);
  });
});

describe("exec stream", () => {
  test("carries input to its end and output back, then the exit code", async () => {
    const stream = await openExec(["/bin/sh", "-c", "tr a-z A-Z; echo over >&2; exit 6"], { stdin: true });
    const output = Promise.all([text(stream.stdout), text(stream.stderr as Readable)]);
    stream.stdin?.write("hello ");
    stream.stdin?.end("world\n");
    expect(await output).toEqual(["HELLO WORLD\n", "over\n"]);
    expect(await stream.exited).toEqual({ exitCode: 6 });
  });

  test("that ended before its client came still delivers output and code", async () => {
    const params = bench.execParams(container, "stream", ["/bin/sh", "-c", "echo early; exit 9"]);
    const ended = new Promise((resolve) => bench.client.onExecExit((execId) => execId === params.execId && resolve(0)));
    await bench.client.exec(params);
    await ended;
    const stream = await bench.client.openStream({ execId: params.execId });
    expect(await text(stream.stdout)).toBe("early\n");
    expect(await stream.exited).toEqual({ exitCode: 9 });
  });

  test("delivers every byte to a client that reads slowly", async () => {
    const stream = await openExec(["/bin/sh", "-c", "seq 1 300000"]);
    await sleep(400);
    let lines = 0;
    let last = "";
    for await (const chunk of stream.stdout) {
      const parts = (last + String(chunk)).split("\n");
      last = parts.pop() ?? "";
      lines += parts.length;
      if (lines % 1000 < 30) await sleep(1);
    }
    expect(lines).toBe(300_000);
    expect(await stream.exited).toEqual({ exitCode: 0 });
  });

  test("takes input faster than the command reads it without losing any", async () => {
    const stream = await openExec(["/bin/sh", "-c", "sleep 0.3; wc -c"], { stdin: true });
    const output = text(stream.stdout);
    stream.stdin?.end(Buffer.alloc(5_000_000, "x"));
    expect((await output).trim()).toBe("5000000");
  });

  test("is killed with everything it started when its client goes", async () => {
    const stream = await openExec(["/bin/sh", "-c", "sleep 1000 & sleep 1000"]);
    expect(execCgroups()).toHaveLength(1);
    stream.close();
    await until(() => execCgroups().length === 0);
  });

  test("is killed when its client goes though its input is stuck", async () => {
    const stream = await openExec(["/bin/sleep", "1000"], { stdin: true });
    stream.stdin?.write(Buffer.alloc(1_000_000));
    await sleep(100);
    stream.close();
    await until(() => execCgroups().length === 0);
  });

  test("has one client only", async () => {
    const params = bench.execParams(container, "stream", ["/bin/sleep", "1000"]);
    await bench.client.exec(params);
    const stream = await bench.client.openStream({ execId: params.execId });
    await expect(bench.client.openStream({ execId: params.execId })).rejects.toMatchObject({
      code: "EXEC_NOT_ATTACHABLE",
    });
    stream.close();
  });

  test("with a terminal is resized by its stream and by request", async () => {
    const params = bench.execParams(container, "stream", ["/bin/sh", "-c", "read x; stty size; read x; stty size"], {
      terminal: true,
      stdin: true,
    });
    await bench.client.exec(params);
    const stream = await bench.client.openStream({ execId: params.execId });
    expect(stream.stderr).toBeUndefined();
    let seen = "";
    stream.stdout.on("data", (chunk: Buffer) => (seen += chunk.toString()));
    stream.resize(101, 33);
    stream.stdin?.write("\n");
    await until(() => seen.includes("33 101"));
    await bench.client.resize({ execId: params.execId, columns: 77, rows: 11 });
    stream.stdin?.write("\n");
    expect(await stream.exited).toEqual({ exitCode: 0 });
    expect(seen).toContain("11 77");
  });

  test("its end is told to control clients", async () => {
    const params = bench.execParams(container, "stream", ["/bin/sh", "-c", "exit 8"]);
    const told = new Promise((resolve) => bench.client.onExecExit((...event) => resolve(event)));
    await bench.client.exec(params);
    expect(await told).toEqual([params.execId, 8, 0]);
    expect(existsSync(container.exitFile)).toBe(false);
  });
});
