/**
 * The client against a server that speaks the protocol's bytes, and breaks it.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ContainerId } from "../../../src/base/ids.js";
import { CHANNEL, encodeChannel, encodeFrame, encodeJson, FrameReader } from "../../../src/monitor/frames.js";
import { MonitorClient } from "../../../src/monitor/monitor-client.js";

const ID = "c".repeat(64) as ContainerId;

let dir: string;
let path: string;
let server: Server;
let sockets: Socket[];
let received: Record<string, unknown>[];
/** What the server answers to each frame after the hello. */
let answer: (frame: Record<string, unknown>, socket: Socket) => void;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "minke-monitor-unit-"));
  path = join(dir, "m.sock");
  sockets = [];
  received = [];
  answer = () => {};
  server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    socket.write(
      encodeJson({ hello: { protocol: 1, version: "0.0.1", sandboxId: "s", pid: 7, socketPath: path, fds: {} } }),
    );
    const reader = new FrameReader();
    socket.on("data", (chunk: Buffer) => {
      reader.push(chunk);
      for (let bytes = reader.next(); bytes; bytes = reader.next()) {
        const frame = JSON.parse(bytes.toString()) as Record<string, unknown>;
        received.push(frame);
        answer(frame, socket);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
  rmSync(dir, { recursive: true, force: true });
});

describe("MonitorClient", () => {
  test("sends a request and settles it by its id", async () => {
    answer = ({ id }, socket) => {
      if (id !== undefined) socket.write(encodeJson({ id, result: { pid: Number(id) * 10, startedAtNs: "1" } }));
    };
    const client = await MonitorClient.connect(path);
    const starts = await Promise.all([client.start({} as never), client.start({} as never)]);
    expect(starts.map(({ pid }) => pid)).toEqual([10, 20]);
    client.close();
  });

  test("a failed start is CONTAINER_START_FAILED with step and system call", async () => {
    const error = {
      code: "START_FAILED",
      message: 'mount "/data": move_mount: EINVAL',
      step: "mount",
      syscall: "move_mount",
      errno: "EINVAL",
    };
    answer = ({ id }, socket) => void (id !== undefined && socket.write(encodeJson({ id, error })));
    const client = await MonitorClient.connect(path);
    await expect(client.start({} as never)).rejects.toMatchObject({
      kind: "internal",
      code: "CONTAINER_START_FAILED",
      message: error.message,
      step: "mount",
      syscall: { name: "move_mount", errno: "EINVAL" },
    });
    client.close();
  });

  test("an exit that came with the hello reaches a listener set after connect", async () => {
    answer = ({ hello }, socket) =>
      void (
        hello && socket.write(encodeJson({ event: "exit", containerId: ID, exit: { containerId: ID, exitCode: 3 } }))
      );
    const client = await MonitorClient.connect(path);
    const exit = await new Promise((resolve) => client.onExit(resolve));
    expect(exit).toMatchObject({ containerId: ID, exitCode: 3 });
    client.close();
  });

  test("the end of the connection refuses what is under way and is told once", async () => {
    answer = ({ id }, socket) => void (id !== undefined && socket.destroy());
    const client = await MonitorClient.connect(path);
    const reasons: unknown[] = [];
    client.onClose((reason) => reasons.push(reason));
    await expect(client.list()).rejects.toMatchObject({ kind: "unavailable", code: "MONITOR_UNREACHABLE" });
    await expect(client.list()).rejects.toMatchObject({ code: "MONITOR_UNREACHABLE" });
    expect(reasons).toMatchObject([{ code: "MONITOR_UNREACHABLE" }]);
  });

  test("a frame that is no JSON ends the connection as MONITOR_UNREACHABLE", async () => {
    answer = ({ id }, socket) => void (id !== undefined && socket.write(encodeFrame(Buffer.from("{"))));
    const client = await MonitorClient.connect(path);
    await expect(client.list()).rejects.toMatchObject({ code: "MONITOR_UNREACHABLE" });
  });

  test("close by the caller is told without a reason", async () => {
    const client = await MonitorClient.connect(path);
    const closed = new Promise((resolve) => client.onClose(resolve));
    client.close();
    expect(await closed).toBeUndefined();
  });

  test("a refused hello is MONITOR_PROTOCOL", async () => {
    answer = (_frame, socket) => void socket.write(encodeJson({ error: { code: "UNKNOWN_PROTOCOL", message: "no" } }));
    const client = await MonitorClient.connect(path);
    const reason = await new Promise((resolve) => client.onClose(resolve));
    expect(reason).toMatchObject({ kind: "unimplemented", code: "MONITOR_PROTOCOL" });
  });

  test("connect where nobody listens is MONITOR_UNREACHABLE", async () => {
    await expect(MonitorClient.connect(join(dir, "none.sock"))).rejects.toMatchObject({
      kind: "unavailable",
      code: "MONITOR_UNREACHABLE",
    });
  });
});

describe("openStream", () => {
  test("delivers output that came with the status though it is read late", async () => {
    answer = ({ hello }, socket) => {
      if (!(hello as { stream?: unknown }).stream) return;
      const output = Array.from({ length: 20 }, () => encodeChannel(CHANNEL.stdout, Buffer.alloc(20_000, "x")));
      socket.end(
        Buffer.concat([
          encodeJson({ stream: { terminal: false, stdin: true } }),
          ...output,
          encodeChannel(CHANNEL.status, Buffer.from('{"exitCode":5}')),
        ]),
      );
    };
    const client = await MonitorClient.connect(path);
    const stream = await client.openStream({ containerId: ID });
    await new Promise((resolve) => setTimeout(resolve, 50));
    let size = 0;
    for await (const chunk of stream.stdout) size += (chunk as Buffer).length;
    expect(size).toBe(400_000);
    expect(await stream.exited).toEqual({ exitCode: 5 });
    client.close();
  });

  test("a stream that ends without a status rejects", async () => {
    answer = ({ hello }, socket) =>
      void (
        (hello as { stream?: unknown }).stream && socket.end(encodeJson({ stream: { terminal: true, stdin: false } }))
      );
    const client = await MonitorClient.connect(path);
    const stream = await client.openStream({ containerId: ID });
    stream.stdout.resume();
    expect([stream.stdin, stream.stderr]).toEqual([undefined, undefined]);
    await expect(stream.exited).rejects.toMatchObject({ code: "MONITOR_UNREACHABLE" });
    client.close();
  });
});
