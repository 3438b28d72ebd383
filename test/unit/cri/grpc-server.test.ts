/** gRPC's connections over Node's own HTTP/2 client: what a client of any kind meets beyond well-formed calls. */
import { mkdtempSync, rmSync } from "node:fs";
import type { ClientHttp2Session, ClientHttp2Stream } from "node:http2";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { once } from "node:events";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createLog } from "../../../src/base/log.js";
import { ExecSyncResponse, VersionRequest, VersionResponse } from "../../../src/cri/generated/runtime/v1/api.js";
import { type CriServer, createCriServer } from "../../../src/cri/server.js";
import type { Verbs } from "../../../src/cri/verbs.js";
import { callRaw, connectRaw, framed } from "../../harness/raw-grpc.js";

const VERSION = "/runtime.v1.RuntimeService/Version";
const EXEC_SYNC = "/runtime.v1.RuntimeService/ExecSync";
const EVENTS = "/runtime.v1.RuntimeService/GetContainerEvents";

let folder: string;
let socketPath: string;
let server: CriServer | undefined;
let sessions: ClientHttp2Session[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "minke-grpc-"));
  socketPath = join(folder, "cri.sock");
});

afterEach(async () => {
  for (const session of sessions) session.destroy();
  sessions = [];
  await server?.close(50);
  server = undefined;
  rmSync(folder, { recursive: true, force: true });
});

async function serve(verbs: Verbs): Promise<ClientHttp2Session> {
  server = await createCriServer({ socketPath, verbs, log: createLog("silent") });
  return connected();
}

function connected(): ClientHttp2Session {
  const session = connectRaw(socketPath);
  session.on("error", () => undefined);
  sessions.push(session);
  return session;
}

interface Reply {
  readonly httpStatus: number | undefined;
  readonly grpcStatus: string | undefined;
  readonly code: string | undefined;
  readonly body: Buffer;
}

function call(session: ClientHttp2Session, path: string, body: Uint8Array, headers = {}): ClientHttp2Stream {
  const stream = callRaw(session, path, body, headers);
  stream.on("error", () => undefined);
  return stream;
}

const asked = framed(VersionRequest.encode({ version: "v1" }).finish());

async function replyOf(stream: ClientHttp2Stream): Promise<Reply> {
  let headers: Record<string, unknown> = {};
  stream.on("response", (first) => (headers = { ...headers, ...first }));
  stream.on("trailers", (last) => (headers = { ...headers, ...last }));
  const chunks: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  // Whatever it ends with: what has arrived says what was answered.
  await new Promise((resolve) => stream.once("close", resolve));
  return {
    httpStatus: headers[":status"] as number | undefined,
    grpcStatus: headers["grpc-status"] as string | undefined,
    code: headers["minke-code"] as string | undefined,
    body: Buffer.concat(chunks),
  };
}

const version = { version: "0.1.0", runtimeName: "minke", runtimeVersion: "1", runtimeApiVersion: "v1" };
const never = () => new Promise<never>(() => undefined);

describe("a call", () => {
  test("of a client that knows no grpc library is answered", async () => {
    const session = await serve({ version: () => version });
    const reply = await replyOf(call(session, VERSION, asked));
    expect(reply).toMatchObject({ httpStatus: 200, grpcStatus: "0" });
    expect(VersionResponse.decode(reply.body.subarray(5))).toEqual(version);
  });

  test.each(["/runtime.v1.RuntimeService/Versions", "/runtime.v1alpha2.RuntimeService/Version", "/", "/x"])(
    "of %s, which is no method, is UNIMPLEMENTED",
    async (path) => {
      const session = await serve({ version: () => version });
      expect(await replyOf(call(session, path, asked))).toMatchObject({ grpcStatus: "12", code: "NOT_IMPLEMENTED" });
    },
  );

  test("whose message is none of its method's is INVALID_ARGUMENT", async () => {
    const session = await serve({ version: () => version });
    const reply = await replyOf(call(session, VERSION, framed(Buffer.from([0x0a, 0xff]))));
    expect(reply).toMatchObject({ grpcStatus: "3", code: "MALFORMED_REQUEST" });
  });

  test("whose deadline passes is answered DEADLINE_EXCEEDED though its caller only waits", async () => {
    let seen: AbortSignal | undefined;
    const session = await serve({
      version: (_, { signal }) => {
        seen = signal;
        return never();
      },
    });
    const reply = await replyOf(call(session, VERSION, asked, { "grpc-timeout": "50m" }));
    expect(reply).toMatchObject({ grpcStatus: "4", code: "CALLER_DEADLINE" });
    expect(seen?.reason).toMatchObject({ kind: "deadline-exceeded", code: "CALLER_DEADLINE" });
  });

  test("is given up when its connection ends", async () => {
    let seen: AbortSignal | undefined;
    const session = await serve({
      version: (_, { signal }) => {
        seen = signal;
        return never();
      },
    });
    call(session, VERSION, asked);
    await expect.poll(() => seen).toBeDefined();
    session.destroy();
    await expect.poll(() => seen?.aborted).toBe(true);
    expect(seen?.reason).toMatchObject({ kind: "cancelled", code: "CANCELLED" });
  });

  test("with 12 MiB of output arrives whole", async () => {
    const stdout = Buffer.alloc(12 << 20, "minke");
    const session = await serve({ execSync: () => ({ stdout, stderr: Buffer.alloc(0), exitCode: 0 }) });
    const reply = await replyOf(call(session, EXEC_SYNC, framed(Buffer.alloc(0))));
    expect(reply.grpcStatus).toBe("0");
    expect(ExecSyncResponse.decode(reply.body.subarray(5)).stdout.equals(stdout)).toBe(true);
  });

  test("among a thousand at once has the answer of its own request", async () => {
    const session = await serve({ version: async ({ version: text }) => ({ ...version, version: text }) });
    const replies = await Promise.all(
      Array.from({ length: 1000 }, (_, i) =>
        replyOf(call(session, VERSION, framed(VersionRequest.encode({ version: `v${i}` }).finish()))),
      ),
    );
    const texts = replies.map(({ body }) => VersionResponse.decode(body.subarray(5)).version);
    expect(texts).toEqual(Array.from({ length: 1000 }, (_, i) => `v${i}`));
  });
});

