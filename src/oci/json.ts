/**
 * JSON of a spec: like JSON.stringify and JSON.parse, but a bigint is written as the number that it is,
 * and a number beyond 2^53 is read as one.
 *
 * Limits of 2^64-1 (RLIM_INFINITY, seccomp values) do not fit a JavaScript number, and
 * would reach another runtime as 18446744073709552000.
 */
import { randomBytes } from "node:crypto";

/** @param indent spaces per level; 0: one line */
export function specToJson(spec: object, indent = 0): string {
  try {
    return JSON.stringify(spec, undefined, indent);
  } catch (err) {
    // One of its numbers is a bigint, as few specs have: a function asked for each value takes three times as long.
    if (!(err instanceof TypeError)) throw err;
    return bigSpecToJson(spec, indent);
  }
}

function bigSpecToJson(spec: object, indent: number): string {
  // A mark that no string of the spec can contain by chance or by intent.
  const mark = `bigint-${randomBytes(16).toString("hex")}:`;
  let marked = false;
  const text = JSON.stringify(
    spec,
    (_key, value: unknown) => {
      if (typeof value !== "bigint") return value;
      marked = true;
      return `${mark}${value}`;
    },
    indent,
  );
  return marked ? text.replace(new RegExp(`"${mark}(-?\\d+)"`, "g"), "$1") : text;
}

/** A whole string of JSON, or an integer of 16 digits or more. */
const STRING_OR_LONG_INTEGER = /"(?:[^"\\]|\\.)*"|-?\d{16,}(?![\d.eE])/g;

/** The counterpart of `specToJson`. @throws SyntaxError for what is no JSON */
export function parseSpecJson(text: string): unknown {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  const mark = `bigint-${randomBytes(16).toString("hex")}:`;
  const marked = text.replace(STRING_OR_LONG_INTEGER, (found) => {
    if (found.startsWith('"') || Number.isSafeInteger(Number(found))) return found;
    return `"${mark}${found}"`;
  });
  return JSON.parse(marked, (_key, value: unknown) =>
    typeof value === "string" && value.startsWith(mark) ? BigInt(value.slice(mark.length)) : value,
  );
}
