/**
 * Ends a run with why each skipped test was skipped and one line, `N passed, N failed, N skipped`.
 *
 * A file that could not be loaded and an error outside of any test count as failed. With
 * MINKE_TEST_TOTALS set to a file, the counts and what failed are added to that file and the line
 * starts with `subtotal`, so that a caller of several runs prints the one closing line itself.
 */
import { appendFileSync } from "node:fs";
import type { Reporter, TestModule, TestRunEndReason } from "vitest/node";

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

const MAX_ERROR_CHARACTERS = 3000;

export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[], reason: TestRunEndReason): void {
    const counts: Counts = { passed: 0, failed: unhandled.length, skipped: 0 };
    const skips = new Map<string, number>();
    const failures = unhandled.map((err) => `outside of a test: ${described([err])}`);
    for (const module of modules) {
      const before = counts.failed;
      for (const test of module.children.allTests()) {
        const { state, errors } = test.result();
        if (state === "passed") counts.passed++;
        else if (state === "failed") {
          counts.failed++;
          failures.push(`${module.relativeModuleId} > ${test.fullName}\n${described(errors ?? [])}`);
        } else {
          counts.skipped++;
          const why = reasonOf(test.result()) ?? "no reason given";
          skips.set(why, (skips.get(why) ?? 0) + 1);
        }
      }
      if (module.state() === "failed" && counts.failed === before) counts.failed++;
      const ofFile = [...module.errors(), ...[...module.children.allSuites()].flatMap((suite) => suite.errors())];
      if (ofFile.length > 0) failures.push(`${module.relativeModuleId}\n${described(ofFile)}`);
    }
    if (reason === "interrupted" && counts.failed === 0) counts.failed++;

    for (const [why, times] of [...skips].sort()) console.log(`skipped ${times}: ${why}`);
    const line = `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`;
    const totals = process.env["MINKE_TEST_TOTALS"];
    if (totals) appendFileSync(totals, `${JSON.stringify({ ...counts, failures })}\n`);
    // Vitest prints its own summary after reporters have run; ours has to be the last.
    process.once("exit", () => process.stdout.write(totals ? `subtotal ${line}\n` : `${line}\n`));
  }
}

function reasonOf(result: object): string | undefined {
  return "note" in result && typeof result.note === "string" ? result.note : undefined;
}

/** Errors with our own frames of their stacks, of bounded length each. */
function described(errors: readonly unknown[]): string {
  return errors
    .map((err) => {
      const { message = String(err), stack = "" } = (err ?? {}) as { message?: string; stack?: string };
      const frames = stack.split("\n").filter((line) => /^ +at /.test(line) && !line.includes("node_modules"));
      return [message, ...frames].join("\n").slice(0, MAX_ERROR_CHARACTERS);
    })
    .join("\n");
}
