/**
 * JSON of a spec: like JSON.stringify, but a bigint is written as the number that it is.
 *
 * Limits of 2^64-1 (RLIM_INFINITY, seccomp values) do not fit a JavaScript number, and
 * would reach another runtime as 18446744073709552000.
 */
import { randomBytes } from "node:crypto";

/** @param indent spaces per level; 0: one line */
export function specToJson(spec: object, indent = 0): string {
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
