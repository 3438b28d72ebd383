/** Who reaches the streaming server, and for how long: TLS, and clients that send less than they promise. */
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { StreamingServer, type StreamingServerOptions } from "../../../src/streaming/streaming-server.js";
import { SpdyClient } from "../../harness/spdy-client.js";

const failure = (err: unknown) => ({ message: String(err) });
let streaming: StreamingServer;
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "minke-streaming-test-"));
  for (const name of ["server", "client"]) {
    execFileSync(
      "openssl",
      [
        ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"],
        ...["-subj", `/CN=${name}`, "-addext", "subjectAltName=IP:127.0.0.1"],
        ...["-keyout", join(folder, `${name}.key`), "-out", join(folder, `${name}.crt`)],
      ],
      { stdio: "ignore" },
    );
  }
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => streaming?.close());

async function listen(options: Partial<StreamingServerOptions> = {}): Promise<void> {
  streaming = await StreamingServer.listen({ host: "127.0.0.1", port: 0, failure, ...options });
}

function offer(): string {
  const stdin = new PassThrough();
  return streaming.offer({
    kind: "exec",
    selection: { stdin: true, stdout: true, stderr: false },
    tty: false,
    open: async () => ({
      stdin,
      stdout: stdin,
      stderr: undefined,
      resize: () => undefined,
      exited: once(stdin, "end").then(() => ({ exitCode: 0 })),
      close: () => stdin.destroy(),
    }),
  });
}

const file = (name: string) => readFileSync(join(folder, name));

async function echo(client: SpdyClient): Promise<string> {
  const error = await client.open({ streamType: "error" });
  const stdin = await client.open({ streamType: "stdin" });
  const stdout = await client.open({ streamType: "stdout" });
  stdin.write("secret", true);
  error.write("", true);
  const text = (await stdout.ended).toString();
  client.destroy();
  return text;
}

describe("with TLS", () => {
  const tls = () => ({ certificate: join(folder, "server.crt"), key: join(folder, "server.key") });

  test("the URLs say so, SPDY and WebSocket work, and nothing answers in the clear", async () => {
    await listen({ tls: tls() });
    const url = offer();
    expect(url).toMatch(/^https:/);
    expect(await echo(await SpdyClient.connect(url, ["v4.channel.k8s.io"], { ca: file("server.crt") }))).toBe("secret");
    const socket = new WebSocket(offer().replace("https", "wss"), ["v5.channel.k8s.io"], { ca: file("server.crt") });
    await once(socket, "open");
    socket.terminate();
    await expect(SpdyClient.connect(offer().replace("https", "http"), ["v4.channel.k8s.io"])).rejects.toMatchObject({
      code: expect.stringMatching(/^(ECONNRESET|EPIPE|ERR_SSL_|HPE_)/),
    });
  });

  test("and a CA of clients, one without a certificate of it is refused", async () => {
    await listen({ tls: { ...tls(), clientCa: join(folder, "client.crt") } });
    const ca = file("server.crt");
    await expect(SpdyClient.connect(offer(), ["v4.channel.k8s.io"], { ca })).rejects.toMatchObject({
      code: expect.stringMatching(/^(ECONNRESET|EPIPE|ERR_SSL_|HPE_)/),
    });
    const own = { ca, cert: file("client.crt"), key: file("client.key") };
    expect(await echo(await SpdyClient.connect(offer(), ["v4.channel.k8s.io"], own))).toBe("secret");
  });

  test("and a missing file, it does not start", async () => {
    await expect(listen({ tls: { ...tls(), key: join(folder, "none") } })).rejects.toMatchObject({
      message: expect.stringContaining("none"),
    });
  });
});

describe("a connection is closed", () => {
  async function open(text: string): Promise<Socket> {
    const { hostname, port } = new URL(offer());
    const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
    socket.on("error", () => undefined);
    socket.resume();
    await once(socket, "connect");
    if (text !== "") socket.write(text);
    return socket;
  }

  const UPGRADE = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
  test.for([
    ["that says nothing", ""],
    ["that stops within its headers", "POST /exec/x HTTP/1.1\r\nHost: a\r\nX-Half"],
    ["that stops within its body", "POST /exec/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhalf"],
    ["that stops within a chunk", "POST /exec/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf"],
    ["that was refused and does not close", `POST /exec/x HTTP/1.1\r\nHost: a\r\n${UPGRADE}\r\n`],
  ] as const)("%s", async ([, text]) => {
    await listen({ requestMs: 500 });
    const socket = await open(text);
    // Our side stays open: only the peer's end of the whole connection makes writing fail.
    await expect.poll(() => socket.destroyed || (socket.write("more"), false), { interval: 50 }).toBe(true);
  });
});
