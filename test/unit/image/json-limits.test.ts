import { expect, test } from "vitest";
import { parseJson } from "../../../src/image/image-documents.js";
import { beyondJsonLimits } from "../../../src/image/json-limits.js";

const MIB = 1024 * 1024;
const padded = (text: string) => Buffer.from(`${text.slice(0, -1)},"pad":"${"x".repeat(64 * 1024)}"}`);
const nested = (depth: number) => `{"a":${"[".repeat(depth)}${"]".repeat(depth)}}`;
const list = (count: number) => JSON.stringify({ a: Array.from({ length: count }, () => 1) });

test.each<[string, Buffer, string | undefined]>([
  ["63 levels below the first", padded(nested(63)), undefined],
  ["64 levels below the first", padded(nested(64)), "is nested deeper than 64"],
  ["four megabytes of brackets", Buffer.from(nested(2 * MIB - 100)), "is nested deeper than 64"],
  ["49,000 values", padded(list(49_000)), undefined],
  ["51,000 values", padded(list(51_000)), "has more than 50000 values"],
  ["brackets and commas in a string", padded(JSON.stringify({ a: '[{,\\"'.repeat(100_000) })), undefined],
  ["a text too small to matter", Buffer.from(nested(10_000)), undefined],
])("beyondJsonLimits of %s is right", (_, bytes, expected) => {
  expect(beyondJsonLimits(bytes)).toBe(expected);
});

test("an index of a thousand entries and a config of 500 layers are within the limits", () => {
  const digest = `sha256:${"a".repeat(64)}`;
  const platform = { os: "linux", architecture: "arm64", variant: "v8", "os.version": "1", "os.features": ["a", "b"] };
  const annotations = Object.fromEntries(Array.from({ length: 8 }, (__, i) => [`annotation.${i}`, "x"]));
  const entry = { mediaType: "m", digest, size: 5, platform, annotations };
  const index = { schemaVersion: 2, manifests: Array.from({ length: 1000 }, () => entry) };
  expect(beyondJsonLimits(Buffer.from(JSON.stringify(index)))).toBeUndefined();
  const step = { created: "2020-01-01T00:00:00Z", created_by: "x", comment: "y", author: "z", empty_layer: false };
  const config = {
    history: Array.from({ length: 2000 }, () => step),
    diff_ids: Array.from({ length: 500 }, () => digest),
  };
  expect(beyondJsonLimits(Buffer.from(JSON.stringify(config)))).toBeUndefined();
});

test("parseJson refuses what is beyond the limits before it parses", () => {
  expect(() => parseJson(Buffer.from(nested(MIB)), 4 * MIB, "minke.test/a:1", "manifest")).toThrow(
    expect.objectContaining({ kind: "data-loss", code: "IMAGE_MALFORMED" }) as Error,
  );
});
