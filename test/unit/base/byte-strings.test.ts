import fc from "fast-check";
import { expect, test } from "vitest";
import { fromByteString, jsonToBytes, toByteString } from "../../../src/base/byte-strings.js";

test("toByteString of UTF-8 is the text", () => {
  expect(toByteString(Buffer.from("žluťoučký 🐳"))).toBe("žluťoučký 🐳");
});

test("toByteString of a stray byte is a lone surrogate", () => {
  expect(toByteString(Buffer.from([0x61, 0xff, 0xc3]))).toBe("a\udcff\udcc3");
});

test("fromByteString gives back any bytes, also through JSON", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      const text: string = JSON.parse(JSON.stringify(toByteString(bytes)));
      expect(fromByteString(text)).toEqual(Buffer.from(bytes));
    }),
  );
});

test("jsonToBytes writes the bytes and leaves escapes that only look like them", () => {
  const json = JSON.stringify({ env: ["A=\udcff", "B=\\udcff", 'C="\n'] });
  expect(jsonToBytes(json)).toEqual(
    Buffer.concat([Buffer.from('{"env":["A='), Buffer.from([0xff]), Buffer.from('","B=\\\\udcff","C=\\"\\n"]}')]),
  );
});
