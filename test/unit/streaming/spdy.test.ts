import { constants, createDeflate } from "node:zlib";
import { Duplex, PassThrough } from "node:stream";
import { describe, expect, test } from "vitest";
import { SpdyConnection, type SpdyStream } from "../../../src/streaming/spdy/connection.js";
import { DICTIONARY, DICTIONARY_ID } from "../../../src/streaming/spdy/dictionary.js";
import { dataHead, type Frame, FrameReader, ping, rstStream, synStream } from "../../../src/streaming/spdy/frames.js";
import { HeaderDecoder, HeaderEncoder } from "../../../src/streaming/spdy/header-block.js";

/** Written by github.com/moby/spdystream 0.5.1: two SYN_STREAM, DATA with FIN, PING, RST_STREAM, GOAWAY. */
const FROM_GO = Buffer.from(
  "80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff" +
    "800300010000001900000003000000000000c22ac5565c92925f5a02000000ffff" +
    "00000003010000026869" +
    "800300060000000400000001" +
    "80030003000000080000000300000005" +
    "80030007000000080000000000000000",
  "hex",
);

function adler32(bytes: Buffer): number {
  let [a, b] = [1, 0];
  for (const byte of bytes) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return b * 65536 + a;
}

describe("dictionary", () => {
  test("has the length and the Adler-32 of SPDY/3's", () => {
    expect(DICTIONARY.length).toBe(1423);
    expect(adler32(DICTIONARY)).toBe(DICTIONARY_ID);
    expect(DICTIONARY_ID).toBe(0xe3c6a7c2);
  });
});

describe("frames", () => {
  test("what Go's spdystream writes is read, whole and byte by byte", async () => {
    for (const size of [FROM_GO.length, 1, 7]) {
      const reader = new FrameReader();
      const frames: Frame[] = [];
      for (let at = 0; at < FROM_GO.length; at += size) frames.push(...reader.push(FROM_GO.subarray(at, at + size)));
      expect(frames.map(({ type }) => type)).toEqual([
        "syn-stream",
        "syn-stream",
        "data",
        "ping",
        "rst-stream",
        "go-away",
      ]);
      expect(frames[2]).toMatchObject({ streamId: 3, isLast: true, payload: Buffer.from("hi") });
      expect(frames[4]).toMatchObject({ streamId: 3, status: 5 });
      const decoder = new HeaderDecoder();
      const types = [];
      for (const frame of frames)
        if (frame.type === "syn-stream") types.push((await decoder.decode(frame.block)).get("streamtype"));
      expect(types).toEqual(["error", "stdout"]);
      decoder.close();
    }
  });

  test("a control frame of another version is refused", () => {
    expect(() => new FrameReader().push(Buffer.from("8002000600000004 00000001".replace(" ", ""), "hex"))).toThrow(
      expect.objectContaining({ code: "SPDY_PROTOCOL" }),
    );
  });

  test("a data frame over 1 MiB is refused at its head", () => {
    expect(() => new FrameReader().push(dataHead(1, false, 1024 * 1024 + 1))).toThrow(
      expect.objectContaining({ code: "SPDY_PROTOCOL" }),
    );
  });
});

describe("header blocks", () => {
  test("what we encode is a zlib stream with the dictionary that a decoder follows over many blocks", async () => {
    const encoder = new HeaderEncoder();
    const decoder = new HeaderDecoder();
    for (let i = 0; i < 5; i++) {
      const headers = new Map([
        ["name", `value ${i}`],
        ["other", "x".repeat(i * 100)],
      ]);
      expect(await decoder.decode(encoder.encode(headers))).toEqual(headers);
    }
    decoder.close();
  });

  test("an empty first block has these bytes, which Go's reader takes", () => {
    expect(new HeaderEncoder().encode(new Map()).toString("hex")).toBe("78bbe3c6a7c2000400fbff00000000000000ffff");
  });

  test("a block that inflates beyond 64 KiB is refused", async () => {
    const decoder = new HeaderDecoder();
    await expect(decoder.decode(await deflated(Buffer.alloc(1024 * 1024)))).rejects.toMatchObject({
      code: "SPDY_PROTOCOL",
    });
    decoder.close();
  });

  test("a block of another dictionary is refused", async () => {
    const decoder = new HeaderDecoder();
    await expect(decoder.decode(Buffer.from("78f900000001ffff", "hex"))).rejects.toMatchObject({
      code: "SPDY_PROTOCOL",
    });
    decoder.close();
  });
});

function deflated(bytes: Buffer): Promise<Buffer> {
  return new Promise((resolve) => {
    const deflate = createDeflate({ dictionary: DICTIONARY });
    const parts: Buffer[] = [];
    deflate.on("data", (part: Buffer) => parts.push(part));
    deflate.write(bytes);
    deflate.flush(constants.Z_SYNC_FLUSH, () => resolve(Buffer.concat(parts)));
  });
}

