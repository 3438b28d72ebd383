/**
 * The care of images on a real store and registry: names, verification and repair, prune,
 * collection, and what every byte is for.
 */
import { execFileSync } from "node:child_process";
import { chmod, cp, lstat, mkdir, mkdtemp, readdir, rename, rm, unlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { DEFAULT_SETTINGS } from "../../src/settings/settings.js";
import { ImageStore, type ImageStoreOptions } from "../../src/image/image-store.js";
import type { VerifiedPart } from "../../src/image/image-verify.js";
import { Paths } from "../../src/settings/paths.js";
import { fixtureLayout } from "../harness/fixtures.js";
import { pushLayout, type Registry, startRegistry } from "../harness/registry.js";
import { requires } from "../harness/requires.js";

let registry: Registry;
let refs: string[];
/** A root with the fixture images pulled, copied for each test. */
let pulled: string;
let root: string;
let paths: Paths;
let store: ImageStore;
/** Image id to who uses it. */
let users: Map<string, string[]>;

const ref = (name: string) => refs.find((one) => one.includes(`/${name}:`)) ?? "";
const idOf = (name: string) => store.resolve(ref(name))?.id ?? "";

beforeAll(async () => {
  registry = await startRegistry();
  refs = await pushLayout(registry, await fixtureLayout());
  pulled = await mkdtemp(join(tmpdir(), "minke-care-pulled-"));
  const first = await ImageStore.open(new Paths(pulled, join(pulled, "run")));
  for (const one of refs) await first.pull(one);
  await first.close();
}, 60_000);
afterAll(async () => {
  await registry?.close();
  await rm(pulled, { recursive: true, force: true });
});

beforeEach(requires("root", "registry"));
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "minke-care-"));
  execFileSync("cp", ["-a", `${pulled}/.`, root]);
  paths = new Paths(root, join(root, "run"));
  users = new Map();
  store = await open();
});
afterEach(async () => {
  await store.close();
  await rm(root, { recursive: true, force: true });
});

const open = (options: ImageStoreOptions = {}) =>
  ImageStore.open(paths, {
    isInUse: (id) => users.has(id),
    usersOf: (id) => users.get(id) ?? [],
    ...options,
  });

describe("names", () => {
  test("a tag that is removed leaves the image until the last one goes", async () => {
    const tagged = await store.care.tag(ref("nginx"), "my.own/name:2");
    expect(tagged.repoTags).toEqual([ref("nginx"), "my.own/name:2"].sort());
    expect(await store.care.removeByName(ref("nginx"), false)).toMatchObject({
      isRemoved: false,
      untagged: [ref("nginx")],
    });
    expect(store.resolve("my.own/name:2")?.id).toBe(tagged.id);
    expect(await store.care.removeByName("my.own/name:2", false)).toMatchObject({ isRemoved: true });
    expect(store.resolve(tagged.id)).toBeUndefined();
  });

  test("a tag that another image had moves", async () => {
    const busybox = idOf("busybox");
    await store.care.tag(ref("nginx"), ref("busybox"));
    expect(idOf("busybox")).toBe(idOf("nginx"));
    expect(store.resolve(busybox)?.repoTags).toEqual([]);
  });

  test("an image with several tags is removed by id only with force", async () => {
    await store.care.tag(ref("nginx"), "my.own/name:2");
    const id = idOf("nginx");
    await expect(store.care.removeByName(id, false)).rejects.toMatchObject({
      kind: "failed-precondition",
      code: "IMAGE_HAS_TAGS",
    });
    expect(await store.care.removeByName(id.slice(7, 20), true)).toMatchObject({ id, isRemoved: true });
  });

  test("an image in use is refused with the names of its users, by tag, by id and with force", async () => {
    users.set(idOf("nginx"), ["pod default/web"]);
    for (const [name, force] of [
      [ref("nginx"), false],
      [idOf("nginx"), true],
    ] as const) {
      const refused = expect(store.care.removeByName(name, force)).rejects;
      await refused.toMatchObject({
        code: "IMAGE_IN_USE",
        message: expect.stringContaining("pod default/web") as string,
      });
    }
    expect(idOf("nginx")).not.toBe("");
  });

  test("history names every layer once, newest first", async () => {
    const history = await store.care.history(ref("nginx"));
    const layers = store.resolve(ref("nginx"))?.layers.map(({ diffId }) => diffId) ?? [];
    expect(history.flatMap(({ diffId }) => (diffId ? [diffId] : []))).toEqual([...layers].reverse());
  });
});

async function verify(repair = false, names: string[] = []): Promise<VerifiedPart[]> {
  const parts: VerifiedPart[] = [];
  await store.care.verify({ names, repair, signal: new AbortController().signal, onPart: (part) => parts.push(part) });
  return parts.filter(({ state }) => state !== "sound");
}

/** Layer directory of nginx's own layer. */
const nginxLayer = () => dirname(store.lowerDirs(idOf("nginx"))[0] ?? "");

