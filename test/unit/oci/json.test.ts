/** specToJson: exact 64-bit numbers, and nothing else changed. */
import { expect, test } from "vitest";
import { RUNTIME_SPEC_VERSION, specToJson, type Spec } from "../../../src/oci/index.js";
import { parseSpecJson } from "../../../src/oci/json.js";

const RLIM_INFINITY = 2n ** 64n - 1n;

test("specToJson writes RLIM_INFINITY as 18446744073709551615", () => {
  const spec: Spec = {
    ociVersion: RUNTIME_SPEC_VERSION,
    process: {
      user: { uid: 0, gid: 0 },
      cwd: "/",
      rlimits: [{ type: "RLIMIT_CORE", hard: RLIM_INFINITY, soft: 0 }],
    },
  };
  expect(specToJson(spec)).toContain('"hard":18446744073709551615,"soft":0');
});

test("specToJson leaves strings that look like marked numbers alone", () => {
  const spec = { limit: 5n, env: ['"bigint-00:7"', "bigint-00:7", "5n"] };
  expect(JSON.parse(specToJson(spec))).toEqual({ limit: 5, env: ['"bigint-00:7"', "bigint-00:7", "5n"] });
});

test("specToJson without bigint equals JSON.stringify", () => {
  const spec = { ociVersion: "1.3.0", annotations: { a: "b" }, hostname: undefined };
  expect(specToJson(spec, 2)).toBe(JSON.stringify(spec, undefined, 2));
});

test("parseSpecJson reads what specToJson wrote: long integers exactly, strings of digits as strings", () => {
  const spec = {
    hard: RLIM_INFINITY,
    soft: 1024,
    env: ["A=18446744073709551615", '"18446744073709551615\\'],
    low: -(5n ** 25n),
  };
  expect(parseSpecJson(specToJson(spec))).toEqual(spec);
});
