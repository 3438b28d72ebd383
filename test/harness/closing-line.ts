/**
 * Ends a run with why each skipped test was skipped and one line, `N passed, N failed, N skipped`.
 *
 * A file that could not be loaded and an error outside of any test count as failed. With
 * MINKE_TEST_TOTALS set to a file, the counts are added to that file and the line starts
 * with `subtotal`, so that a caller of several runs prints the one closing line itself.
 */
import { appendFileSync } from "node:fs";
import type { Reporter, TestModule, TestRunEndReason } from "vitest/node";

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[], reason: TestRunEndReason): void {
    const counts: Counts = { passed: 0, failed: unhandled.length, skipped: 0 };
    const skips = new Map<string, number>();
    for (const module of modules) {
      const before = counts.failed;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state === "passed") counts.passed++;
        else if (state === "failed") counts.failed++;
        else {
          counts.skipped++;
          const why = reasonOf(test.result()) ?? "no reason given";
          skips.set(why, (skips.get(why) ?? 0) + 1);
        }
      }
      if (module.state() === "failed" && counts.failed === before) counts.failed++;
    }
    if (reason === "interrupted" && counts.failed === 0) counts.failed++;

    for (const [why, times] of [...skips].sort()) console.log(`skipped ${times}: ${why}`);
    const line = `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`;
    const totals = process.env["MINKE_TEST_TOTALS"];
    if (totals) appendFileSync(totals, `${JSON.stringify(counts)}\n`);
    // Vitest prints its own summary after reporters have run; ours has to be the last.
    process.once("exit", () => process.stdout.write(totals ? `subtotal ${line}\n` : `${line}\n`));
  }
}

function reasonOf(result: object): string | undefined {
  return "note" in result && typeof result.note === "string" ? result.note : undefined;
}
