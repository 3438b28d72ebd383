/**
 * The care of images on a real store and registry: names, verification and repair, prune.
 * What goes by itself, and what every byte is for, is in image-collection.test.ts.
 */
import { execFileSync } from "node:child_process";
import { chmod, lstat, readdir, rename, rm, unlink, utimes, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import type { ImageStore } from "../../src/image/image-store.js";
import type { VerifiedPart } from "../../src/image/image-verify.js";
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
    store = await care().reopen({ registries: { [care().registry.host]: { endpoint: "http://127.0.0.1:9" } } });
    const [part] = await verify(true);
    expect(part).toMatchObject({ state: "damaged", repairError: expect.stringContaining("ECONNREFUSED") as string });
    store = await care().reopen();
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
    store = await care().reopen({ pinned: [ref("nginx")] });
    await store.pull(ref("busybox"), { owner: "cri" });
    expect((await prune({ all: true, untilNs: 1n })).removed).toEqual([]);
    await prune({ all: true });
    expect(tags()).toEqual([ref("busybox"), ref("nginx")].sort());
    await prune({ all: true, includesCri: true });
    expect(tags()).toEqual([ref("nginx")]);
  });
});
