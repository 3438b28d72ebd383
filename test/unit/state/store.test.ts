import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { FileStore, type StoreClass } from "../../../src/state/store.js";

let top: string;
beforeEach(async () => {
  top = await mkdtemp(join(tmpdir(), "minke-store-"));
});
afterEach(() => rm(top, { recursive: true }));

const open = (storeClass: StoreClass = "boot", version = 1) =>
  FileStore.open<{ n: number; text?: string }>({
    dir: join(top, "s"),
    quarantine: join(top, "q"),
    storeClass,
    version,
  });

for (const storeClass of ["boot", "durable"] as const) {
  test(`a ${storeClass} record put is there after a new open`, async () => {
    const store = await open(storeClass);
    await store.put("a", { n: 1, text: 'quote " brace } ümlaut' });
    expect((await open(storeClass)).get("a")).toEqual({ n: 1, text: 'quote " brace } ümlaut' });
  });
}

test("puts of one id take effect in the order they were made", async () => {
  const store = await open();
  await Promise.all(Array.from({ length: 50 }, (_, n) => store.put("a", { n })));
  expect(store.get("a")).toEqual({ n: 49 });
  expect((await open()).get("a")).toEqual({ n: 49 });
});

test("a record that is shown is there at once, and after a new open the one that was put", async () => {
  const store = await open();
  await store.put("a", { n: 1 });
  store.show("a", { n: 2 });
  expect(store.get("a")).toEqual({ n: 2 });
  expect((await open()).get("a")).toEqual({ n: 1 });
});

test("saves of one id are one write, of what is shown last, and removing the record drops them", async () => {
  const store = await open();
  await store.put("a", { n: 1 });
  await store.put("b", { n: 1 });
  store.show("a", { n: 2 });
  store.show("b", { n: 2 });
  const saves = [store.save("a"), store.save("a"), store.save("b")];
  store.show("a", { n: 3 });
  expect((await open()).get("a")).toEqual({ n: 1 });
  await store.removeWith("b", async (removeFileAnd) => void (await removeFileAnd([])));
  await store.saveAll();
  await Promise.all(saves);
  const found = await open();
  expect([found.get("a"), found.get("b")]).toEqual([{ n: 3 }, undefined]);
});

test("a save writes what is shown when its turn comes, and shows nothing older", async () => {
  const store = await open();
  await store.put("a", { n: 1 });
  store.show("a", { n: 2 });
  const first = store.save("a");
  const second = store.save("a");
  store.show("a", { n: 3 });
  await first;
  expect(store.get("a")).toEqual({ n: 3 });
  await second;
  expect((await open()).get("a")).toEqual({ n: 3 });
  await store.remove("a");
  await store.save("a");
  expect((await open()).get("a")).toBeUndefined();
});

test("steps go with a record: those before it, it, and those after it", async () => {
  const store = await open();
  const path = (name: string) => join(top, name);
  const first = [{ make: "directory", path: path("before"), mode: 0o755 }] as const;
  const last = [{ make: "directory", path: path("after"), mode: 0o755 }] as const;
  expect(await store.putWith("a", { n: 1 }, { first, last })).toBeUndefined();
  expect((await open()).get("a")).toEqual({ n: 1 });
  expect(await readdir(top)).toEqual(expect.arrayContaining(["before", "after"]));

  // Again: both are there. The one before keeps the record as it was, the one after does not.
  await expect(store.putWith("a", { n: 2 }, { first })).rejects.toMatchObject({ syscall: { errno: "EEXIST" } });
  expect(store.get("a")).toEqual({ n: 1 });
  const refused = await store.putWith("a", { n: 3 }, { last: [{ ...last[0], path: path("new") }, last[0]] });
  expect(refused).toMatchObject({ index: 1, error: { syscall: { errno: "EEXIST" } } });
  expect(store.get("a")).toEqual({ n: 3 });
  expect((await open()).get("a")).toEqual({ n: 3 });
});

test("a removed record stays removed and removing it again succeeds", async () => {
  const store = await open("durable");
  await store.put("a", { n: 1 });
  await store.remove("a");
  await store.remove("a");
  expect((await open("durable")).list()).toEqual([]);
});

test("a record that goes with what it stands for has no file while that goes, and is shown until it is gone", async () => {
  const store = await open();
  await store.put("a", { n: 1 });
  const tree = join(top, "matter", "of", "a");
  await mkdir(tree, { recursive: true });
  await store.removeWith("a", async (removeFileAnd) => {
    expect(await removeFileAnd([{ remove: "tree", path: join(top, "matter") }])).toBeUndefined();
    expect((await open()).get("a")).toBeUndefined();
    expect((await readdir(top)).includes("matter")).toBe(false);
    expect(store.get("a")).toEqual({ n: 1 });
  });
  expect(store.get("a")).toBeUndefined();
  await store.removeWith("a", () => Promise.reject(new Error("there is nothing to remove")));
});

