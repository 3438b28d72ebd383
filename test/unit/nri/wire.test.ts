/** What goes over an NRI socket, byte by byte, and what is not taken for it. */
import { createConnection, createServer, type Socket } from "node:net";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { RuntimeError } from "../../../src/base/errors.js";
import { ByteQueue, MAX_PAYLOAD_BYTES, Multiplex } from "../../../src/nri/multiplex.js";
import { CallRefused, STATUS, TtrpcClient, TtrpcServer } from "../../../src/nri/ttrpc.js";

let folder: string;
let ours: Socket;
let theirs: Socket;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "minke-nri-wire-"));
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(join(folder, "s"), resolve));
  const accepted = new Promise<Socket>((resolve) => server.once("connection", resolve));
  theirs = createConnection(join(folder, "s"));
  ours = await accepted;
  server.close();
});
afterEach(() => {
  ours.destroy();
  theirs.destroy();
  rmSync(folder, { recursive: true, force: true });
});

function multiplex(socket: Socket) {
  const payloads: { connection: number; payload: Buffer }[] = [];
  let settle: (reason: RuntimeError | undefined) => void = () => undefined;
  const closed = new Promise<RuntimeError | undefined>((resolve) => {
    settle = resolve;
  });
  const made = new Multiplex(socket, {
    onPayload: (connection, payload) => payloads.push({ connection, payload: Buffer.from(payload) }),
    onClose: settle,
  });
  return { made, payloads, closed };
}

describe("Multiplex", () => {
  test("of a socket that has closed already is closed", async () => {
    const gone = new Promise((resolve) => theirs.once("close", resolve));
    theirs.destroy();
    await gone;
    expect(await multiplex(theirs).closed).toBeUndefined();
  });

  test("sends the number of the connection and the length before each payload, big-endian", async () => {
    const received = new Promise<Buffer>((resolve) => theirs.once("data", resolve));
    multiplex(ours).made.send(2, Buffer.from("abc"));
    expect((await received).toString("hex")).toBe("0000000200000003616263");
  });

  test("sends a long message as a first frame of 4096 bytes and one of the rest", async () => {
    const { payloads } = multiplex(theirs);
    const message = Buffer.alloc(300_000, "x");
    multiplex(ours).made.send(1, message);
    await expect.poll(() => payloads.map(({ payload }) => payload.length)).toEqual([4096, 300_000 - 4096]);
  });

  test("puts frames together that come byte by byte", async () => {
    const { payloads } = multiplex(ours);
    for (const byte of Buffer.from("00000001000000026869000000020000000131", "hex")) theirs.write(Buffer.from([byte]));
    await expect
      .poll(() => payloads.map(({ connection, payload }) => `${connection} ${payload}`))
      .toEqual(["1 hi", "2 1"]);
  });

  test("closes at a frame that is longer than any can be, and says NRI_PLUGIN_FAILED", async () => {
    const { closed } = multiplex(ours);
    const header = Buffer.alloc(8);
    header.writeUInt32BE(MAX_PAYLOAD_BYTES + 1, 4);
    theirs.write(header);
    expect(await closed).toMatchObject({ code: "NRI_PLUGIN_FAILED" });
  });

  test("tells an end between frames from one within a frame", async () => {
    const { closed } = multiplex(ours);
    theirs.end(Buffer.from("0000", "hex"));
    expect(await closed).toMatchObject({ code: "NRI_PLUGIN_FAILED" });
  });
});

test("ByteQueue takes nothing until there is enough, and every byte once", () => {
  const queue = new ByteQueue();
  queue.push(Buffer.from("ab"));
  expect(queue.take(3)).toBeUndefined();
  queue.push(Buffer.from("cde"));
  expect(queue.take(3)?.toString()).toBe("abc");
  expect(queue.length).toBe(2);
  expect(queue.take(2)?.toString()).toBe("de");
});

describe("ttrpc", () => {
  function pair(methods: ConstructorParameters<typeof TtrpcServer>[1]) {
    const client: TtrpcClient = new TtrpcClient("service", (message) => server.take(message));
    const server: TtrpcServer = new TtrpcServer("service", methods, (message) => client.take(message));
    return { client, server };
  }

  test("carries a call on an odd stream with length, type 1 and no flags", () => {
    const sent: Buffer[] = [];
    const client = new TtrpcClient("s", (message) => sent.push(message));
    void client.call("m", Buffer.from("p"), 1000).catch(() => undefined);
    void client.call("m", Buffer.from("p"), 1000).catch(() => undefined);
    expect(sent[0]?.subarray(0, 10).toString("hex")).toBe("0000000f000000010100");
    // Fields 1 to 3: service, method, payload.
    expect(sent[0]?.subarray(10, 19).toString("hex")).toBe("0a017312016d1a0170");
    expect(sent[1]?.readUInt32BE(4)).toBe(3);
  });

  test("answers with the payload, and refuses with the status of the method's error", async () => {
    const { client } = pair({
      echo: async (payload) => payload,
      refuse: async () => {
        throw new CallRefused(7, "no");
      },
    });
    expect(await client.call("echo", Buffer.from("x"), 1000)).toEqual(Buffer.from("x"));
    await expect(client.call("refuse", Buffer.alloc(0), 1000)).rejects.toMatchObject({ status: 7, message: "no" });
    await expect(client.call("toString", Buffer.alloc(0), 1000)).rejects.toMatchObject({
      status: STATUS.unimplemented,
    });
  });

  test("times a call out, and takes the answer that comes too late for nobody's", async () => {
    let answer: (payload: Uint8Array) => void = () => undefined;
    const { client } = pair({ late: () => new Promise<Uint8Array>((resolve) => (answer = resolve)) });
    await expect(client.call("late", Buffer.alloc(0), 20)).rejects.toMatchObject({ code: "NRI_PLUGIN_TIMEOUT" });
    answer(Buffer.from("x"));
    await expect(client.call("none", Buffer.alloc(0), 1000)).rejects.toMatchObject({ status: STATUS.unimplemented });
  });

  test("refuses to send a message of more than 4 MiB", async () => {
    const { client } = pair({});
    await expect(client.call("m", Buffer.alloc(4 * 1024 * 1024), 1000)).rejects.toMatchObject({
      kind: "resource-exhausted",
    });
  });

  test.each([
    ["a length beyond 4 MiB", "00500000000000010100"],
    ["an answer where a request belongs", "00000000000000010200"],
    ["a stream that is even", "00000000000000020100"],
    ["a request that is no protobuf", "00000001000000010100ff"],
  ])("takes %s for the end of the connection", (_what, hex) => {
    const { server } = pair({});
    expect(() => server.take(Buffer.from(hex, "hex"))).toThrowError(
      expect.objectContaining({ code: "NRI_PLUGIN_FAILED" }),
    );
  });
});
