/**
 * A disk that is full at each block that an image needs, one after another: the pull says NO_SPACE
 * and gives back what it took, what was there stays whole, and removing needs no space.
 */
import { execFileSync } from "node:child_process";
import { createReadStream, createWriteStream, mkdirSync, mkdtempSync, rmSync, unlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { ImageStore } from "../../src/image/image-store.js";
import type { VerifiedPart } from "../../src/image/image-verify.js";
import { Paths } from "../../src/settings/paths.js";
import { FileStore } from "../../src/state/store.js";
import { type SmallImage, smallImage, smallLayer } from "../harness/crash/images.js";
import { examine, PLATFORM, treesOf } from "../harness/crash/store-check.js";
import { codeOf } from "../harness/fault-daemon.js";
import { missing, requires } from "../harness/requires.js";
import { SmallDisk } from "../harness/small-disk.js";

const NEEDS = ["root"] as const;
const lacking = missing(...NEEDS);
const LAYER_FILE_BYTES = 20_000;

let folder: string;
let kept: SmallImage;
let coming: SmallImage;
let moved: SmallImage;
let disk: SmallDisk | undefined;
let whyNot = "";
let root: string;
let store: ImageStore;
let trees: Map<string, readonly string[]>;

const onDisk = (): SmallDisk => {
  if (!disk) throw new Error(whyNot);
  return disk;
};

beforeEach(requires(...NEEDS));
beforeEach(({ skip }) => {
  if (!disk) skip(`missing: ${whyNot}`);
});
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(tmpdir(), "minke-full-images-"));
  const [base, own, other] = ["base", "own", "other"].map((name) => smallLayer(name, LAYER_FILE_BYTES));
  if (!base || !own || !other) throw new Error("three layers were made");
  kept = smallImage(folder, "kept.example/image:1", [base]);
  coming = smallImage(folder, "coming.example/image:1", [base, own]);
  moved = smallImage(folder, "coming.example/image:1", [base, own, other]);
  disk = SmallDisk.make(8 * 1024 * 1024, (reason) => (whyNot = reason));
  if (!disk) return;
  root = join(disk.path, "root");
  mkdirSync(root, { mode: 0o700 });
  store = await ImageStore.open(new Paths(root, `${root}-run`), { platform: PLATFORM });
  for (const image of [kept, moved]) await store.loadLayout(image.layout);
  trees = treesOf(root);
  await store.remove(moved.id);
});
afterEach(async () => {
  disk?.free();
  await store?.remove(coming.ref);
});
afterAll(async () => {
  await store?.close();
  disk?.remove();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const codeOfError = (err: { code: string }): string => err.code;

/** The images that are there and no other, whole, nothing beside them. */
async function expectWhole(...images: readonly SmallImage[]): Promise<void> {
  await store.close();
  const expected = new Map(images.map(({ ref, id }) => [`image ${ref}`, new Set([id])]));
  expect(await examine(root, expected, trees)).toEqual({ problems: [], dropped: [] });
  store = await ImageStore.open(new Paths(root, `${root}-run`), { platform: PLATFORM });
}

test("an image that comes while the disk fills up at any block is NO_SPACE and gives its space back", async () => {
  await store.loadLayout(coming.layout);
  await store.remove(coming.ref);
  let refused = 0;
  for (let blocks = 0; ; blocks += 2) {
    onDisk().free();
    onDisk().fill(blocks);
    const before = onDisk().freeBlocks;
    const code = await store.loadLayout(coming.layout).then(
      () => "",
      (err: { code: string; kind: string }) => `${err.kind} ${err.code}`,
    );
    if (code === "") break;
    expect(code).toBe("resource-exhausted NO_SPACE");
    expect(onDisk().freeBlocks).toBeGreaterThanOrEqual(before);
    expect(store.list().map(({ id }) => id)).toEqual([kept.id]);
    if (blocks % 16 === 0) await expectWhole(kept);
    refused++;
  }
  // The layer's files alone take twenty blocks.
  expect(refused).toBeGreaterThan(10);
  await expectWhole(kept, coming);
});

test("an image is removed without any space, and its space is free then", async () => {
  await store.loadLayout(coming.layout);
  onDisk().fill();
  expect(onDisk().freeBlocks).toBe(0);
  await store.remove(coming.ref);
  expect(onDisk().freeBlocks).toBeGreaterThan(20);
  await expectWhole(kept);
});

test("a tag that moves to an image that just fits is on that image alone, also after a restart", async () => {
  await store.loadLayout(coming.layout);
  for (let blocks = 0; ; blocks += 2) {
    onDisk().free();
    onDisk().fill(blocks);
    const isThere = await store.loadLayout(moved.layout).then(
      () => true,
      (err: { code: string }) => err.code !== "NO_SPACE",
    );
    expect(store.resolve(coming.ref)?.id).toBe(isThere ? moved.id : coming.id);
    if (isThere) break;
  }
  await store.close();
  store = await ImageStore.open(new Paths(root, `${root}-run`), { platform: PLATFORM });
  expect(store.resolve(coming.ref)?.id).toBe(moved.id);
  expect(store.list().filter(({ repoTags }) => repoTags.includes(coming.ref))).toHaveLength(1);
  await store.remove(coming.id);
});

test("prune works without any space, gives back what it said, and takes what was put aside too", async () => {
  await store.loadLayout(coming.layout);
  await store.care.tag(kept.ref, coming.ref);
  onDisk().fill();
  expect(onDisk().freeBlocks).toBe(0);
  const pruned = await store.care.prune({ all: false, dryRun: false, includesCri: false });
  expect(pruned.removed.map(({ id }) => id)).toEqual([coming.id]);
  expect(onDisk().freeBlocks * 1024).toBeGreaterThanOrEqual(pruned.freedBytes);
  expect(pruned.freedBytes).toBeGreaterThan(20_000);
  expect(store.resolve(coming.ref)?.id).toBe(kept.id);
  await store.care.removeByName(coming.ref, false);
  await expectWhole(kept);
});

test("a tag by hand on a disk that fills up at any block is on one image alone, also after a restart", async () => {
  await store.loadLayout(coming.layout);
  // The record becomes larger than a block by the name, so that there is a write that does not fit.
  const name = `tagged.example/${"long/".repeat(40)}image:1`;
  await store.care.tag(coming.ref, name);
  for (let blocks = 0, isMoved = false; !isMoved; blocks++) {
    onDisk().free();
    onDisk().fill(blocks);
    isMoved = await store.care.tag(kept.ref, name).then(
      () => true,
      (err: { code: string }) => err.code !== "NO_SPACE",
    );
    const owners = store.list().filter(({ repoTags }) => repoTags.includes(name));
    expect(owners.map(({ id }) => id)).toEqual([isMoved ? kept.id : coming.id]);
  }
  // The image that lost the tag came later than the one that has it.
  await store.close();
  store = await ImageStore.open(new Paths(root, `${root}-run`), { platform: PLATFORM });
  expect(store.resolve(name)?.id).toBe(kept.id);
  expect(store.list().filter(({ repoTags }) => repoTags.includes(name))).toHaveLength(1);
  onDisk().fill();
  await store.care.removeByName(name, false);
  expect(store.resolve(name)).toBeUndefined();
  expect(store.resolve(kept.ref)?.id).toBe(kept.id);
  onDisk().free();
  // What could not be written is, as soon as there is space.
  const written = async () => {
    await store.close();
    store = await ImageStore.open(new Paths(root, `${root}-run`), { platform: PLATFORM });
    return store.resolve(name) === undefined;
  };
  await sleep(1500);
  await expect.poll(written, { timeout: 10_000 }).toBe(true);
});

test("damage that is found on a full disk is not given out, and a repair without space says so and keeps the image", async () => {
  await store.loadLayout(coming.layout);
  const dir = store.lowerDirs(coming.id)[0] ?? "";
  unlinkSync(join(dir, "own.d/empty"));
  onDisk().fill();
  const states: VerifiedPart[] = [];
  const verify = () =>
    store.care.verify({
      ...{ names: [coming.ref], repair: true, signal: new AbortController().signal },
      onPart: (part) => void states.push(part),
    });
  await verify();
  expect(states.filter(({ state }) => state !== "sound")).toEqual([
    expect.objectContaining({ state: "damaged", repairError: expect.any(String) as string }),
  ]);
  expect(() => store.lowerDirs(coming.id)).toThrow(expect.objectContaining({ code: "IMAGE_DAMAGED" }) as Error);
  expect(await codeOf(store.loadLayout(coming.layout))).toBe("NO_SPACE");
  expect(() => store.lowerDirs(coming.id)).toThrow(expect.objectContaining({ code: "IMAGE_DAMAGED" }) as Error);
  onDisk().free();
  await store.loadLayout(coming.layout);
  await store.care.prune({ all: false, dryRun: false, includesCri: false });
  await expectWhole(kept, coming);
});

test("an archive from a stream is NO_SPACE while the disk fills up at any block, and gives its space back", async () => {
  const archive = join(folder, "coming.tar");
  execFileSync("tar", ["-cf", archive, "-C", coming.layout, "."]);
  let refused = 0;
  for (let blocks = 0; ; blocks += 8) {
    onDisk().free();
    onDisk().fill(blocks);
    const before = onDisk().freeBlocks;
    const code = await store.loadLayout(createReadStream(archive)).then(() => "", codeOfError);
    if (code === "") break;
    expect(code).toBe("NO_SPACE");
    expect(onDisk().freeBlocks).toBeGreaterThanOrEqual(before);
    expect(store.list().map(({ id }) => id)).toEqual([kept.id]);
    refused++;
  }
  expect(refused).toBeGreaterThan(3);
  await expectWhole(kept, coming);
});

test("saving needs no space on the store's disk", async () => {
  await store.loadLayout(coming.layout);
  onDisk().fill();
  const request = { format: "oci-archive", compression: "zstd", signal: new AbortController().signal } as const;
  const file = join(folder, "saved.tar");
  await pipeline(await store.care.save({ names: [coming.ref], ...request }), createWriteStream(file));
  onDisk().free();
  await store.remove(coming.ref);
  await store.loadLayout(createReadStream(file));
  await expectWhole(kept, coming);
});

test("a store starts on a full disk and removes from it", async () => {
  await store.loadLayout(coming.layout);
  onDisk().fill();
  await expectWhole(kept, coming);
  await store.remove(coming.ref);
  await expectWhole(kept);
});

test("what a full disk refused and is written later undoes neither a newer record nor a removal", async () => {
  const place = {
    dir: join(root, "later"),
    storeClass: "durable",
    quarantine: join(root, "quarantine"),
    version: 1,
  } as const;
  const records = await FileStore.open<{ value: string }>(place);
  const big = { value: "x".repeat(40_000) };
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  try {
    onDisk().fill();
    await records.put("changed", big, "remember");
    await records.put("removed", big, "remember");
    onDisk().free();
    const changes = [records.put("changed", { value: "newer" }), records.remove("removed")];
    // The next try begins while both are under way.
    vi.advanceTimersByTime(5_000);
    await Promise.all(changes);
  } finally {
    vi.useRealTimers();
  }
  await sleep(300);
  const written = await FileStore.open<{ value: string }>(place);
  expect(written.list()).toEqual([{ id: "changed", body: { value: "newer" } }]);
  expect(records.list()).toEqual(written.list());
});

test("a desired pod's record that finds no space is NO_SPACE, and the one before it stays", async () => {
  const place = {
    dir: join(root, "records"),
    storeClass: "durable",
    quarantine: join(root, "quarantine"),
    version: 1,
  } as const;
  const records = await FileStore.open<{ value: string }>(place);
  await records.put("pod", { value: "before" });
  const big = { value: "x".repeat(40_000) };
  let refused = 0;
  for (let blocks = 0; ; blocks += 4) {
    onDisk().free();
    onDisk().fill(blocks);
    const isWritten = await records.put("pod", big).then(
      () => true,
      () => false,
    );
    if (isWritten) break;
    refused++;
    expect(await codeOf(records.put("pod", big))).toBe("NO_SPACE");
    expect((await FileStore.open<{ value: string }>(place)).get("pod")).toEqual({ value: "before" });
  }
  expect(refused).toBeGreaterThan(5);
  onDisk().fill();
  await records.remove("pod");
  expect((await FileStore.open(place)).list()).toEqual([]);
});
