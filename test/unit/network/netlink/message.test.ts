import { describe, expect, test } from "vitest";
import {
  attribute,
  batch,
  be16,
  be32,
  nested,
  NLM_F_DUMP,
  NLMSG_ERROR,
  parseAnswer,
  parseAttributes,
  parseMessages,
  request,
  text,
  u32,
} from "../../../../src/network/netlink/message.js";

describe("attributes", () => {
  test("carry their length without padding and are padded to four bytes", () => {
    expect(attribute(3, text("lo")).toString("hex")).toBe("070003006c6f0000");
    expect(attribute(1, Buffer.of(1, 2, 3, 4, 5)).toString("hex")).toBe("090001000102030405000000");
  });

  test("that hold others carry NLA_F_NESTED", () => {
    expect(nested(18, [attribute(1, text("veth"))]).toString("hex")).toBe("10001280090001007665746800000000");
  });

  test("are read back by type, nested flag ignored", () => {
    const parsed = parseAttributes(Buffer.concat([Buffer.alloc(4), attribute(4, u32(1500)), nested(18, [])]), 4);
    expect(parsed.get(4)?.readUInt32LE(0)).toBe(1500);
    expect(parsed.has(18)).toBe(true);
  });

  test("of an impossible length are a RangeError", () => {
    expect(() => parseAttributes(Buffer.from("02000100", "hex"))).toThrow(RangeError);
    expect(() => parseAttributes(Buffer.from("ff000100", "hex"))).toThrow(RangeError);
  });

  test("write negative numbers as two's complement", () => {
    expect(be32(-300).toString("hex")).toBe("fffffed4");
    expect(be16(8080).toString("hex")).toBe("1f90");
  });
});

describe("requests", () => {
  test("ask for an acknowledgement, dumps do not", () => {
    expect(request("RTM_GETLINK", 18, 0, []).bytes.readUInt16LE(6)).toBe(0x5);
    expect(request("RTM_GETLINK", 18, NLM_F_DUMP, []).bytes.readUInt16LE(6)).toBe(0x301);
  });

  test("of one batch are numbered in order and parsed back", () => {
    const bytes = batch([request("a", 16, 0, [Buffer.alloc(5)]), request("b", 17, 0, [])], 7);
    expect(parseMessages(bytes).map(({ type, sequence, payload }) => [type, sequence, payload.length])).toEqual([
      [16, 7, 5],
      [17, 8, 0],
    ]);
  });

  test("longer than the buffer are a RangeError", () => {
    expect(() => parseMessages(Buffer.from("ff000000".padEnd(32, "0"), "hex"))).toThrow(RangeError);
  });
});

describe("answers", () => {
  test("with errno 0 are acknowledgements", () => {
    const payload = Buffer.alloc(20);
    expect(parseAnswer({ type: NLMSG_ERROR, flags: 0x100, sequence: 1, payload })).toEqual({
      errno: 0,
      detail: undefined,
    });
  });

  test("carry the kernel's explanation behind the request's header", () => {
    const payload = Buffer.concat([u32(-22), Buffer.alloc(16), attribute(1, text("Device does not exist."))]);
    const answer = parseAnswer({ type: NLMSG_ERROR, flags: 0x300, sequence: 1, payload });
    expect(answer).toEqual({ errno: 22, detail: "Device does not exist" });
  });
});
