/**
 * What a real store does by itself and says of itself: the collection of images by threshold and
 * age, and what every byte is for.
 */
import { execFileSync } from "node:child_process";
import { cp, mkdir, readdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { DEFAULT_SETTINGS } from "../../src/settings/settings.js";
import type { ImageStore } from "../../src/image/image-store.js";
import type { Paths } from "../../src/settings/paths.js";
import { type CareStore, useCareStore } from "../harness/image-care.js";

const care = useCareStore();
let root: string;
let paths: Paths;
let store: ImageStore;
let users: CareStore["users"];
beforeEach(() => ({ root, paths, store, users } = care()));

const ref = (name: string) => care().ref(name);
const idOf = (name: string) => care().idOf(name);

describe("collection", () => {
  const settings = { ...DEFAULT_SETTINGS.images.collection, minUnusedMs: 1000 };
  const names = () =>
    store
      .list()
      .map(({ repoTags }) => repoTags[0])
      .sort();

  /** A collector of a store whose clock and file system are the test's. */
  function collecting(changes: Partial<typeof settings>, nowMs = Date.now()) {
    const clock = { nowMs, percent: 0 };
    const collector = store.care.collector(
      { ...settings, ...changes },
      {
        nowMs: () => clock.nowMs,
        // Every image that is gone is ten percent.
        usedPercent: async () => clock.percent - 10 * (3 - store.list().length),
      },
    );
    return { collector, clock };
  }

  test("by threshold goes from the longest unused until the low mark, and spares what is used", async () => {
    const { collector, clock } = collecting({ highPercent: 85, lowPercent: 82 });
    clock.nowMs += 5000;
    clock.percent = 84;
    expect(await collector.run()).toEqual([]);
    users.set(idOf("busybox"), ["pod default/a"]);
    await collector.run();
    users.clear();
    clock.nowMs += 5000;
    users.set(idOf("probe"), ["pod default/b"]);
    clock.percent = 90;
    expect(await collector.run()).toEqual([expect.objectContaining({ repoTags: [ref("nginx")], reason: "threshold" })]);
    expect(names()).toEqual([ref("busybox"), ref("probe")].sort());
    expect(collector.isStarved).toBe(false);
  });

  test("by threshold knows where nothing is left that may go, and when that is over", async () => {
    const { collector, clock } = collecting({ highPercent: 85, lowPercent: 50 });
    clock.nowMs += 5000;
    users.set(idOf("probe"), ["pod default/b"]);
    clock.percent = 90;
    expect(await collector.run()).toHaveLength(2);
    expect([names(), collector.isStarved]).toEqual([[ref("probe")], true]);
    clock.percent = 110;
    expect(await collector.run()).toEqual([]);
    expect(collector.isStarved).toBe(true);
    clock.percent = 70;
    await collector.run();
    expect(collector.isStarved).toBe(false);
  });

  test("by age takes what nobody has used for so long, counted from the start at the earliest", async () => {
    const { collector, clock } = collecting({ maxUnusedMs: 60_000 });
    expect(await collector.run()).toEqual([]);
    users.set(idOf("nginx"), ["pod default/a"]);
    clock.nowMs += 61_000;
    expect((await collector.run()).map(({ reason }) => reason)).toEqual(["age", "age"]);
    expect(names()).toEqual([ref("nginx")]);
  });

  test("last uses survive a restart of the store, and the time without a daemon does not count", async () => {
    const first = collecting({ maxUnusedMs: 60_000 });
    users.set(idOf("busybox"), ["pod default/a"]);
    first.clock.nowMs += 50_000;
    expect(await first.collector.run()).toEqual([]);
    users.clear();
    await first.collector.save();
    store = await care().reopen();
    const { collector, clock } = collecting({ maxUnusedMs: 60_000 }, first.clock.nowMs + 1e9);
    expect(await collector.run()).toEqual([]);
    clock.nowMs += 15_000;
    const gone = await collector.run();
    expect(gone.flatMap(({ repoTags }) => repoTags).sort()).toEqual([ref("nginx"), ref("probe")].sort());
    clock.nowMs += 50_000;
    expect((await collector.run()).flatMap(({ repoTags }) => repoTags)).toEqual([ref("busybox")]);
  });

  test("uses are written every few minutes, not at each pass", async () => {
    const { collector, clock } = collecting({});
    const written = () => readdir(paths.durableState("uses"));
    clock.nowMs += 200_000;
    await collector.run();
    expect(await written()).toEqual([]);
    clock.nowMs += 200_000;
    await collector.run();
    expect(await written()).toEqual(["images.json"]);
  });

  test("what went last, why and what it freed is told by disk usage, and survives a restart", async () => {
    const usage = () => store.care.usage({ containers: new Map(), pods: new Map() });
    expect((await usage()).lastCollection).toBeNull();
    const { collector, clock } = collecting({ highPercent: 85, lowPercent: 82 });
    clock.nowMs += 5000;
    users.set(idOf("busybox"), ["pod default/a"]);
    users.set(idOf("probe"), ["pod default/b"]);
    clock.percent = 90;
    const du = () => Number(execFileSync("du", ["-s", "-B1", paths.layers], { encoding: "utf8" }).split("\t")[0]);
    const before = du();
    const collected = await collector.run();
    const told = {
      at: new Date(clock.nowMs).toISOString(),
      images: [{ id: collected[0]?.id, repoTags: [ref("nginx")], reason: "threshold", freedBytes: before - du() }],
    };
    expect((await usage()).lastCollection).toEqual(told);
    clock.percent = 0;
    clock.nowMs += 10 * 60_000;
    await collector.run();
    store = await care().reopen();
    expect((await usage()).lastCollection).toEqual(told);
  });

  test("does nothing where it is off, and leaves CRI's images unless the settings say so", async () => {
    await store.pull(ref("busybox"), { owner: "cri" });
    const off = collecting({ enabled: false, maxUnusedMs: 1 });
    off.clock.nowMs += 100_000;
    expect(await off.collector.run()).toEqual([]);
    const own = collecting({ maxUnusedMs: 10_000 });
    own.clock.nowMs += 100_000;
    await own.collector.run();
    expect(names()).toEqual([ref("busybox")]);
    const both = collecting({ maxUnusedMs: 10_000, cri: true });
    both.clock.nowMs += 100_000;
    await both.collector.run();
    expect(names()).toEqual([]);
  });
});

describe("disk usage", () => {
  test("has a part for every byte, and its sum is du's", async () => {
    const layer = dirname(store.lowerDirs(idOf("nginx"))[0] ?? "");
    await writeFile(join(layer, "fs/usr/sbin/nginx"), "x");
    await store.care.verify({ names: [], repair: true, signal: new AbortController().signal, onPart: () => {} });
    const container = "c".repeat(64);
    for (const dir of [
      `containers/${container}/upper`,
      "containers/gone",
      "volumes/u1",
      "volumes/u2",
      "logs/ns_web_u1",
      "tmp/layer-x",
      "layers/orphan",
      "new-folder/x",
    ]) {
      await mkdir(join(root, dir), { recursive: true });
      await writeFile(join(root, dir, "file"), Buffer.alloc(20_000, "x"));
    }
    await writeFile(join(root, "daemon.log"), "text");
    await cp(join(root, "daemon.log"), join(root, "lock"));
    const known = { containers: new Map([[container, "container web"]]), pods: new Map([["u1", "pod ns/web"]]) };
    const usage = await store.care.usage(known);
    expect(usage.totalBytes).toBe(Number(execFileSync("du", ["-s", "-B1", root], { encoding: "utf8" }).split("\t")[0]));
    const names = (part: string) =>
      usage.parts
        .find((one) => one.part === part)
        ?.items.map(({ name }) => name)
        .sort() ?? [];
    expect(names("orphans")).toEqual(["containers/gone", "layers/orphan", "volumes/u2"]);
    expect(names("writable layers")).toEqual(["container web"]);
    expect(names("volumes")).toEqual(["pod ns/web"]);
    expect(names("logs")).toEqual(["pod ns/web"]);
    expect(names("partial pulls")).toEqual(["tmp/layer-x"]);
    expect(names("quarantine")).toHaveLength(1);
    expect(names("layers")).toHaveLength(3);
    expect(usage.parts.find(({ part }) => part === "other")?.items.map(({ name }) => name)).toContain("new-folder/x");
  });

  test("tells own bytes of an image from shared ones: removal frees the own", async () => {
    const { images } = await store.care.usage({ containers: new Map(), pods: new Map() });
    const nginx = images.find(({ id }) => id === idOf("nginx"));
    expect(nginx?.sharedBytes).toBeGreaterThan(0);
    const du = () => Number(execFileSync("du", ["-s", "-B1", paths.layers], { encoding: "utf8" }).split("\t")[0]);
    const before = du();
    await store.care.removeByName(ref("nginx"), false);
    expect(before - du()).toBe(nginx?.ownBytes);
  });
});
