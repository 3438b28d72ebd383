/**
 * What minke-layer unpacks beside what GNU tar and umoci unpack, by a full walk of all metadata.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { builtFile } from "../../src/native/index.js";
import { openPeers, type Peers } from "../harness/peers.js";
import { requires } from "../harness/requires.js";
import { treeDifferences, walkTrees } from "../harness/tree.js";
// @ts-expect-error plain JavaScript with JSDoc, outside of this project's root
import { tarArchive } from "../../rootfs-fixtures/tar-writer.mjs";

let top: string;
let peers: Peers;
beforeAll(async () => {
  peers = await openPeers(tmpdir());
}, 120_000);
beforeEach(requires("root"));
beforeEach(() => {
  top = mkdtempSync(join(tmpdir(), "minke-exact-"));
});
afterEach(() => rmSync(top, { recursive: true, force: true }));

function made(name: string): string {
  const dir = join(top, name);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { mode: 0o755 });
  return dir;
}

function byMinke(archive: Buffer): string {
  const dir = made("minke");
  execFileSync(builtFile("minke-layer"), ["--dest", dir], { input: archive, maxBuffer: 1 << 20 });
  return dir;
}

const TAR = [
  "--extract",
  "--same-owner",
  "--same-permissions",
  "--numeric-owner",
  "--xattrs",
  "--xattrs-include=*",
  "--delay-directory-restore",
];

function byTar(archive: Buffer): string {
  const dir = made("tar");
  const { status, stderr } = spawnSync("tar", [...TAR, "--file=-", "-C", dir], { input: archive });
  if (status !== 0) throw new Error(`tar: ${stderr.toString()}`);
  return dir;
}

/** A layout of one image of that one layer, unpacked. */
async function byUmoci(archive: Buffer): Promise<string> {
  const layout = made("layout");
  mkdirSync(join(layout, "blobs/sha256"), { recursive: true });
  const digestOf = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
  const put = (bytes: Buffer, mediaType: string) => {
    writeFileSync(join(layout, "blobs/sha256", digestOf(bytes)), bytes);
    return { mediaType, digest: `sha256:${digestOf(bytes)}`, size: bytes.length };
  };
  const rootfs = { type: "layers", diff_ids: [`sha256:${digestOf(archive)}`] };
  const config = { architecture: "amd64", os: "linux", config: {}, rootfs };
  const oci = "application/vnd.oci.image";
  const layer = put(gzipSync(archive, { level: 1 }), `${oci}.layer.v1.tar+gzip`);
  const manifest = {
    schemaVersion: 2,
    mediaType: `${oci}.manifest.v1+json`,
    config: put(Buffer.from(JSON.stringify(config)), `${oci}.config.v1+json`),
    layers: [layer],
  };
  const annotations = { "org.opencontainers.image.ref.name": "t" };
  const entry = { ...put(Buffer.from(JSON.stringify(manifest)), manifest.mediaType), annotations };
  writeFileSync(join(layout, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
  writeFileSync(join(layout, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
  const bundle = join(top, "bundle");
  rmSync(bundle, { recursive: true, force: true });
  await peers.run("umoci", ["unpack", "--image", `${layout}:t`, bundle], { timeoutMs: 120_000 });
  return join(bundle, "rootfs");
}

test("a Debian tree of some hundred MB is what GNU tar and umoci make of it", async () => {
  const archive = execFileSync(
    "tar",
    ["--create", "--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", peers.root, "."],
    { maxBuffer: 2 ** 31 },
  );
  expect(archive.length).toBeGreaterThan(100_000_000);
  const [minke = [], tar = [], umoci = []] = walkTrees(byMinke(archive), byTar(archive), await byUmoci(archive));
  expect(minke.length).toBeGreaterThan(500);
  expect(treeDifferences(minke, tar)).toEqual([]);
  expect(treeDifferences(minke, umoci)).toEqual([]);
}, 180_000);

test("special files, attributes, sparse files and hard links are what GNU tar makes of them", () => {
  const source = made("source");
  const script = `
    import os, sys
    os.chdir(sys.argv[1])
    os.makedirs("d/e"); os.mkdir("closed"); os.mkdir("sticky")
    with open("d/sparse", "wb") as f: f.seek(3000000); f.write(b"x" * 5000); f.truncate(9000000)
    with open("d/file", "wb") as f: f.write(b"text")
    os.link("d/file", "d/e/hard"); os.symlink("../../x", "d/e/soft"); os.symlink("/etc/x", "abs")
    os.link("d/e/soft", "d/e/soft-too", follow_symlinks=False)
    os.mkfifo("d/fifo"); os.mknod("null", 0o20666, os.makedev(1, 3)); os.mknod("sda", 0o60640, os.makedev(8, 4097))
    open(b"bytes-\\xff\\xfe", "w").close(); open("ä" * 120, "w").close()
    os.setxattr("d/file", "user.bin", b"a\\0b\\n=\\xff"); os.setxattr("d", "user.dir", b"")
    open("ping", "w").close(); os.chown("ping", 0, 7)
    os.setxattr("ping", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.chown("d/file", 100000, 70000); os.chown("abs", 5, 6, follow_symlinks=False)
    os.chmod("d/file", 0o6755); os.chmod("sticky", 0o1777); os.chmod("closed", 0o555)
    for path, ns in [("d/fifo", 7), ("abs", -1500000000), ("d/e", 1234567890123456789), ("d", 10**18)]:
        os.utime(path, ns=(0, ns), follow_symlinks=False)
  `;
  const lines = script.split("\n").map((line) => line.slice(4));
  execFileSync("python3", ["-c", lines.join("\n"), source]);
  for (const [format, ...options] of [
    ["pax", "--sparse", "--sparse-version=1.0"],
    ["pax", "--sparse", "--sparse-version=0.1"],
    ["pax", "--sparse", "--sparse-version=0.0"],
    ["pax"],
  ]) {
    const create = ["--create", `--format=${format}`, "--numeric-owner", "--xattrs", "--xattrs-include=*", ...options];
    const archive = execFileSync("tar", [...create, "-C", source, "."], { maxBuffer: 2 ** 28 });
    const [minke = [], tar = [], original = []] = walkTrees(byMinke(archive), byTar(archive), source);
    expect(treeDifferences(minke, tar)).toEqual([]);
    expect(treeDifferences(minke, original)).toEqual([]);
  }
  // GNU's own format has whole seconds and no attributes.
  const archive = execFileSync("tar", ["--create", "--format=gnu", "--sparse", "--numeric-owner", "-C", source, "."], {
    maxBuffer: 2 ** 28,
  });
  const [minke = [], tar = []] = walkTrees(byMinke(archive), byTar(archive));
  expect(treeDifferences(minke, tar)).toEqual([]);
});

const name = fc.oneof(
  fc.constantFrom("a", "b", "c", "dir", "x.so.1", "weiß", "..data", ".hidden"),
  fc
    .string({ unit: "grapheme", minLength: 1, maxLength: 40 })
    .filter((text) => !/[/\0]|^\.{1,2}$|^\.wh\.|[\ud800-\udfff]/.test(text)),
  fc.string({ unit: fc.constantFrom("l", "o"), minLength: 90, maxLength: 120 }),
);
const attributes = fc.dictionary(
  fc.constantFrom("user.one", "user.two", "trusted.three"),
  fc.uint8Array({ minLength: 1, maxLength: 60 }),
  { maxKeys: 2 },
);
const metadata = {
  mode: fc.integer({ min: 0, max: 0o7777 }),
  uid: fc.nat(200_000),
  gid: fc.nat(200_000),
  mtimeS: fc.nat(2_000_000_000),
  ns: fc.nat(999_999_999),
};
const node = fc.oneof(
  fc.record({ type: fc.constant("file"), content: fc.uint8Array({ maxLength: 3000 }), attributes, ...metadata }),
  fc.record({ type: fc.constant("dir"), attributes, ...metadata }),
  fc.record({ type: fc.constant("symlink"), target: name, ...metadata }),
  fc.record({ type: fc.constant("fifo"), ...metadata }),
  fc.record({
    type: fc.constant("char"),
    major: fc.integer({ min: 1, max: 4095 }),
    minor: fc.nat(0xfffff),
    ...metadata,
  }),
);

interface DrawnEntry {
  readonly path: string;
  readonly type: string;
  readonly target?: string;
  readonly content?: Buffer;
  readonly pax?: Record<string, string | Buffer>;
}

/** Entries of a tree: directories before what they hold; each name once; now and then a hard link. */
const tree = fc.array(fc.tuple(fc.nat(), name, node, fc.nat(9)), { maxLength: 25 }).map((drawn) => {
  const dirs = [""];
  const files: string[] = [];
  const seen = new Set<string>();
  return drawn.flatMap(([at, leaf, what, chance]): DrawnEntry[] => {
    const path = `${dirs[at % dirs.length] ?? ""}${leaf}`;
    if (seen.has(path) || path.length > 900) return [];
    seen.add(path);
    const target = files[at % Math.max(files.length, 1)];
    if (chance === 0 && target !== undefined) return [{ path, type: "hardlink", target }];
    if (what.type === "dir") dirs.push(`${path}/`);
    if (what.type === "file") files.push(path);
    const pax: Record<string, string | Buffer> = { mtime: `${what.mtimeS}.${String(what.ns).padStart(9, "0")}` };
    for (const [key, value] of Object.entries("attributes" in what ? what.attributes : {})) {
      pax[`SCHILY.xattr.${key}`] = Buffer.from(value);
    }
    const { content, ...rest } = { content: undefined, ...what };
    return [{ ...rest, path, pax, ...(content ? { content: Buffer.from(content) } : {}) }];
  });
});

test("random trees are what GNU tar makes of them", () => {
  fc.assert(
    fc.property(tree, (entries) => {
      const archive = tarArchive(entries) as Buffer;
      const [minke = [], tar = []] = walkTrees(byMinke(archive), byTar(archive));
      // Neither archive names the root, whose time is then that of the unpacking.
      expect(treeDifferences(minke.slice(1), tar.slice(1))).toEqual([]);
    }),
    { numRuns: Number(process.env["MINKE_EXACT_RUNS"] ?? 30), endOnFailure: true },
  );
}, 120_000);
