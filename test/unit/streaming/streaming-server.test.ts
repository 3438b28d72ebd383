/** Sessions over real HTTP, SPDY and WebSocket, with a process made of streams. */
import { once } from "node:events";
import { createServer, type Server } from "node:net";
import { connect } from "node:net";
import { PassThrough } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createWebSocketStream, WebSocket } from "ws";
import type { ChannelSession } from "../../../src/streaming/channels.js";
import { StreamingServer } from "../../../src/streaming/streaming-server.js";
import { SpdyClient } from "../../harness/spdy-client.js";

let streaming: StreamingServer;

beforeEach(async () => {
  const failure = (err: unknown) => ({ status: "Failure", message: err instanceof Error ? err.message : String(err) });
  streaming = await StreamingServer.listen({ host: "127.0.0.1", port: 0, failure });
});

afterEach(() => streaming.close());

/** Echoes stdin to stdout, says `err` on stderr, ends with stdin. */
class FakeProcess implements ChannelSession {
  readonly stdin = new PassThrough();
  readonly stdout = new PassThrough();
  readonly stderr = new PassThrough();
  readonly sizes: string[] = [];
  isClosed = false;
  readonly exited: Promise<{ readonly exitCode: number }>;

  constructor(exitCode: number) {
    this.stdin.pipe(this.stdout);
    this.stderr.end("err");
    this.exited = once(this.stdout, "end").then(() => ({ exitCode }));
  }

  resize(columns: number, rows: number): void {
    this.sizes.push(`${columns}x${rows}`);
  }

  close(): void {
    this.isClosed = true;
    this.stdin.end();
  }
}

const ALL = { stdin: true, stdout: true, stderr: true };
const V5 = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

function offer(process: FakeProcess, tty = false): string {
  return streaming.offer({
    kind: "exec",
    selection: tty ? { ...ALL, stderr: false } : ALL,
    tty,
    open: async () => process,
  });
}

describe("SPDY", () => {
  test("exec carries stdin, stdout, stderr and the exit code, and closes the connection", async () => {
    const client = await SpdyClient.connect(offer(new FakeProcess(7)), V5);
    expect(client.protocol).toBe("v5.channel.k8s.io");
    const error = await client.open({ streamType: "error" });
    const stdin = await client.open({ streamType: "stdin" });
    const stdout = await client.open({ streamType: "stdout" });
    const stderr = await client.open({ streamType: "stderr" });
    stdin.write("hello ");
    stdin.write("world", true);
    expect((await stdout.ended).toString()).toBe("hello world");
    expect((await stderr.ended).toString()).toBe("err");
    expect(JSON.parse((await error.ended).toString())).toMatchObject({
      status: "Failure",
      reason: "NonZeroExitCode",
      details: { causes: [{ reason: "ExitCode", message: "7" }] },
    });
    client.close();
    await client.closed;
    await expect.poll(() => streaming.openCount).toBe(0);
  });

  test("three million bytes come back unchanged while the client does not hurry", async () => {
    const client = await SpdyClient.connect(offer(new FakeProcess(0)), V5);
    await client.open({ streamType: "error" });
    const stdin = await client.open({ streamType: "stdin" });
    const stdout = await client.open({ streamType: "stdout" });
    await client.open({ streamType: "stderr" });
    const bytes = Buffer.alloc(3_000_000, "0123456789");
    for (let at = 0; at < bytes.length; at += 32_768) stdin.write(bytes.subarray(at, at + 32_768));
    stdin.write("", true);
    expect((await stdout.ended).equals(bytes)).toBe(true);
    client.destroy();
  });

  test("a terminal's sizes arrive, whole or in pieces", async () => {
    const process = new FakeProcess(0);
    const client = await SpdyClient.connect(offer(process, true), V5);
    const error = await client.open({ streamType: "error" });
    const stdin = await client.open({ streamType: "stdin" });
    await client.open({ streamType: "stdout" });
    const resize = await client.open({ streamType: "resize" });
    resize.write('{"Width":80,"Height":24}\n{"Width":');
    resize.write('100,"Height":30}\n{"Width":-1,"Height":0}\n');
    await sleep(50);
    stdin.write("", true);
    await error.ended;
    expect(process.sizes).toEqual(["80x24", "100x30"]);
    client.destroy();
  });

  test("a command that cannot be started is a status on the error stream", async () => {
    const url = streaming.offer({
      kind: "exec",
      selection: { stdin: false, stdout: true, stderr: false },
      tty: false,
      open: () => Promise.reject(new Error("no such command")),
    });
    const client = await SpdyClient.connect(url, ["v4.channel.k8s.io"]);
    const error = await client.open({ streamType: "error" });
    await client.open({ streamType: "stdout" });
    expect(JSON.parse((await error.ended).toString())).toEqual({ status: "Failure", message: "no such command" });
    client.destroy();
  });

  test("a client that goes away closes the session", async () => {
    const process = new FakeProcess(0);
    const client = await SpdyClient.connect(offer(process), V5);
    for (const streamType of ["error", "stdin", "stdout", "stderr"]) await client.open({ streamType });
    await sleep(50);
    client.destroy();
    await expect.poll(() => process.isClosed).toBe(true);
  });

  test("a protocol that nobody knows is refused with 403", async () => {
    await expect(SpdyClient.connect(offer(new FakeProcess(0)), ["v9.channel.k8s.io"])).rejects.toThrow(/^403 /);
  });

  test("two hundred sessions at once end, and none is left", async () => {
    await Promise.all(
      Array.from({ length: 200 }, async (_, index) => {
        const client = await SpdyClient.connect(offer(new FakeProcess(0)), V5);
        const error = await client.open({ streamType: "error" });
        const stdin = await client.open({ streamType: "stdin" });
        const stdout = await client.open({ streamType: "stdout" });
        await client.open({ streamType: "stderr" });
        stdin.write(`session ${index}`, true);
        expect((await stdout.ended).toString()).toBe(`session ${index}`);
        await error.ended;
        client.close();
        await client.closed;
      }),
    );
    await expect.poll(() => streaming.openCount).toBe(0);
  });
});

