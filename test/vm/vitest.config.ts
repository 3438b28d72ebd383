/**
 * The project `vm`: `npm run test:vm`. Apart from the other projects, since `npm test` runs
 * without it. All files share the machine that global-setup.ts boots, one after another.
 */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const root = fileURLToPath(new URL("../..", import.meta.url));

export default defineConfig({
  root,
  test: {
    pool: "forks",
    maxWorkers: 1,
    fileParallelism: false,
    retry: 0,
    reporters: [["default", { summary: false }], `${root}test/harness/closing-line.ts`],
    projects: [
      {
        extends: true,
        test: {
          name: "vm",
          include: ["test/vm/**/*.test.ts"],
          globalSetup: ["test/vm/global-setup.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
