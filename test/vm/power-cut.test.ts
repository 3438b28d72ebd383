/** A machine of its own with a disk: what the power-cut tests of the image store stand on. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { bootVm } from "./machine/boot.js";
import { makeDisk } from "./machine/disk.js";

const folder = mkdtempSync(join(tmpdir(), "minke-vm-disk-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("over a power cut a disk keeps what was synced and loses what was not", { timeout: 240_000 }, async () => {
  const disk = makeDisk(join(folder, "disk"), 256);
  const first = await bootVm({ disk, name: "power-cut", memoryMiB: 1024 });
  await first.output("cd /var/lib/minke && echo kept >synced && sync && echo lost >unsynced");
  await first.powerCut();
  expect(() => process.kill(first.address.pid, 0)).toThrow(/ESRCH/);

  const second = await bootVm({ disk, name: "power-cut", memoryMiB: 1024 });
  const { stdout } = await second.run("cd /var/lib/minke && cat synced; cat unsynced");
  await second.kill();
  expect(stdout).toBe("kept\n");
});
