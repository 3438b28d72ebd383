/**
 * The daemon's root on a file system of its own that fills up: new work is refused with NO_SPACE,
 * what runs goes on and ends with its exit code, and deleting needs no space and gives it back.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { smallImage, smallLayer } from "../harness/crash/images.js";
import { codeOf, FaultDaemon, isRunning } from "../harness/fault-daemon.js";
import { missing, requires } from "../harness/requires.js";
import { SmallDisk } from "../harness/small-disk.js";

const NEEDS = ["root", "cgroup2", "overlayfs"] as const;
const lacking = missing(...NEEDS);
/** Room for the fixture images and for some pods. */
const DISK_BYTES = 48 * 1024 * 1024;

let faults: FaultDaemon | undefined;
let disk: SmallDisk | undefined;
let whyNot = "";

beforeEach(requires(...NEEDS));
beforeEach(({ skip }) => {
  if (!faults) skip(`missing: ${whyNot}`);
});
beforeAll(async () => {
  if (lacking) return;
  disk = SmallDisk.make(DISK_BYTES, (reason) => (whyNot = reason));
  if (disk) faults = await FaultDaemon.start({ folder: disk.path });
});
afterEach(async () => {
  disk?.free();
  await faults?.reset();
});
afterAll(async () => {
  await faults?.dispose();
  disk?.remove();
});

const daemon = (): FaultDaemon => {
  if (!faults) throw new Error(whyNot);
  return faults;
};

test("a pod on a full disk is refused with NO_SPACE, and accepted once there is space", async () => {
  disk?.fill();
  expect(await codeOf(daemon().create("late"))).toBe("NO_SPACE");
  expect(await daemon().find("late")).toBeUndefined();
  disk?.free();
  await daemon().run("late");
  await daemon().delete("late");
  await daemon().expectNothingLeft();
});

test("a pod that meets the end of the disk at any block is refused or waits, and runs once there is space", async () => {
  const refused: number[] = [];
  for (const blocks of [0, 2, 4, 8, 12, 16, 24, 32]) {
    disk?.fill(blocks);
    const code = await daemon()
      .create("tight")
      .then(
        () => "",
        (err: { code: string }) => err.code,
      );
    if (code !== "") refused.push(blocks);
    expect(["", "NO_SPACE"]).toContain(code);
    disk?.free();
    if (code !== "") await daemon().create("tight");
    await daemon().untilRunning("tight");
    await daemon().delete("tight");
    await daemon().expectNothingLeft();
  }
  expect(refused).toContain(0);
  expect(refused).not.toContain(32);
});

test("what runs goes on, ends with its exit code, and is shown as ended", async () => {
  await daemon().run("old", {
    restartPolicy: "Never",
    containers: [{ name: "main", script: "echo begun; trap 'exit 7' TERM; while :; do sleep 1000 & wait; done" }],
  });
  disk?.fill();
  expect(await daemon().exec("old", "echo", "there")).toEqual({ code: 0, stdout: "there\n" });
  expect(await daemon().logText("old", "main")).toBe("begun\n");
  process.kill(daemon().initOf(/exit 7/), "SIGTERM");
  const { status } = await daemon().until("old", "Failed", (pod) => pod.status.phase === "Failed");
  expect(status.containerStatuses?.[0]?.state.terminated).toMatchObject({ exitCode: 7 });
  disk?.free();
  // Written when there is space, which the monitor looks for every second: the next daemon knows it as well.
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
  disk?.fill();
  await daemon().delete("gone", 1);
  disk?.free();
  await daemon().expectNothingLeft();
});

test("a container that restarts on a full disk waits for space and then runs", async () => {
  await daemon().run("again");
  disk?.fill();
  process.kill(daemon().initOf(/trap 'exit 0' TERM/), "SIGKILL");
  await daemon().until("again", "not running", (pod) => !isRunning(pod));
  disk?.free();
  await daemon().untilRunning("again");
});

test("a daemon that is started on a full disk adopts what runs, and deletes it", async () => {
  await daemon().run("kept");
  const pid = daemon().initOf(/trap 'exit 0' TERM/);
  await daemon().killAndRestart(() => disk?.fill());
  expect(isRunning(await daemon().pod("kept"))).toBe(true);
  expect(daemon().initOf(/trap 'exit 0' TERM/)).toBe(pid);
  await daemon().delete("kept");
  disk?.free();
  await daemon().expectNothingLeft();
});

test("a container that fills the disk itself can be deleted, which frees the disk", async () => {
  await daemon().run("greedy", {
    containers: [
      { name: "main", script: "cat /dev/zero > /big; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done" },
    ],
  });
  await expect.poll(() => daemon().pidsOf(/^cat/)).toEqual([]);
  await daemon().delete("greedy");
  await daemon().run("next");
  await daemon().delete("next");
  await daemon().expectNothingLeft();
});

test("without any space an image is removed, others are pruned, a pod is deleted, and the store is whole", async () => {
  const { client } = daemon();
  const folder = mkdtempSync(join(tmpdir(), "minke-full-images-"));
  try {
    const [first, second] = ["first", "second"].map((name) =>
      smallImage(folder, `${name}.example/image:1`, [smallLayer(name, 200_000)]),
    );
    if (!first || !second) throw new Error("two images were made");
    for (const { layout } of [first, second]) await client.loadImages(layout);
    await daemon().run("old");
    // What is known of the pod is written a little later, and its former record gives a block back.
    const freeBlocks = () => {
      disk?.fill();
      return disk?.freeBlocks;
    };
    await expect.poll(freeBlocks).toBe(0);
    expect(await codeOf(client.image.remove("minke.test/busybox:1"))).toBe("IMAGE_IN_USE");
    expect(await client.image.remove(first.ref)).toMatchObject({ id: first.id, isRemoved: true });
    expect(disk?.freeBlocks).toBeGreaterThan(100);
    disk?.fill();
    const { removed } = await client.image.prune({ all: true, until: new Date(Date.now() + 60_000) });
    expect(removed.map(({ id }) => id)).toContain(second.id);
    expect((await client.images()).flatMap(({ repoTags }) => repoTags)).toEqual(["minke.test/busybox:1"]);
    disk?.fill();
    expect(await codeOf(client.loadImages(first.layout))).toBe("NO_SPACE");
    await daemon().delete("old");
    disk?.free();
    await client.loadImages(first.layout);
    for await (const { state } of client.image.verify()) expect(state).toBe("sound");
    await client.image.remove(first.ref);
    await daemon().expectNothingLeft();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
