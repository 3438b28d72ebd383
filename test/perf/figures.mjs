/** How benchmarks tell their figures: medians of interleaved runs, since the machine is shared. */
import { availableParallelism, release } from "node:os";

/** @param {readonly number[]} list @param {number} share 0 to 1 @returns {number} */
export function quantile(list, share) {
  const sorted = list.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

/** @param {readonly number[]} list */
export const median = (list) => quantile(list, 0.5);

/** @param {string} what such as "50 runs, in ms" */
export function heading(what) {
  return `kernel ${release()}, ${availableParallelism()} CPUs, Node ${process.version}, ${what}`;
}

/**
 * A row of a table: a name and columns to the right.
 *
 * @param {string} name @param {readonly (number | string)[]} columns numbers get two decimals
 */
export function row(name, columns) {
  const cells = columns.map((each) => (typeof each === "number" ? each.toFixed(2) : each).padStart(11));
  return name.padEnd(28) + cells.join("");
}
