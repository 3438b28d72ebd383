import { createHash } from "node:crypto";
import { lstat, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Timeline } from "../../src/base/timeline.js";
import { ImageStore, type LayerProgress } from "../../src/image/image-store.js";
import { Paths } from "../../src/settings/paths.js";
import { fixtureLayout } from "../harness/fixtures.js";
import { pushBlob, pushLayout, pushManifest, type Registry, startRegistry } from "../harness/registry.js";

let layout: string;
let registry: Registry;
let refs: string[];
let root: string;
let paths: Paths;
let store: ImageStore;

beforeAll(async () => {
  layout = await fixtureLayout();
  registry = await startRegistry();
  refs = await pushLayout(registry, layout);
});
afterAll(() => registry?.close());

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "minke-images-test-"));
  paths = new Paths(root, join(root, "run"));
  store = await ImageStore.open(paths);
});
afterEach(async () => {
  await store.close();
  await rm(root, { recursive: true, force: true });
});

const ref = (name: string) => refs.find((r) => r.endsWith(`/${name}:1`)) ?? "";

/** What a store must not hold after a failure: partial layers, layers, blobs. */
async function leftovers(): Promise<string[]> {
  const dirs = [
    paths.tmp,
    paths.layers,
    join(root, "blobs/sha256"),
    paths.durableState("images"),
    paths.durableState("layers"),
  ];
  return (await Promise.all(dirs.map((dir) => readdir(dir)))).flat();
}

describe("pull", () => {
  test("of an image gives its record, layers shared with the next image, and a timeline", async () => {
    const timeline = new Timeline();
    const progress: LayerProgress[] = [];
    const busybox = await store.pull(ref("busybox"), { timeline, onProgress: (p) => progress.push(p) });
    expect(busybox.repoTags).toEqual([ref("busybox")]);
    expect(busybox.config.cmd).toEqual(["sh"]);
    expect(progress.at(-1)).toMatchObject({ state: "done" });
    expect(timeline.spans.map(({ name }) => name)).toEqual([
      "resolve",
      "unpack layer",
      "sync layer",
      "commit layer",
      "record image",
    ]);
    const [busyboxDir] = store.lowerDirs(busybox.id);
    expect((await lstat(join(busyboxDir ?? "", "bin/busybox"))).nlink).toBeGreaterThan(200);

    const shared: LayerProgress[] = [];
    const nginx = await store.pull(ref("nginx"), { onProgress: (p) => shared.push(p) });
    const statesOf = (digest?: string) => shared.filter((p) => p.digest === digest).map(({ state }) => state);
    expect(statesOf(busybox.layers[0]?.digest)).toEqual(["present"]);
    expect(store.lowerDirs(nginx.id).at(-1)).toBe(busyboxDir);
    expect(store.lowerDirs(nginx.id)).toHaveLength(2);
    expect((await readdir(paths.layers)).length).toBe(2);
    expect(await readdir(paths.tmp)).toEqual([]);
  });

  test("of one reference by several callers at once is one run", async () => {
    const [first, ...others] = await Promise.all([1, 2, 3].map(() => store.pull(ref("nginx"))));
    for (const other of others) expect(other).toBe(first);
  });

  test("by digest sets no tag and is resolved by that digest", async () => {
    const byTag = await store.pull(ref("probe"));
    const repoDigest = byTag.repoDigests[0] ?? "";
    await store.remove(byTag.id);
    const record = await store.pull(repoDigest);
    expect(record.repoTags).toEqual([]);
    expect(store.resolve(repoDigest)?.id).toBe(byTag.id);
  });

  test("of an unknown tag is not-found IMAGE_NOT_FOUND", async () => {
    await expect(store.pull(ref("nginx").replace(/:1$/, ":2"))).rejects.toMatchObject({
      kind: "not-found",
      code: "IMAGE_NOT_FOUND",
    });
    expect(await leftovers()).toEqual([]);
  });

  test("where nobody listens is unavailable REGISTRY_UNAVAILABLE", async () => {
    await expect(store.pull("127.0.0.1:9/x/y:1")).rejects.toMatchObject({
      kind: "unavailable",
      code: "REGISTRY_UNAVAILABLE",
    });
  });

  test("with a reference host that the settings map elsewhere asks the endpoint", async () => {
    await store.close();
    store = await ImageStore.open(paths, { registries: { "registry.example": { endpoint: registry.endpoint } } });
    const record = await store.pull("registry.example/minke.test/busybox:1");
    expect(record.repoTags).toEqual(["registry.example/minke.test/busybox:1"]);
  });

  test("cancelled by its only caller is cancelled and leaves nothing", async () => {
    const abort = new AbortController();
    const pull = store.pull(ref("nginx"), { signal: abort.signal, onProgress: () => abort.abort() });
    await expect(pull).rejects.toMatchObject({ kind: "cancelled" });
    expect(await leftovers()).toEqual([]);
  });

  test("cancelled by one of two callers goes on for the other", async () => {
    const abort = new AbortController();
    const first = store.pull(ref("nginx"), { signal: abort.signal, onProgress: () => abort.abort() });
    const second = store.pull(ref("nginx"));
    await expect(first).rejects.toMatchObject({ kind: "cancelled" });
    expect((await second).repoTags).toEqual([ref("nginx")]);
  });

  test("past its deadline is deadline-exceeded", async () => {
    await expect(store.pull(ref("nginx"), { signal: AbortSignal.timeout(0) })).rejects.toMatchObject({
      kind: "deadline-exceeded",
    });
  });
});

