/** The /dev/shm of a sandbox where the kernel wants it attached. Needs root. */
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import type { SandboxId } from "../../src/base/ids.js";
import { mountTmpfs } from "../../src/native/index.js";
import type { RuntimeContext } from "../../src/runtime/context.js";
import { removeShm } from "../../src/runtime/shm.js";
import { requires } from "../harness/requires.js";

beforeEach(requires("root"));

test("removeShm by several callers at once takes the mount away and fails for none", async () => {
  const folder = mkdtempSync(join(tmpdir(), "minke-shm-test-"));
  const path = join(folder, "shm");
  const ctx = { paths: { sandboxShm: () => path } } as unknown as RuntimeContext;
  const id = "0".repeat(64) as SandboxId;
  try {
    // Each order of the callers' steps is met now and then.
    for (let round = 0; round < 500; round++) {
      mkdirSync(path);
      await mountTmpfs(path, { sizeBytes: 4096, mode: 0o1777 });
      await Promise.all(Array.from({ length: 4 }, () => removeShm(ctx, id)));
      expect(existsSync(path)).toBe(false);
    }
    await removeShm(ctx, id);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
