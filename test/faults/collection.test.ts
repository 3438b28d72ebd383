/**
 * A real daemon on a small disk, with the collection of images on: above the high threshold it
 * collects what nobody uses until it is below the low one, and what pods use stays.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { usedPercentOf } from "../../src/image/image-collector.js";
import { smallImage, smallLayer } from "../harness/crash/images.js";
import { eventually, FaultDaemon, isRunning } from "../harness/fault-daemon.js";
import { missing, requires } from "../harness/requires.js";
import { SmallDisk } from "../harness/small-disk.js";

const NEEDS = ["root", "cgroup2", "overlayfs"] as const;
const lacking = missing(...NEEDS);
const MIB = 1024 * 1024;
const DISK_MIB = 64;
const IMAGE_MIB = 4;
const HIGH = 80;
const LOW = 60;

let faults: FaultDaemon | undefined;
let disk: SmallDisk | undefined;
let folder: string;
let whyNot = "";

beforeEach(requires(...NEEDS));
beforeEach(({ skip }) => {
  if (!faults) skip(`missing: ${whyNot}`);
});
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(tmpdir(), "minke-collected-"));
  disk = SmallDisk.make(DISK_MIB * MIB, (reason) => (whyNot = reason));
  if (!disk) return;
  faults = await FaultDaemon.start({
    folder: disk.path,
    tables: `[images.collection]
high-percent = ${HIGH}
low-percent = ${LOW}
min-unused-ms = 0
interval-ms = 1000
`,
  });
});
afterAll(async () => {
  disk?.free();
  await faults?.dispose();
  disk?.remove();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const daemon = (): FaultDaemon => {
  if (!faults) throw new Error(whyNot);
  return faults;
};
const usedPercent = () => usedPercentOf(disk?.path ?? "");
const tags = async () => (await daemon().client.images()).flatMap(({ repoTags }) => repoTags);
const tagOf = (n: number) => `unused.example/image:${n}`;

interface LogLine {
  readonly msg: string;
  readonly reason?: string;
  readonly repoTags?: readonly string[];
}

const logged = (message: string): LogLine[] =>
  daemon()
    .daemon.log.split("\n")
    .filter((line) => line.includes(message))
    .map((line) => JSON.parse(line) as LogLine);

/** A layout of an image that fills so much of the disk. */
function bigLayout(n: number): string {
  return smallImage(folder, tagOf(n), [smallLayer(`big${n}`, IMAGE_MIB * MIB)]).layout;
}

test("above the high threshold the longest unused images go until the low one; a pod's image stays", async () => {
  await daemon().run("user");
  const came: string[] = [];
  const isCollected = () => logged("an unused image was collected").length > 0;
  for (let n = 0; (await usedPercent()) <= HIGH && !isCollected(); n++) {
    expect(n).toBeLessThan(DISK_MIB / IMAGE_MIB);
    await daemon().client.loadImages(bigLayout(n));
    came.push(tagOf(n));
  }
  await eventually(
    // The last image may have come while the pass went on: it is left, and a next pass has no reason to run.
    async () => isCollected() && (await usedPercent()) <= LOW + (2 * IMAGE_MIB * 100) / DISK_MIB,
    () => `the disk is still full\n${daemon().tail}`,
  );
  // The pass that freed the space may not have logged it yet.
  const collected = () => logged("an unused image was collected").flatMap(({ repoTags = [] }) => repoTags);
  await expect.poll(async () => (await tags()).length + collected().length).toBe(3 + came.length);
  const gone = collected().filter((tag) => came.includes(tag));
  // The first that came went first, and no more went than had to.
  expect(gone).toEqual(came.slice(0, gone.length));
  expect(gone.length).toBeLessThan(came.length);
  expect(logged("an unused image was collected").map(({ reason }) => reason)).toContain("threshold");
  // Where a user looks: the last pass, of those that it took.
  const last = (await daemon().client.image.usage()).lastCollection;
  expect(last?.images.length).toBeGreaterThan(0);
  for (const { repoTags, freedBytes } of last?.images ?? []) {
    expect(collected()).toEqual(expect.arrayContaining([...repoTags]));
    if (came.includes(repoTags[0] ?? "")) expect(freedBytes).toBeGreaterThanOrEqual(IMAGE_MIB * MIB);
  }
  expect(await tags()).toContain("minke.test/busybox:1");
  expect(isRunning(await daemon().pod("user"))).toBe(true);
  expect(await daemon().exec("user", "echo", "there")).toEqual({ code: 0, stdout: "there\n" });
});