test("a record whose matter could not be removed is there again, as it is shown, with the error of that alone", async () => {
  const store = await open();
  await store.put("a", { n: 1 });
  store.show("a", { n: 2 });
  const why = new Error("busy");
  await expect(
    store.removeWith("a", async (removeFileAnd) => {
      const steps = [
        { remove: "tree", path: join(top, "none") },
        { remove: "directory", path: top },
      ] as const;
      expect(await removeFileAnd(steps)).toMatchObject({
        index: 1,
        error: { syscall: { errno: "ENOTEMPTY" } },
      });
      expect((await open()).get("a")).toBeUndefined();
      throw why;
    }),
  ).rejects.toBe(why);
  expect(store.get("a")).toEqual({ n: 2 });
  expect((await open()).get("a")).toEqual({ n: 2 });
});

test("a temporary file of a dead writer is swept at open", async () => {
  await open();
  await writeFile(join(top, "s", ".a.json.4711.0"), "half");
  await open();
  expect(await readdir(join(top, "s"))).toEqual([]);
});

test("records that come and go make no new files, and nothing of the old ones is left in those", async () => {
  const store = await open();
  const inode = async (id: string) => (await stat(join(top, "s", `${id}.json`))).ino;
  await store.put("a", { n: 1, text: "secret" });
  const first = await inode("a");
  await store.put("a", { n: 2, text: "secret" });
  const second = await inode("a");
  await store.remove("a");
  for (const name of await readdir(join(top, "s"))) expect((await stat(join(top, "s", name))).size).toBe(1);
  await store.put("b", { n: 1 });
  await store.put("c", { n: 1 });
  expect([await inode("b"), await inode("c")].sort()).toEqual([first, second].sort());
  expect(await readdir(join(top, "s"))).toEqual(["b.json", "c.json"]);
});

test("spare files of an earlier run are removed at open and not reported", async () => {
  const store = await open();
  await store.put("a", { n: 1 });
  await store.remove("a");
  expect(await readdir(join(top, "s"))).toEqual([".spare-1"]);
  expect((await open()).unfinished).toEqual([]);
  expect(await readdir(join(top, "s"))).toEqual([]);
});

for (const [name, damage] of [
  ["an empty file", () => ""],
  ["zeros", (text: string) => "\0".repeat(text.length)],
  ["a flipped byte", (text: string) => text.replace('"n":1', '"n":2')],
  ["a cut file", (text: string) => text.slice(0, -4)],
  ["a newer version", (text: string) => text.replace('"version":1', '"version":9')],
] as const) {
  test(`${name} is quarantined and does not stop the open`, async () => {
    const store = await open();
    await store.put("bad", { n: 1 });
    await store.put("good", { n: 1 });
    const file = join(top, "s", "bad.json");
    await writeFile(file, damage(await readFile(file, "utf8")));
    const reopened = await open();
    expect(reopened.get("bad")).toBeUndefined();
    expect(reopened.get("good")).toEqual({ n: 1 });
    expect(reopened.quarantined.map((q) => q.file)).toEqual([file]);
    expect(await readdir(join(top, "q"))).toHaveLength(1);
  });
}

test("a failed write leaves the old record and no temporary file", async () => {
  const store = await open();
  await store.put("a", { n: 1 });
  await rm(join(top, "s"), { recursive: true });
  await expect(store.put("a", { n: 2 })).rejects.toMatchObject({ syscall: { errno: "ENOENT" } });
  expect(store.get("a")).toEqual({ n: 1 });
});

test("a group holds its records in the order they came, over puts, moves, removals and a new open", async () => {
  const openGrouped = () =>
    FileStore.open<{ n: number; of: string }>({
      dir: join(top, "s"),
      quarantine: join(top, "q"),
      storeClass: "boot",
      version: 1,
      groupOf: ({ of }) => of,
    });
  const store = await openGrouped();
  for (const n of [1, 2, 3, 4]) await store.put(`r${n}`, { n, of: n === 4 ? "y" : "x" });
  await store.put("r1", { n: 10, of: "x" });
  expect(store.group("x").map(({ n }) => n)).toEqual([10, 2, 3]);
  await store.put("r2", { n: 2, of: "y" });
  await store.remove("r3");
  await store.remove("r3");
  expect(store.group("x").map(({ n }) => n)).toEqual([10]);
  expect(store.group("y").map(({ n }) => n)).toEqual([4, 2]);
  expect(
    (await openGrouped())
      .group("y")
      .map(({ n }) => n)
      .sort((a, b) => a - b),
  ).toEqual([2, 4]);
  expect(store.group("none")).toEqual([]);
});
