/**
 * Full metadata walks of trees, to compare what two programs made of one archive.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const WALKER = fileURLToPath(new URL("walk-tree.py", import.meta.url));

/** Lines of each tree; the first one is its root's. */
export function walkTrees(...roots: readonly string[]): string[][] {
  const { stdout, stderr, status } = spawnSync("python3", [WALKER, ...roots], { maxBuffer: 1024 ** 3 });
  if (status !== 0) throw new Error(`walk ${roots.join(", ")}: ${stderr.toString()}`);
  return stdout
    .toString()
    .split("\n\n")
    .slice(0, roots.length)
    .map((tree) => tree.trim().split("\n"));
}

/** The first lines in which two trees differ; none where they are equal. */
export function treeDifferences(a: readonly string[], b: readonly string[]): string[] {
  const inA = new Set(a);
  const inB = new Set(b);
  const only = (lines: readonly string[], others: ReadonlySet<string>, mark: string) =>
    lines.filter((line) => !others.has(line)).map((line) => `${mark} ${line}`);
  return [...only(a, inB, "-"), ...only(b, inA, "+")].slice(0, 20);
}