/** Both ends of a connection in memory. */
function pair(): [Duplex, Duplex] {
  const [a, b] = [new PassThrough(), new PassThrough()];
  const ends: [Duplex, Duplex] = [Duplex.from({ readable: a, writable: b }), Duplex.from({ readable: b, writable: a })];
  // Cutting one end off is an error to the other.
  for (const stream of [a, b, ...ends]) stream.on("error", () => undefined);
  return ends;
}

async function framesUntil(
  client: Duplex,
  reader: FrameReader,
  enough: (frames: Frame[]) => boolean,
): Promise<Frame[]> {
  const frames: Frame[] = [];
  for await (const chunk of client.iterator({ destroyOnReturn: false })) {
    frames.push(...reader.push(chunk as Buffer));
    if (enough(frames)) return frames;
  }
  return frames;
}

describe("connection", () => {
  test("a stream of the client is answered, echoed and ended on both sides", async () => {
    const [server, client] = pair();
    const seen: SpdyStream[] = [];
    const connection = new SpdyConnection(server, Buffer.alloc(0), {
      onStream: (stream) => {
        seen.push(stream);
        stream.pipe(stream);
      },
    });
    const block = new HeaderEncoder().encode(new Map([["streamType", "data"]]));
    client.write(Buffer.concat([synStream(1, false, block), dataHead(1, true, 5), Buffer.from("hello")]));
    const frames = await framesUntil(client, new FrameReader(), (all) =>
      all.some((frame) => frame.type === "data" && frame.isLast),
    );
    expect(seen[0]?.headers.get("streamtype")).toBe("data");
    expect(frames[0]).toMatchObject({ type: "syn-reply", streamId: 1 });
    const data = frames.flatMap((frame) => (frame.type === "data" ? [frame.payload] : []));
    expect(Buffer.concat(data).toString()).toBe("hello");
    expect(connection.streamCount).toBe(0);
    connection.destroy();
    await connection.closed;
  });

  test("a ping of the client comes back", async () => {
    const [server, client] = pair();
    const connection = new SpdyConnection(server, Buffer.alloc(0), { onStream: () => undefined });
    client.write(ping(7));
    expect(await framesUntil(client, new FrameReader(), (all) => all.length > 0)).toEqual([{ type: "ping", id: 7 }]);
    connection.destroy();
  });

  test("a stream that is refused is reset, and the next one served", async () => {
    const [server, client] = pair();
    const connection = new SpdyConnection(server, Buffer.alloc(0), {
      onStream: (stream) => {
        if (stream.id === 1) throw new Error("no");
      },
    });
    const encoder = new HeaderEncoder();
    client.write(
      Buffer.concat([synStream(1, false, encoder.encode(new Map())), synStream(3, false, encoder.encode(new Map()))]),
    );
    const frames = await framesUntil(client, new FrameReader(), (all) => all.length >= 2);
    expect(frames.map(({ type }) => type)).toEqual(["rst-stream", "syn-reply"]);
    connection.destroy();
  });

  test("a peer's reset destroys the stream and sends none back", async () => {
    const [server, client] = pair();
    const closed = new Promise<void>((resolve) => {
      const connection = new SpdyConnection(server, Buffer.alloc(0), {
        onStream: (stream) => stream.once("close", () => (resolve(), connection.destroy())),
      });
    });
    client.write(Buffer.concat([synStream(1, false, new HeaderEncoder().encode(new Map())), rstStream(1, 5)]));
    await closed;
  });

  test("a large write is cut into frames of 32 KiB and arrives whole", async () => {
    const [server, client] = pair();
    const bytes = Buffer.alloc(300_001, "x");
    const connection = new SpdyConnection(server, Buffer.alloc(0), { onStream: (stream) => stream.end(bytes) });
    client.write(synStream(1, false, new HeaderEncoder().encode(new Map())));
    const frames = await framesUntil(client, new FrameReader(), (all) =>
      all.some((frame) => frame.type === "data" && frame.isLast),
    );
    const payloads = frames.flatMap((frame) => (frame.type === "data" ? [frame.payload] : []));
    expect(Math.max(...payloads.map((payload) => payload.length))).toBe(32 * 1024);
    expect(Buffer.concat(payloads).equals(bytes)).toBe(true);
    connection.destroy();
  });

  test("a client that does not speak SPDY is cut off", async () => {
    const [server, client] = pair();
    const connection = new SpdyConnection(server, Buffer.alloc(0), { onStream: () => undefined });
    client.write("GET / HTTP/1.1\r\n\r\n\x80\x99\x99\x99\x99\x99\x99\x99\x99".repeat(100_000));
    await connection.closed;
  });
});
