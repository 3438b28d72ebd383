/**
 * Archives: what `save` writes, Debian's skopeo and podman read, and what they write, `load` reads;
 * through it all a layer's bytes stay the ones of its diffID.
 */
import { execFileSync } from "node:child_process";
import { createReadStream, createWriteStream, readFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { SaveCompression, SaveFormat } from "../../src/image/image-save.js";
import type { ImageRecord } from "../../src/image/image-record.js";
import { ImageStore } from "../../src/image/image-store.js";
import { Paths } from "../../src/settings/paths.js";
import { fixtureLayout } from "../harness/fixtures.js";
import { openPeers, type Peers } from "../harness/peers.js";
import { requires } from "../harness/requires.js";

const NGINX = "minke.test/nginx:1";
const BUSYBOX = "minke.test/busybox:1";

/** Made once, read by many tests. */
const SAVED: [string, SaveFormat, SaveCompression, string[]][] = [
  ["docker-archive", "docker-archive", "none", [NGINX, BUSYBOX]],
  ["oci-archive", "oci-archive", "none", [NGINX, BUSYBOX]],
  // podman cannot choose among several images of an OCI layout.
  ["oci-archive.gz", "oci-archive", "gzip", [NGINX]],
  ["oci-archive.zst", "oci-archive", "zstd", [NGINX, BUSYBOX]],
];

let layout: string;
let nginx: ImageRecord;
let home: string;
let peers: Peers;
let root: string;
let paths: Paths;
let store: ImageStore;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "minke-archives-"));
  peers = await openPeers(home);
  layout = await fixtureLayout();
  const dir = join(home, "source");
  const source = await ImageStore.open(new Paths(dir, join(dir, "run")));
  await source.loadLayout(layout);
  nginx = source.resolve(NGINX) as ImageRecord;
  const signal = new AbortController().signal;
  for (const [name, format, compression, names] of SAVED) {
    const request = { names, format, compression, signal };
    await pipeline(await source.care.save(request), createWriteStream(join(home, name)));
  }
  await source.close();
}, 120_000);
afterAll(() => rm(home, { recursive: true, force: true }));
beforeEach(requires("root"));
beforeEach(async () => {
  root = await mkdtemp(join(home, "root-"));
  paths = new Paths(root, join(root, "run"));
  store = await ImageStore.open(paths);
});
afterEach(async () => {
  await store.close();
  await rm(root, { recursive: true, force: true });
});

async function save(file: string, format: SaveFormat, compression: SaveCompression, names: readonly string[]) {
  const signal = new AbortController().signal;
  await pipeline(await store.care.save({ names, format, compression, signal }), createWriteStream(file));
}

/** Ids, tags and layers: what must survive a round trip. */
const identity = () =>
  store.list().map(({ id, repoTags, layers }) => [id, repoTags, layers.map(({ diffId }) => diffId)]);

async function emptyStore(): Promise<void> {
  for (const { id } of store.list()) await store.remove(id);
  expect(await readdir(paths.layers)).toEqual([]);
}

describe("several images in one archive, saved and loaded, are the same ones", () => {
  test.each<[SaveFormat, SaveCompression]>([
    ["docker-archive", "none"],
    ["docker-archive", "zstd"],
    ["oci-archive", "gzip"],
  ])("as %s, packed with %s", async (format, compression) => {
    await store.loadLayout(layout);
    await store.remove("minke.test/probe:1");
    await store.care.tag(NGINX, "my.own/name:2");
    const before = identity();
    const file = join(root, "archive");
    await save(file, format, compression, [BUSYBOX, NGINX, "my.own/name:2"]);
    await emptyStore();
    await store.loadLayout(createReadStream(file));
    expect(identity()).toEqual(before);
    expect(await readdir(paths.tmp)).toEqual([]);
    const again = join(root, "again");
    await save(again, format, compression, [BUSYBOX, NGINX, "my.own/name:2"]);
    expect(readFileSync(again).equals(readFileSync(file))).toBe(true);
  });
});

describe("what save writes is read by", () => {
  test.each<[SaveFormat, string]>([
    ["docker-archive", "docker-archive"],
    ["oci-archive", "oci-archive"],
  ])("skopeo as %s, with every digest checked", async (format, transport) => {
    const source = `${transport}:${join(home, format)}:${NGINX}`;
    const inspected = JSON.parse(await peers.run("skopeo", ["inspect", "--config", source])) as {
      rootfs: { diff_ids: string[] };
    };
    expect(inspected.rootfs.diff_ids).toEqual(nginx.layers.map(({ diffId }) => diffId));
    const copy = join(root, "copy");
    await peers.run("skopeo", ["copy", "--insecure-policy", source, `dir:${copy}`]);
    const manifest = readFileSync(join(copy, "manifest.json"), "utf8");
    expect((JSON.parse(manifest) as { config: { digest: string } }).config.digest).toBe(nginx.id);
  });

  // Debian 12's podman reads no packed docker-archive, its own neither.
  test.each(["docker-archive", "oci-archive.gz"])(
    "podman as %s, under its tag and id",
    async (name) => {
      const file = join(home, name);
      const policy = join(home, "policy.json");
      await writeFile(policy, '{"default":[{"type":"insecureAcceptAnything"}]}');
      const storage = [
        "--root",
        join(root, "podman"),
        "--runroot",
        join(root, "podman-run"),
        "--storage-driver",
        "vfs",
      ];
      await peers.run("podman", [...storage, "load", "--signature-policy", policy, "-i", file], { timeoutMs: 120_000 });
      const listed = await peers.run("podman", [
        ...storage,
        "images",
        "--no-trunc",
        "--format",
        "{{.ID}} {{.Repository}}:{{.Tag}}",
      ]);
      expect(listed.split("\n")).toContain(`${nginx.id} ${NGINX}`);
    },
    120_000,
  );
});