const PLANTED: [string, (layer: string) => Promise<unknown>][] = [
  [
    "bytes of a file, its size and time as before",
    async (layer) => {
      const path = join(layer, "fs/usr/sbin/nginx");
      const { atime, mtime } = await lstat(path);
      execFileSync("dd", [
        "if=/dev/zero",
        `of=${path}`,
        "bs=1",
        "seek=5000",
        "count=16",
        "conv=notrunc",
        "status=none",
      ]);
      await utimes(path, atime, mtime);
    },
  ],
  ["a file cut short", (layer) => writeFile(join(layer, "fs/usr/sbin/nginx"), "short")],
  ["a mode", (layer) => chmod(join(layer, "fs/usr/sbin/nginx"), 0o777)],
  ["a time", (layer) => utimes(join(layer, "fs/usr/sbin/nginx"), 1, 1)],
  ["a missing file", (layer) => unlink(join(layer, "fs/usr/sbin/nginx"))],
  ["an added file", (layer) => writeFile(join(layer, "fs/usr/sbin/evil"), "")],
  ["a missing tree", (layer) => rename(join(layer, "fs"), join(root, "elsewhere"))],
  ["a missing layer", (layer) => rename(layer, join(root, "elsewhere"))],
  ["a changed record", (layer) => writeFile(join(layer, "tar-record.zst"), "not a record")],
  ["a missing record", (layer) => unlink(join(layer, "tar-record.zst"))],
  [
    "another layer's tree and record",
    async (layer) => {
      const other = dirname(store.lowerDirs(idOf("busybox"))[0] ?? "");
      await rm(layer, { recursive: true });
      execFileSync("cp", ["-a", other, layer]);
    },
  ],
];

describe("verification", () => {
  test("of what was pulled finds nothing", async () => {
    expect(await verify()).toEqual([]);
  });

  test.each(PLANTED)("finds %s, lets nothing start from it, and repairs it from the registry", async (_, plant) => {
    const layer = nginxLayer();
    await plant(layer);
    const [found, ...others] = await verify();
    expect(others).toEqual([]);
    expect(found).toMatchObject({ kind: "layer", state: "damaged", images: [idOf("nginx")] });
    expect(found?.problems.length).toBeGreaterThan(0);
    expect(() => store.lowerDirs(idOf("nginx"))).toThrow(expect.objectContaining({ code: "IMAGE_DAMAGED" }) as Error);
    expect(store.lowerDirs(idOf("busybox"))).toHaveLength(1);
    expect(await verify(true)).toEqual([expect.objectContaining({ state: "repaired" })]);
    expect(await verify()).toEqual([]);
    expect(store.lowerDirs(idOf("nginx"))).toHaveLength(2);
  });

  test("finds a damaged config and repairs it", async () => {
    await writeFile(paths.blob(store.resolve(ref("nginx"))?.id ?? ("" as never)), "{}");
    expect(await verify()).toEqual([expect.objectContaining({ kind: "document", state: "damaged" })]);
    expect(await verify(true)).toEqual([expect.objectContaining({ state: "repaired" })]);
    expect(await verify()).toEqual([]);
  });

  test("that cannot repair says why and keeps the mark over a restart; a pull mends it", async () => {
    await writeFile(join(nginxLayer(), "fs/usr/sbin/nginx"), "x");
    await store.close();
    store = await open({ registries: { [registry.host]: { endpoint: "http://127.0.0.1:9" } } });
    const [part] = await verify(true);
    expect(part).toMatchObject({ state: "damaged", repairError: expect.stringContaining("ECONNREFUSED") as string });
    await store.close();
    store = await open();
    expect(() => store.lowerDirs(idOf("nginx"))).toThrow(expect.objectContaining({ code: "IMAGE_DAMAGED" }) as Error);
    await store.pull(ref("nginx"));
    expect(await verify()).toEqual([]);
  });

  test("a damaged layer is put into quarantine, which prune empties", async () => {
    await writeFile(join(nginxLayer(), "fs/usr/sbin/nginx"), "x");
    await verify(true);
    expect(await readdir(paths.quarantine)).toHaveLength(1);
    users.set(idOf("nginx"), ["pod default/web"]);
    await store.care.prune({ all: false, dryRun: false, includesCri: false });
    expect(await readdir(paths.quarantine)).toHaveLength(1);
    users.clear();
    const result = await store.care.prune({ all: false, dryRun: false, includesCri: false });
    expect(result).toMatchObject({ removed: [], quarantinedLayers: 1 });
    expect(await readdir(paths.quarantine)).toEqual([]);
  });
});

describe("prune", () => {
  const prune = (request: { all?: boolean; untilNs?: bigint; dryRun?: boolean; includesCri?: boolean } = {}) =>
    store.care.prune({ all: false, dryRun: false, includesCri: false, ...request });
  const tags = () =>
    store
      .list()
      .flatMap(({ repoTags }) => repoTags)
      .sort();

  test("takes images without a tag, and all unused ones only when asked to", async () => {
    await store.care.tag(ref("nginx"), ref("busybox"));
    expect((await prune()).removed).toHaveLength(1);
    users.set(idOf("nginx"), ["pod default/web"]);
    expect((await prune({ all: true })).removed).toEqual([expect.objectContaining({ repoTags: [ref("probe")] })]);
    expect(tags()).toEqual([ref("busybox"), ref("nginx")].sort());
  });

  test("frees what it said before, and what du sees", async () => {
    const du = () => Number(execFileSync("du", ["-s", "-B1", paths.layers], { encoding: "utf8" }).split("\t")[0]);
    const before = du();
    const planned = await prune({ all: true, dryRun: true });
    expect(du()).toBe(before);
    const done = await prune({ all: true });
    expect(done).toEqual({ ...planned, dryRun: false });
    expect(before - du()).toBe(done.freedBytes);
  });

  test("keeps what is pinned, what came later, and what came through CRI", async () => {
    await store.close();
    store = await open({ pinned: [ref("nginx")] });
    await store.pull(ref("busybox"), { owner: "cri" });
    expect((await prune({ all: true, untilNs: 1n })).removed).toEqual([]);
    await prune({ all: true });
    expect(tags()).toEqual([ref("busybox"), ref("nginx")].sort());
    await prune({ all: true, includesCri: true });
    expect(tags()).toEqual([ref("nginx")]);
  });
});

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
    await store.close();
    store = await open();
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
    await writeFile(join(nginxLayer(), "fs/usr/sbin/nginx"), "x");
    await verify(true);
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