describe("a lying registry", () => {
  test("whose layer is not what its digest says is data-loss DIGEST_MISMATCH and leaves nothing", async () => {
    const spoiled = await startRegistry();
    try {
      const [wrong = ""] = (await pushLayout(spoiled, layout)).filter((r) => r.includes("probe"));
      await spoilLayer(spoiled, (bytes) => {
        bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
        return bytes;
      });
      await expect(store.pull(wrong)).rejects.toMatchObject({ kind: "data-loss" });
      expect(await leftovers()).toEqual([]);
    } finally {
      await spoiled.close();
    }
  });

  test("whose config names another diffID is data-loss DIGEST_MISMATCH and leaves nothing", async () => {
    const wrong = await pushImageWithDiffId(`sha256:${"0".repeat(64)}`);
    await expect(store.pull(wrong)).rejects.toMatchObject({ kind: "data-loss", code: "DIGEST_MISMATCH" });
    expect(await leftovers()).toEqual([]);
  });

  test("that is killed and comes back is unavailable, then pulled", async () => {
    const dying = await startRegistry();
    const [first = ""] = await pushLayout(dying, layout);
    await dying.kill();
    await expect(store.pull(first)).rejects.toMatchObject({ kind: "unavailable", code: "REGISTRY_UNAVAILABLE" });
    await dying.close();
    expect(await leftovers()).toEqual([]);
    expect((await store.pull(ref("busybox"))).repoTags).toEqual([ref("busybox")]);
  });
});

describe("loadLayout", () => {
  test("of the fixtures gives three images that a new daemon finds again", async () => {
    const records = await store.loadLayout(layout);
    expect(records.map(({ repoTags }) => repoTags)).toEqual([
      ["minke.test/busybox:1"],
      ["minke.test/nginx:1"],
      ["minke.test/probe:1"],
    ]);
    await store.close();
    store = await ImageStore.open(paths);
    expect(
      store
        .list()
        .map(({ id }) => id)
        .sort(),
    ).toEqual(records.map(({ id }) => id).sort());
    expect(store.resolve("minke.test/nginx:1")?.config.cmd).toEqual(["nginx", "-g", "daemon off;"]);
    expect((await store.config(records[0]?.id ?? "")).rootfs.diff_ids).toHaveLength(1);
  });

  test("of what is no archive is invalid-argument ARCHIVE_INVALID", async () => {
    await expect(store.loadLayout(paths.layers)).rejects.toMatchObject({
      kind: "invalid-argument",
      code: "ARCHIVE_INVALID",
    });
  });

  test("of what is not there is not-found ARCHIVE_NOT_FOUND", async () => {
    await expect(store.loadLayout(join(root, "none"))).rejects.toMatchObject({
      kind: "not-found",
      code: "ARCHIVE_NOT_FOUND",
    });
  });
});

