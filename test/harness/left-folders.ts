/**
 * Set up before every test file of unit and native: fails a file that leaves a folder of its own behind in the
 * temporary directory. It counts what this very process made, so runs side by side do not see one another.
 */
import fs, { existsSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";

const made = new Set<string>();

function noted(path: string): string {
  if (path.startsWith(join(tmpdir(), "minke-"))) made.add(path);
  return path;
}

const { mkdtempSync } = fs;
const { mkdtemp } = fs.promises;
fs.mkdtempSync = ((...args: Parameters<typeof mkdtempSync>) => noted(mkdtempSync(...args))) as typeof mkdtempSync;
fs.promises.mkdtemp = (async (...args: Parameters<typeof mkdtemp>) => noted(await mkdtemp(...args))) as typeof mkdtemp;
syncBuiltinESMExports();

// Hooks run in reverse order: after those of the file.
afterAll(() => {
  const left = [...made].filter((path) => existsSync(path));
  if (left.length > 0) throw new Error(`left behind in the temporary directory: ${left.join(", ")}`);
});
