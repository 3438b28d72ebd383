/**
 * The project `vm`: `npm run test:vm`. Apart from the other projects, since `npm test` runs
 * without it. Two files at a time, of which one has the machine that global-setup.ts boots: the
 * files that share it wait for it, and those that boot machines of their own go on beside.
 */
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** The longest first; in the middle what needs no daemon's being up; then those that share one, and its end. */
const ORDER = [
  "power-cuts",
  "kernel",
  "native",
  "oci",
  "doctor",
  "pods",
  "network",
  "power-cut",
  "cri",
  "userns",
  "runtime-handlers",
  "daemon-stop",
];
const place = ({ moduleId }: TestSpecification) => ORDER.indexOf(basename(moduleId, ".test.ts"));

class InOrder extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return files.toSorted((one, other) => place(one) - place(other));
  }
}

export default defineConfig({
  root,
  test: {
    pool: "forks",
    maxWorkers: 2,
    retry: 0,
    sequence: { sequencer: InOrder },
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
