/**
 * The daemon's root on a file system of its own that fills up: new work is refused with NO_SPACE,
 * what runs goes on and ends with its exit code, and deleting needs no space and gives it back.
 */
import { spawnSync } from "node:child_process";
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, truncateSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { codeOf, FaultDaemon, isRunning } from "../harness/fault-daemon.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "cgroup2", "overlayfs"] as const;
const lacking = missing(...NEEDS);
/** Room for the fixture images and for some pods. */
const DISK_BYTES = 48 * 1024 * 1024;

let faults: FaultDaemon | undefined;
let disk: string | undefined;
let whyNot = "";

beforeEach(requires(...NEEDS));
beforeEach(({ skip }) => {
  if (!faults) skip(`missing: ${whyNot}`);
});
beforeAll(async () => {
  if (lacking) return;
  disk = makeDisk();
  if (disk) faults = await FaultDaemon.start({ folder: join(disk, "mount") });
});
afterEach(async () => {
  free();
  await faults?.reset();
});
afterAll(async () => {
  await faults?.dispose();
  if (disk) removeDisk(disk);
});

const daemon = (): FaultDaemon => {
  if (!faults) throw new Error(whyNot);
  return faults;
};

test("a pod on a full disk is refused with NO_SPACE, and accepted once there is space", async () => {
  fill();
  expect(await codeOf(daemon().create("late"))).toBe("NO_SPACE");
  expect(await daemon().find("late")).toBeUndefined();
  free();
  await daemon().run("late");
  await daemon().delete("late");
  await daemon().expectNothingLeft();
});

test("what runs goes on, ends with its exit code, and is shown as ended", async () => {
  await daemon().run("old", {
    restartPolicy: "Never",
    containers: [{ name: "main", script: "echo begun; trap 'exit 7' TERM; while :; do sleep 1000 & wait; done" }],
  });
  fill();
  expect(await daemon().exec("old", "echo", "there")).toEqual({ code: 0, stdout: "there\n" });
  expect(await daemon().logText("old", "main")).toBe("begun\n");
  process.kill(daemon().initOf(/exit 7/), "SIGTERM");
  const { status } = await daemon().until("old", "Failed", (pod) => pod.status.phase === "Failed");
  expect(status.containerStatuses?.[0]?.state.terminated).toMatchObject({ exitCode: 7 });
  free();
  // Written as soon as there is space: the next daemon knows it as well.
  await expect.poll(() => daemon().exitFiles(), { timeout: 10_000 }).toHaveLength(1);
  await daemon().killAndRestart();
  expect((await daemon().pod("old")).status).toMatchObject({
    phase: "Failed",
    containerStatuses: [{ state: { terminated: { exitCode: 7 } } }],
  });
});

test("a pod is deleted without any space, and nothing is left of it", async () => {
  await daemon().run("gone", {
    containers: [
      { name: "main", script: "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done", mounts: { kept: "/kept" } },
    ],
    volumes: [{ name: "kept", emptyDir: {} }],
  });
  fill();
  await daemon().delete("gone", 1);
  free();
  await daemon().expectNothingLeft();
});

test("a container that restarts on a full disk waits for space and then runs", async () => {
  await daemon().run("again");
  fill();
  process.kill(daemon().initOf(/trap 'exit 0' TERM/), "SIGKILL");
  await daemon().until("again", "not running", (pod) => !isRunning(pod));
  free();
  await daemon().untilRunning("again");
});

test("a daemon that is started on a full disk adopts what runs, and deletes it", async () => {
  await daemon().run("kept");
  const pid = daemon().initOf(/trap 'exit 0' TERM/);
  await daemon().killAndRestart(() => fill());
  expect(isRunning(await daemon().pod("kept"))).toBe(true);
  expect(daemon().initOf(/trap 'exit 0' TERM/)).toBe(pid);
  await daemon().delete("kept");
  free();
  await daemon().expectNothingLeft();
});

test("a container that fills the disk itself can be deleted, which frees the disk", async () => {
  await daemon().run("greedy", {
    containers: [
      { name: "main", script: "cat /dev/zero > /big; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done" },
    ],
  });
  await expect.poll(() => daemon().pidsOf(/^cat/), { timeout: 20_000 }).toEqual([]);
  await daemon().delete("greedy");
  await daemon().run("next");
  await daemon().delete("next");
  await daemon().expectNothingLeft();
});

/** A small ext4 in a file, mounted by a loop device; `undefined` where this machine has none. */
function makeDisk(): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), "minke-disk-"));
  const image = join(folder, "image");
  mkdirSync(join(folder, "mount"));
  closeSync(openSync(image, "w"));
  truncateSync(image, DISK_BYTES);
  // No blocks kept for root, which is what the daemon is.
  for (const [command, ...args] of [
    ["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image],
    ["mount", "-o", "loop", image, join(folder, "mount")],
  ] as const) {
    const { status, stderr, error } = spawnSync(command, args, { encoding: "utf8" });
    if (status === 0) continue;
    whyNot = `a loop-mounted ext4: ${command}: ${error?.message ?? stderr}`;
    rmSync(folder, { recursive: true });
    return undefined;
  }
  return folder;
}

function removeDisk(folder: string): void {
  const { status, stderr } = spawnSync("umount", [join(folder, "mount")], { encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
  rmSync(folder, { recursive: true });
}

const filler = (): string => join(disk ?? "", "mount", "filler");

/** Writes until not one block is free. */
function fill(): void {
  const file = openSync(filler(), "a");
  try {
    for (let size = 1024 * 1024; size >= 512; ) {
      try {
        writeSync(file, Buffer.alloc(size));
      } catch (err) {
        if ((err as NodeJS.ErrnoException).code !== "ENOSPC") throw err;
        size /= 2;
      }
    }
  } finally {
    closeSync(file);
  }
}

function free(): void {
  if (disk) rmSync(filler(), { force: true });
}
