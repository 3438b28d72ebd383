// @ts-check
/**
 * critest's JSON report, and how it compares with what is expected.
 */
import { readFileSync } from "node:fs";

/** @typedef {{ name: string, state: "passed" | "failed" | "skipped", message: string }} Spec */

/** @param {string} file @returns {Spec[]} */
export function readReport(file) {
  return parseReport(readFileSync(file, "utf8"));
}

/** @param {string} text @returns {Spec[]} */
export function parseReport(text) {
  const suites = JSON.parse(text);
  /** @type {Spec[]} */
  const specs = [];
  for (const report of suites[0].SpecReports ?? []) {
    if (report.LeafNodeType !== "It") continue;
    const name = [...(report.ContainerHierarchyTexts ?? []), report.LeafNodeText].join(" ").replaceAll("[k8s.io] ", "");
    const state =
      report.State === "passed"
        ? "passed"
        : report.State === "skipped" || report.State === "pending"
          ? "skipped"
          : "failed";
    specs.push({ name, state, message: (report.Failure?.Message ?? "").trim() });
  }
  return specs;
}

/**
 * Prints what matters and answers the exit code.
 *
 * @param {readonly Spec[]} specs
 * @param {string} expectedFile `{failed: {name: reason}, skipped: {name: reason}}`
 * @param {boolean} isWhole false: some specs were not run, and their absence says nothing
 */
export function compareWithExpected(specs, expectedFile, isWhole) {
  /** @type {Record<"failed" | "skipped", Record<string, string>>} */
  const expected = JSON.parse(readFileSync(expectedFile, "utf8"));
  const of = (/** @type {Spec["state"]} */ state) => specs.filter((spec) => spec.state === state);
  let surprises = 0;
  for (const { name, message } of of("failed")) {
    const reason = expected.failed[name];
    if (reason === undefined) surprises++;
    console.log(
      `${reason === undefined ? "FAILED" : "failed, as expected"}: ${name}\n    ${reason ?? message.split("\n").slice(0, 6).join("\n    ")}`,
    );
  }
  for (const { name } of specs.filter(({ state }) => state === "passed")) {
    if (expected.failed[name] === undefined && expected.skipped[name] === undefined) continue;
    surprises++;
    console.log(`PASSED, and is listed as not passing: ${name}`);
  }
  if (isWhole) {
    for (const { name, message } of of("skipped")) {
      if (expected.skipped[name] !== undefined) continue;
      surprises++;
      console.log(`SKIPPED, and is not listed: ${name}\n    ${message}`);
    }
    const run = new Set(specs.map(({ name }) => name));
    for (const name of [...Object.keys(expected.failed), ...Object.keys(expected.skipped)]) {
      if (run.has(name)) continue;
      surprises++;
      console.log(`LISTED, and no spec of critest: ${name}`);
    }
  }
  console.log(`${of("passed").length} passed, ${of("failed").length} failed, ${of("skipped").length} skipped`);
  return surprises === 0 ? 0 : 1;
}
