/**
 * Nonsense on the API's socket: each client gets one clear answer or none, the daemon serves all
 * others meanwhile, and nothing of a client that went away is left.
 */
import { request as httpRequest } from "node:http";
import { connect, type Socket } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { eventually, FaultDaemon, manifest } from "../harness/fault-daemon.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "cgroup2", "overlayfs"] as const;
const PODS = "/api/v1/namespaces/default/pods";
const lacking = missing(...NEEDS);
let faults: FaultDaemon;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (!lacking) faults = await FaultDaemon.start();
});
afterEach(() => faults?.reset());
afterAll(() => faults?.dispose());

interface Answer {
  readonly status: number;
  readonly body: string;
}

function ask(method: string, path: string, body?: string | Buffer): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = { "content-length": Buffer.byteLength(body ?? "") };
    const request = httpRequest(
      { socketPath: faults.daemon.apiSocket, method, path, headers, agent: false },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("end", () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString() }));
      },
    );
    request.on("error", reject);
    request.end(body);
  });
}

/** Writes bytes as they are, and gives what comes back until the server closes. */
async function raw(text: string): Promise<string> {
  const socket = await open();
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  socket.write(text);
  await new Promise((resolve) => socket.once("close", resolve));
  return Buffer.concat(chunks).toString();
}

function open(): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(faults.daemon.apiSocket, () => resolve(socket));
    socket.on("error", reject);
  });
}

describe("a request that is", () => {
  test.each([
    ["no JSON", "POST", PODS, "{", 400],
    ["an array", "POST", PODS, "[]", 422],
    ["empty", "POST", PODS, "", 400],
    ["binary", "POST", PODS, "\u0000\u0001\u0002", 422],
    ["of another kind", "POST", PODS, '{"apiVersion":"v1","kind":"Node"}', 422],
    [
      "for another namespace",
      "POST",
      PODS,
      JSON.stringify({ ...manifest("x", {}), metadata: { name: "x", namespace: "y" } }),
      400,
    ],
    ["for nothing that exists", "GET", "/api/v1/gizmos", undefined, 404],
    ["with a path that is not encoded", "GET", `${PODS}/%zz`, undefined, 400],
    ["with a path of two slashes", "GET", "//", undefined, 404],
    ["of a method that nothing has", "PATCH", PODS, undefined, 404],
    ["with a bad parameter", "GET", `${PODS}/x/log?tailLines=many`, undefined, 400],
    ["a delete with a body that is no object", "DELETE", `${PODS}/x`, "7", 400],
    ["a load of a path that is not there", "POST", "/minke/v1/images/load", '{"path":"/nonexistent"}', 404],
  ])("%s is refused with a Status", async (_, method, path, body, status) => {
    const answer = await ask(method, path, body);
    expect({ ...answer, kind: (JSON.parse(answer.body) as { kind: string }).kind }).toMatchObject({
      status,
      kind: "Status",
    });
    expect((await ask("GET", "/healthz")).status).toBe(200);
  });

  test("larger than a manifest may be is refused, and the answer arrives", async () => {
    const answer = await ask("POST", PODS, Buffer.alloc(8 * 1024 * 1024, "a"));
    expect(answer).toMatchObject({ status: 400, body: expect.stringContaining("MANIFEST_TOO_LARGE") });
  });

  test("no HTTP is answered with 400 and closed", async () => {
    expect(await raw("\u0016\u0003\u0001\u0002\u0000\r\n\r\n")).toMatch(/^HTTP\/1\.1 400/);
  });

  test("an upgrade to what nobody speaks is refused", async () => {
    const upgrade = (path: string, protocol: string) =>
      raw(
        `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: ${protocol}\r\n\r\n`,
      );
    expect(await upgrade(`${PODS}/x/exec?command=true`, "chat")).toMatch(/^HTTP\/1\.1 400/);
    expect(await upgrade(`${PODS}/x/exec?command=true`, "v5.channel.k8s.io")).toMatch(/^HTTP\/1\.1 404/);
    expect(await upgrade("/elsewhere", "v5.channel.k8s.io")).toMatch(/^HTTP\/1\.1 400/);
  });
});

test("200 idle connections and half requests hold nobody up", async () => {
  const sockets = await Promise.all(Array.from({ length: 200 }, open));
  for (const [index, socket] of sockets.entries()) {
    if (index % 4 === 1) socket.write("GET /heal");
    if (index % 4 === 2) socket.write(`POST ${PODS} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"half`);
  }
  const askedAt = performance.now();
  expect((await ask("GET", "/healthz")).status).toBe(200);
  expect(performance.now() - askedAt).toBeLessThan(20_000);
  for (const socket of sockets) socket.destroy();
  await faults.run("meanwhile");
  await faults.delete("meanwhile");
  await faults.expectNothingLeft();
});

test("an exec whose client goes away in the middle leaves no process", async () => {
  await faults.run("cut");
  const before = faults.pids();
  const streams = await faults.client.exec("default", "cut", { command: ["sh", "-c", "sleep 1234 & sleep 1234"] });
  await eventually(
    () => faults.pidsOf(/sleep 1234$/).length >= 2,
    () => "the exec did not start",
  );
  streams.close();
  await expect.poll(() => faults.pids()).toEqual(before);
  await faults.delete("cut");
  await faults.expectNothingLeft();
});

test("a client that follows a log and never reads stops neither the container nor its deletion", async () => {
  await faults.run("chatty", {
    containers: [
      {
        name: "main",
        script: "while :; do head -c 65536 /dev/zero | tr '\\\\0' x; echo; touch /kept/alive; done",
        mounts: { kept: "/kept" },
      },
    ],
    volumes: [{ name: "kept", emptyDir: {} }],
  });
  const socket = await open();
  socket.pause();
  socket.write(`GET ${PODS}/chatty/log?follow=true HTTP/1.1\r\nHost: x\r\n\r\n`);
  const rss = () => faults.daemonRssBytes();
  const before = rss();
  // It goes on writing although nobody reads.
  for (let round = 0; round < 3; round++) {
    await faults.exec("chatty", "rm", "-f", "/kept/alive");
    await eventually(
      async () => (await faults.exec("chatty", "ls", "/kept/alive")).code === 0,
      () => "the container stands still",
    );
  }
  expect(rss() - before).toBeLessThan(100 * 1024 * 1024);
  await faults.delete("chatty");
  socket.destroy();
  await faults.expectNothingLeft();
});
