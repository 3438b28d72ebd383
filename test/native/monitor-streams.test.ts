/**
 * Attaching to containers, and what the monitor does with clients that are slow, wrong or hostile. Needs root.
 */
import { readdirSync } from "node:fs";
import { connect, type Socket } from "node:net";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { encodeFrame, encodeJson } from "../../src/monitor/frames.js";
import { logText, MonitorBench, until } from "../harness/monitor.js";
import { requires } from "../harness/requires.js";

let bench: MonitorBench;
beforeEach(async (context) => {
  requires("root", "cgroup2")(context);
  bench = await MonitorBench.start();
});
afterEach(async () => {
  await bench?.stop();
});

describe("attach", () => {
  test("gives every client the output from now on, and the exit code", async () => {
    const params = await bench.start(["/bin/sh", "-c", "read x; echo got $x; echo err >&2; exit 4"], { stdin: true });
    const { containerId } = params;
    const [one, two] = [await bench.client.openStream({ containerId }), await bench.client.openStream({ containerId })];
    const outputs = [one, two].map((stream) => Promise.all([text(stream.stdout), text(stream.stderr as Readable)]));
    one.stdin?.write("it\n");
    expect(await Promise.all(outputs)).toEqual([
      ["got it\n", "err\n"],
      ["got it\n", "err\n"],
    ]);
    expect([await one.exited, await two.exited]).toEqual([{ exitCode: 4 }, { exitCode: 4 }]);
    expect(logText(params.logPath ?? "", "stdout")).toBe("got it\n");
  });

  test("without stdinOnce the end of one client's input is not the container's", async () => {
    const { containerId } = await bench.start(["/bin/cat"], { stdin: true });
    const one = await bench.client.openStream({ containerId });
    one.stdin?.end("first\n");
    await new Promise((resolve) => one.stdout.once("data", resolve));
    one.close();
    const two = await bench.client.openStream({ containerId });
    const echoed = new Promise((resolve) => two.stdout.once("data", (chunk: Buffer) => resolve(chunk.toString())));
    two.stdin?.write("second\n");
    expect(await echoed).toBe("second\n");
    two.close();
  });

  test("with stdinOnce the first client's end closes the container's input", async () => {
    const { containerId } = await bench.start(["/bin/cat"], { stdin: true, stdinOnce: true });
    const stream = await bench.client.openStream({ containerId });
    const output = text(stream.stdout);
    stream.stdin?.end("only\n");
    expect(await output).toBe("only\n");
    expect(await stream.exited).toEqual({ exitCode: 0 });
  });

  test("with stdinOnce a client that just goes closes it too", async () => {
    const { containerId } = await bench.start(["/bin/cat"], { stdin: true, stdinOnce: true });
    (await bench.client.openStream({ containerId })).close();
    expect(await bench.exitOf(containerId)).toMatchObject({ exitCode: 0 });
  });

  test("to a container without stdin has none", async () => {
    const { containerId } = await bench.start(["/bin/sleep", "1000"]);
    const stream = await bench.client.openStream({ containerId });
    expect(stream.stdin).toBeUndefined();
    stream.close();
  });

  test("to a container that has ended gives its exit code", async () => {
    const { params } = await bench.run(["/bin/sh", "-c", "exit 12"]);
    const stream = await bench.client.openStream({ containerId: params.containerId });
    expect(await stream.exited).toEqual({ exitCode: 12 });
  });

  test("to a terminal carries both ways and resizes", async () => {
    const params = await bench.start(["/bin/sh", "-c", "read x; stty size; exit 2"], { terminal: true, stdin: true });
    const { containerId } = params;
    await bench.client.resize({ containerId, columns: 90, rows: 20 });
    const stream = await bench.client.openStream({ containerId });
    const output = text(stream.stdout);
    stream.stdin?.write("\r");
    expect(await output).toContain("20 90");
    expect(await stream.exited).toEqual({ exitCode: 2 });
    expect(logText(params.logPath ?? "")).toContain("20 90");
  });

  test("a client that does not read is let go and the log goes on", async () => {
    const params = await bench.start(["/bin/sh", "-c", "read x; seq 1 600000; sleep 1000"], { stdin: true });
    const { containerId } = params;
    const stream = await bench.client.openStream({ containerId });
    stream.stdout.pause();
    const starter = await bench.client.openStream({ containerId });
    starter.stdin?.write("\n");
    starter.close();
    await until(() => logText(params.logPath ?? "").endsWith("600000\n"));
    stream.stdout.resume();
    await expect(stream.exited).rejects.toMatchObject({ code: "STREAM_TOO_SLOW" });
  });

  test("to an unknown container is not-found", async () => {
    await expect(bench.client.openStream({ containerId: bench.sandboxId as never })).rejects.toMatchObject({
      code: "CONTAINER_NOT_FOUND",
    });
  });
});