describe("URLs", () => {
  test("serve one session, once", async () => {
    const url = offer(new FakeProcess(0));
    (await SpdyClient.connect(url, V5)).destroy();
    await expect(SpdyClient.connect(url, V5)).rejects.toThrow(/^404 /);
  });

  test("of another kind, and tokens that were never given, are not found", async () => {
    await expect(SpdyClient.connect(offer(new FakeProcess(0)).replace("/exec/", "/attach/"), V5)).rejects.toThrow(
      /^404 /,
    );
    await expect(SpdyClient.connect(offer(new FakeProcess(0)).replace(/[^/]+$/, "x"), V5)).rejects.toThrow(/^404 /);
  });

  test("are used up by a plain request too", async () => {
    const url = offer(new FakeProcess(0));
    expect((await fetch(url)).status).toBe(400);
    expect((await fetch(url)).status).toBe(404);
  });

  test("beyond a thousand that wait are refused as resource-exhausted TOO_MANY_SESSIONS", () => {
    const process = new FakeProcess(0);
    for (let i = 0; i < 1000; i++) offer(process);
    expect(() => offer(process)).toThrow(
      expect.objectContaining({ kind: "resource-exhausted", code: "TOO_MANY_SESSIONS" }),
    );
  });
});

describe("WebSocket", () => {
  test("v5 closes stdin by channel 255, and ends with the status", async () => {
    const socket = new WebSocket(offer(new FakeProcess(3)).replace("http", "ws"), V5);
    const messages: Buffer[] = [];
    socket.on("message", (message: Buffer) => messages.push(message));
    await once(socket, "open");
    socket.send(Buffer.concat([Buffer.from([0]), Buffer.from("hi")]));
    socket.send(Buffer.from([255, 0]));
    await once(socket, "close");
    const of = (channel: number) =>
      Buffer.concat(messages.filter(([first]) => first === channel).map((message) => message.subarray(1))).toString();
    expect([of(1), of(2)]).toEqual(["hi", "err"]);
    expect(JSON.parse(of(3))).toMatchObject({ reason: "NonZeroExitCode" });
  });
});

describe("port-forward", () => {
  let echo: Server;
  let port: number;

  beforeEach(async () => {
    echo = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)).listen(0, "127.0.0.1");
    await once(echo, "listening");
    port = (echo.address() as { port: number }).port;
  });

  afterEach(() => void echo.close());

  const offerPorts = () =>
    streaming.offer({
      kind: "portforward",
      dial: async (number) => {
        const socket = connect({ port: number, host: "127.0.0.1", allowHalfOpen: true });
        await once(socket, "connect");
        return socket;
      },
    });

  async function throughPort(
    client: SpdyClient,
    to: number,
    requestID: string,
    bytes: string,
  ): Promise<[string, string]> {
    const error = await client.open({ streamType: "error", port: String(to), requestID });
    error.write("", true);
    const data = await client.open({ streamType: "data", port: String(to), requestID });
    data.write(bytes, true);
    return [(await data.ended).toString(), (await error.ended).toString()];
  }

  test("several connections share one session", async () => {
    const client = await SpdyClient.connect(offerPorts(), ["portforward.k8s.io"]);
    const answers = await Promise.all(["0", "1", "2"].map((id) => throughPort(client, port, id, `request ${id}`)));
    expect(answers).toEqual(["0", "1", "2"].map((id) => [`request ${id}`, ""]));
    client.destroy();
  });

  test("a port where nobody listens is told on the error stream, and the session goes on", async () => {
    const client = await SpdyClient.connect(offerPorts(), ["portforward.k8s.io"]);
    const [data, error] = await throughPort(client, 1, "0", "x");
    expect(data).toBe("");
    expect(error).toMatch(/^forward port 1: .*ECONNREFUSED/);
    expect(await throughPort(client, port, "1", "y")).toEqual(["y", ""]);
    client.destroy();
  });

  test("goes through a WebSocket tunnel", async () => {
    const socket = new WebSocket(offerPorts().replace("http", "ws"), {
      headers: { "sec-websocket-protocol": "SPDY/3.1+portforward.k8s.io" },
    });
    socket.on("error", () => undefined);
    const [response] = (await once(socket, "upgrade")) as [{ headers: Record<string, string> }];
    expect(response.headers["sec-websocket-protocol"]).toBe("SPDY/3.1+portforward.k8s.io");
    createWebSocketStream(socket)
      .on("error", () => undefined)
      .destroy();
  });
});
