/** Words and columns of the command's tables. */
import { expect, test } from "vitest";
import { age, bytes, counted } from "../../../src/cli/table.js";

const NOW = Date.parse("2026-01-31T00:00:00Z");

test.each([
  ["2026-01-31T00:00:00Z", "0s"],
  ["2026-01-30T23:56:48Z", "3m12s"],
  ["2026-01-29T00:00:00Z", "2d"],
  ["2025-02-01T00:00:00Z", "364d"],
  ["2024-12-22T00:00:00Z", "1y40d"],
  ["1970-01-01T00:00:00Z", "56y"],
  ["2027-01-01T00:00:00Z", "0s"],
])("age since %s is %s", (since, expected) => {
  expect(age(since, NOW)).toBe(expected);
});

test.each([
  [0, "0 images"],
  [1, "1 image"],
  [2, "2 images"],
])("counted %d is %s", (count, expected) => {
  expect(counted(count, "image")).toBe(expected);
});

test.each([
  [0, "0 B"],
  [1023, "1023 B"],
  [1536, "1.5 KiB"],
  [12 * 1024 ** 2, "12 MiB"],
  [3 * 1024 ** 5, "3072 TiB"],
])("bytes %d is %s", (count, expected) => {
  expect(bytes(count)).toBe(expected);
});