describe("load reads", () => {
  test.each(["docker-archive", "oci-archive", "oci", "dir-zstd"])("what skopeo writes as %s", async (kind) => {
    const target = join(root, "target");
    const packing = kind === "dir-zstd" ? ["--dest-compress", "--dest-compress-format", "zstd"] : [];
    const destination = kind === "dir-zstd" || kind === "oci" ? `oci:${target}:${NGINX}` : `${kind}:${target}:${NGINX}`;
    await peers.run("skopeo", ["copy", "--insecure-policy", ...packing, `oci:${layout}:${NGINX}`, destination]);
    const [record] = await store.loadLayout(target);
    await store.loadLayout(layout);
    expect(record?.layers.map(({ diffId }) => diffId)).toEqual(
      store.resolve(NGINX)?.layers.map(({ diffId }) => diffId),
    );
    expect(record?.repoTags).toEqual([NGINX]);
  });

  test("what podman saves, several images in one", async () => {
    const policy = join(home, "policy.json");
    await writeFile(policy, '{"default":[{"type":"insecureAcceptAnything"}]}');
    const storage = ["--root", join(root, "podman"), "--runroot", join(root, "podman-run"), "--storage-driver", "vfs"];
    const load = ["load", "--signature-policy", policy, "-i", join(home, "docker-archive")];
    await peers.run("podman", [...storage, ...load], { timeoutMs: 120_000 });
    const saved = ["save", "--multi-image-archive", "-o", join(root, "out.tar"), NGINX, BUSYBOX];
    await peers.run("podman", [...storage, ...saved], { timeoutMs: 120_000 });
    await store.loadLayout(join(root, "out.tar"));
    expect(
      identity()
        .flatMap(([, tags]) => tags)
        .sort(),
    ).toEqual([BUSYBOX, NGINX]);
    expect(store.resolve(NGINX)).toMatchObject({
      id: nginx.id,
      layers: nginx.layers.map(({ diffId }) => ({ diffId })),
    });
  }, 120_000);

  test("a directory of docker save", async () => {
    const dir = join(root, "unpacked");
    await mkdir(dir);
    execFileSync("tar", ["-xf", join(home, "docker-archive"), "-C", dir]);
    expect((await store.loadLayout(dir)).map(({ repoTags }) => repoTags)).toEqual([[NGINX], [BUSYBOX]]);
  });
});

describe("a bad archive", () => {
  test.each<[string, () => Readable]>([
    ["of random bytes", () => Readable.from([Buffer.alloc(100_000, "x7")], { objectMode: false })],
    ["that is empty", () => Readable.from([], { objectMode: false })],
    ["that is cut short", () => createReadStream(join(home, "oci-archive"), { end: 3_000_000 })],
    ["that is cut short in its zstd frame", () => createReadStream(join(home, "oci-archive.zst"), { end: 1_000_000 })],
  ])("%s is ARCHIVE_INVALID and leaves nothing", async (_, open) => {
    await expect(store.loadLayout(open())).rejects.toMatchObject({
      kind: "invalid-argument",
      code: "ARCHIVE_INVALID",
    });
    expect(await readdir(paths.tmp)).toEqual([]);
    expect(store.list()).toEqual([]);
  });

  test("whose sender goes away is an error and leaves nothing", async () => {
    const sender = new Readable({ read: () => undefined });
    const loading = store.loadLayout(sender);
    sender.push(Buffer.alloc(10_000));
    sender.destroy(new Error("connection reset"));
    await expect(loading).rejects.toMatchObject({ code: "ARCHIVE_INVALID" });
    expect(await readdir(paths.tmp)).toEqual([]);
  });
});

test("saving a layer that was damaged fails instead of writing other bytes", async () => {
  await store.loadLayout(layout);
  const [dir = ""] = store.lowerDirs(store.resolve(NGINX)?.id ?? "");
  await writeFile(join(dir, "usr/sbin/nginx"), "not nginx");
  await expect(save(join(root, "a.tar"), "docker-archive", "none", [NGINX])).rejects.toMatchObject({
    kind: "data-loss",
    code: "LAYER_DAMAGED",
  });
});