describe("remove", () => {
  test("by one tag removes all tags of the image, and twice succeeds", async () => {
    await store.loadLayout(layout);
    const pulled = await store.pull(ref("nginx"));
    expect(pulled.repoTags).toHaveLength(2);
    await store.remove("minke.test/nginx:1");
    await store.remove("minke.test/nginx:1");
    expect(store.resolve(ref("nginx"))).toBeUndefined();
    expect(store.resolve("minke.test/busybox:1")).toBeDefined();
    expect(await readdir(paths.layers)).toHaveLength(2);
  });

  test("of the last image leaves no layer, no blob and no record", async () => {
    for (const { id } of await store.loadLayout(layout)) await store.remove(id);
    expect(await leftovers()).toEqual([]);
  });

  test("of an image in use hides it and keeps its layers until it is not", async () => {
    await store.close();
    const used = new Set<string>();
    store = await ImageStore.open(paths, { isInUse: (id) => used.has(id) });
    const record = await store.pull(ref("probe"));
    used.add(record.id);
    await store.remove(record.id);
    expect(store.list()).toEqual([]);
    for (const dir of store.lowerDirs(record.id)) expect((await lstat(dir)).isDirectory()).toBe(true);
    used.clear();
    await store.collectRemoved();
    expect(await leftovers()).toEqual([]);
  });

  test("of something unknown succeeds", async () => {
    await store.remove("no.such/image:1");
    await store.remove("NOT A REFERENCE");
  });
});

test("open sweeps partial layers and layers that no image names", async () => {
  await store.loadLayout(layout);
  await store.close();
  const { mkdir } = await import("node:fs/promises");
  await mkdir(join(paths.tmp, "layer-dead/fs"), { recursive: true });
  await mkdir(join(paths.layers, "f".repeat(64), "fs"), { recursive: true });
  store = await ImageStore.open(paths);
  expect(await readdir(paths.tmp)).toEqual([]);
  expect(await readdir(paths.layers)).toHaveLength(3);
});

async function pushImageWithDiffId(diffId: string): Promise<string> {
  const index = JSON.parse(await readFile(join(layout, "index.json"), "utf8")) as {
    manifests: { digest: string; mediaType: string }[];
  };
  const blob = async (digest: string) => readFile(join(layout, "blobs/sha256", digest.slice(7)));
  const item = index.manifests[0] ?? { digest: "", mediaType: "" };
  const manifest = JSON.parse((await blob(item.digest)).toString()) as {
    config: { digest: string; size: number };
    layers: { digest: string }[];
  };
  const config = JSON.parse((await blob(manifest.config.digest)).toString()) as { rootfs: { diff_ids: string[] } };
  config.rootfs.diff_ids = [diffId];
  const bytes = Buffer.from(JSON.stringify(config));
  const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  Object.assign(manifest.config, { digest, size: bytes.length });
  await pushBlob(registry.endpoint, "wrong/diffid", digest, bytes);
  const layer = manifest.layers[0]?.digest ?? "";
  await pushBlob(registry.endpoint, "wrong/diffid", layer, await blob(layer));
  await pushManifest(registry.endpoint, "wrong/diffid", "1", item.mediaType, Buffer.from(JSON.stringify(manifest)));
  return `${registry.host}/wrong/diffid:1`;
}

/** Changes the stored bytes of the smallest layer of the probe image, behind the registry's back. */
async function spoilLayer(target: Registry, change: (bytes: Buffer) => Buffer): Promise<void> {
  const { writeFile } = await import("node:fs/promises");
  const index = JSON.parse(await readFile(join(layout, "index.json"), "utf8")) as { manifests: { digest: string }[] };
  const manifest = JSON.parse(
    await readFile(join(layout, "blobs/sha256", index.manifests[2]?.digest.slice(7) ?? ""), "utf8"),
  ) as { layers: { digest: string }[] };
  const hex = manifest.layers[1]?.digest.slice(7) ?? "";
  const file = join(target.storage, "docker/registry/v2/blobs/sha256", hex.slice(0, 2), hex, "data");
  await writeFile(file, change(await readFile(file)));
}