describe("a client", () => {
  const HELLO = encodeJson({ hello: { protocol: 1, version: "0" } });

  async function dial(): Promise<{ socket: Socket; received: () => string; isClosed: () => boolean }> {
    const socket = connect(bench.socketPath);
    let received = "";
    let isClosed = false;
    socket.on("data", (chunk: Buffer) => (received += chunk.toString("latin1")));
    socket.on("close", () => (isClosed = true));
    socket.on("error", () => {});
    await new Promise((resolve) => socket.once("connect", resolve));
    return { socket, received: () => received, isClosed: () => isClosed };
  }

  test.each([
    ["an unknown protocol", encodeJson({ hello: { protocol: 99, version: "9" } }), "UNKNOWN_PROTOCOL"],
    ["a request instead of a hello", encodeJson({ id: 1, method: "list" }), "BAD_FRAME"],
    ["what is no JSON", Buffer.concat([HELLO, encodeFrame(Buffer.from("{nope"))]), "BAD_FRAME"],
    ["JSON that is no object", Buffer.concat([HELLO, encodeFrame(Buffer.from("[1]"))]), "BAD_FRAME"],
    ["text after the object", Buffer.concat([HELLO, encodeFrame(Buffer.from("{} {}"))]), "BAD_FRAME"],
    ["a million brackets", Buffer.concat([HELLO, encodeFrame(Buffer.alloc(1_000_000, "["))]), "BAD_FRAME"],
    ["a request without id", Buffer.concat([HELLO, encodeJson({ method: "list" })]), "BAD_FRAME"],
    ["an empty frame", Buffer.concat([HELLO, Buffer.alloc(4)]), "FRAME_TOO_LARGE"],
    ["a frame of 4 GiB", Buffer.concat([HELLO, Buffer.alloc(4, 0xff)]), "FRAME_TOO_LARGE"],
  ])("that sends %s is told so and closed, and others are served", async (_what, bytes, code) => {
    const { socket, received, isClosed } = await dial();
    socket.write(bytes);
    await until(isClosed);
    expect(received()).toContain(`"code":"${code}"`);
    expect((await bench.client.list()).containers).toEqual([]);
  });

  test("that sends its frames byte by byte is understood", async () => {
    const { socket, received } = await dial();
    for (const byte of Buffer.concat([HELLO, encodeJson({ id: 5, method: "list", params: {} })])) {
      await new Promise((resolve) => socket.write(Buffer.of(byte), resolve));
    }
    await until(() => received().includes('{"id":5,"result":{"containers":[]}}'));
    socket.destroy();
  });

  test("that asks for an unknown method gets an error and is served on", async () => {
    const { socket, received } = await dial();
    socket.write(
      Buffer.concat([HELLO, encodeJson({ id: 1, method: "explode" }), encodeJson({ id: 2, method: "list" })]),
    );
    await until(() => received().includes('"id":2'));
    expect(received()).toContain('"UNKNOWN_METHOD"');
    socket.destroy();
  });

  test("that never reads its answers does not make the monitor grow without bound", async () => {
    const { socket } = await dial();
    socket.pause();
    socket.write(HELLO);
    const request = encodeJson({ id: 1, method: "list", params: {} });
    for (let round = 0; round < 200; round += 1) {
      if (!socket.write(Buffer.concat(Array.from({ length: 500 }, () => request)))) break;
    }
    await sleep(100);
    expect((await bench.client.list()).containers).toEqual([]);
    socket.destroy();
  });

  test("number 200 is refused and those that go make room", async () => {
    const before = openFds();
    const sockets = await Promise.all(Array.from({ length: 200 }, dial));
    await until(() => sockets.filter(({ received }) => received().includes("TOO_MANY_CLIENTS")).length === 200 - 127);
    for (const { socket } of sockets) socket.destroy();
    await until(() => openFds() === before);
    (await bench.connect()).close();
  });

  test("reaches a monitor whose socket path is longer than a socket address", async () => {
    const long = await MonitorBench.start(`${"long-directory-name/".repeat(8)}${"f".repeat(64)}.sock`);
    expect(long.socketPath.length).toBeGreaterThan(200);
    const { containerId } = await long.start(["/bin/cat"], { stdin: true });
    const stream = await long.client.openStream({ containerId });
    const echoed = new Promise((resolve) => stream.stdout.once("data", (chunk: Buffer) => resolve(chunk.toString())));
    stream.stdin?.write("far\n");
    expect(await echoed).toBe("far\n");
    stream.close();
    await long.stop();
  });

  function openFds(): number {
    return readdirSync(`/proc/${bench.child.pid}/fd`).length;
  }
});