describe("a stream", () => {
  test("waits for a peer that does not read", async () => {
    let made = 0;
    const event = Buffer.alloc(64 << 10, "x").toString();
    const session = await serve({
      getContainerEvents: async function* () {
        for (; made < 1000; made++) yield await Promise.resolve({ ...emptyEvent, containerId: event });
      },
    });
    const stream = call(session, EVENTS, framed(Buffer.alloc(0)));
    await once(stream, "response");
    // What fits into the windows and queues is far less than the 64 MB of all.
    let before = -1;
    await expect
      .poll(
        () => {
          const still = made === before;
          before = made;
          return still;
        },
        { interval: 200, timeout: 10_000 },
      )
      .toBe(true);
    expect(made).toBeLessThan(200);
    const reply = await replyOf(stream);
    expect(made).toBe(1000);
    expect(reply.body.length).toBeGreaterThan(1000 * (64 << 10));
  });

  test("ends its verb when its caller goes away", async () => {
    let hasEnded = false;
    const session = await serve({
      getContainerEvents: async function* (_, { signal }) {
        try {
          yield emptyEvent;
          await once(signal, "abort");
        } finally {
          hasEnded = true;
        }
      },
    });
    const stream = call(session, EVENTS, framed(Buffer.alloc(0)));
    await once(stream, "data");
    stream.close();
    await expect.poll(() => hasEnded).toBe(true);
  });
});

describe("closing the server", () => {
  test("lets a call under way have its answer, and takes no other", async () => {
    let answer: (() => void) | undefined;
    const session = await serve({
      version: () => new Promise<typeof version>((resolve) => (answer = () => resolve(version))),
    });
    const reply = replyOf(call(session, VERSION, asked));
    await expect.poll(() => answer).toBeDefined();
    const closed = server?.close(10_000);
    server = undefined;
    await once(session, "goaway");
    answer?.();
    expect(await reply).toMatchObject({ grpcStatus: "0" });
    await closed;
  });

  test("cuts off what has not ended in time", async () => {
    let isAsked = false;
    const session = await serve({
      version: () => {
        isAsked = true;
        return never();
      },
    });
    const reply = replyOf(call(session, VERSION, asked));
    await expect.poll(() => isAsked).toBe(true);
    await server?.close(50);
    server = undefined;
    expect((await reply).grpcStatus).toBeUndefined();
  });
});

describe("a peer", () => {
  test.each([
    ["speaks HTTP/1", "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"],
    ["speaks nonsense", "\0\x01\x02".repeat(100)],
    ["sends a frame beyond all sizes", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04\0\0\0\0\0"],
  ])("that %s is hung up on, and others are served", async (_, text) => {
    const session = await serve({ version: () => version });
    const peer: Socket = connect(socketPath);
    peer.on("error", () => undefined);
    peer.resume();
    peer.write(Buffer.from(text, "latin1"));
    await once(peer, "close");
    expect(await replyOf(call(session, VERSION, asked))).toMatchObject({ grpcStatus: "0" });
  });

  test("that asks for a page is told that this is none", async () => {
    const session = await serve({});
    const stream = session.request({ ":path": "/" });
    stream.end();
    expect(await replyOf(stream)).toMatchObject({ httpStatus: 405 });
  });
});

const emptyEvent = {
  containerId: "",
  containerEventType: 0 as const,
  createdAt: 0n,
  podSandboxStatus: undefined,
  containersStatuses: [],
};
