import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CHANNEL, encodeChannel, encodeFrame, FrameReader } from "../../../src/monitor/frames.js";

describe("FrameReader", () => {
  test("returns the frames that were encoded, however the bytes are cut", () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 40 })),
        fc.array(fc.integer({ min: 1, max: 9 })),
        (payloads, cuts) => {
          const bytes = Buffer.concat(payloads.map((payload) => encodeFrame(Buffer.from(payload))));
          const reader = new FrameReader();
          const frames: Buffer[] = [];
          for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
            const size = cuts[turn % Math.max(cuts.length, 1)] ?? 3;
            reader.push(bytes.subarray(at, at + size));
            at += size;
            for (let frame = reader.next(); frame; frame = reader.next()) frames.push(Buffer.from(frame));
          }
          expect(frames).toEqual(payloads.map((payload) => Buffer.from(payload)));
        },
      ),
    );
  });

  test("refuses a length beyond 64 MiB", () => {
    const reader = new FrameReader();
    reader.push(Buffer.from([0, 0, 0, 0x7f]));
    expect(() => reader.next()).toThrow(RangeError);
  });
});

test("encodeChannel puts the channel's number before the payload and counts it", () => {
  expect(encodeChannel(CHANNEL.close, Buffer.of(CHANNEL.stdin))).toEqual(Buffer.from([2, 0, 0, 0, 255, 0]));
});
