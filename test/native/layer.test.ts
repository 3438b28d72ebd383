import { execFileSync, spawnSync } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
// @ts-expect-error plain JavaScript with JSDoc, outside of this project's root
import { tarArchive } from "../../rootfs-fixtures/tar-writer.mjs";
import { fixtureLayout } from "../harness/fixtures.js";

const PROGRAM = fileURLToPath(new URL("../../build/Release/minke-layer", import.meta.url));

interface TarEntry {
  path: string;
  type: "file" | "dir" | "symlink" | "hardlink" | "char" | "block" | "fifo";
  mode?: number;
  uid?: number;
  gid?: number;
  mtimeS?: number;
  content?: Buffer;
  target?: string;
  major?: number;
  minor?: number;
  pax?: Record<string, string | Buffer>;
}

let top: string;
let dest: string;
beforeEach(() => {
  top = mkdtempSync(join(tmpdir(), "minke-layer-test-"));
  dest = join(top, "dest");
  mkdirSync(dest);
});
afterEach(() => rmSync(top, { recursive: true, force: true }));

function unpack(
  stream: Buffer,
  ...args: string[]
): Record<string, unknown> & { error?: { code: string; errno?: string } } {
  const { stdout, stderr, status } = spawnSync(PROGRAM, ["--dest", dest, ...args], { input: stream });
  expect(stderr.toString()).toBe("");
  const answer = JSON.parse(stdout.toString()) as Record<string, unknown> & { error?: { code: string } };
  expect(status).toBe(answer.error ? 1 : 0);
  return answer;
}
const unpackEntries = (...entries: TarEntry[]) => unpack(tarArchive(entries) as Buffer);
const DIR: TarEntry = { path: "d", type: "dir" };
const file = (path: string, text = "x"): TarEntry => ({ path, type: "file", content: Buffer.from(text) });
const refused = (code: string) => ({ error: expect.objectContaining({ code }) as unknown });
const zstd = (bytes: Buffer) => spawnSync(PROGRAM, ["--compress", "zstd"], { input: bytes, maxBuffer: 2 ** 30 }).stdout;
const xattr = (path: string, name: string) =>
  execFileSync("python3", [
    "-c",
    "import os,sys; print(os.getxattr(sys.argv[1], sys.argv[2], follow_symlinks=False).hex())",
    path,
    name,
  ])
    .toString()
    .trim();

describe("metadata", () => {
  test("owners, modes with setuid, and times in ns are exact, directories' last", () => {
    unpackEntries(
      { path: "d", type: "dir", mode: 0o1777, uid: 7, gid: 8, mtimeS: 1000 },
      { ...file("d/f"), mode: 0o4755, uid: 33, gid: 34, pax: { mtime: "1234567890.123456789" } },
      { path: "d/l", type: "symlink", target: "/etc/../x", uid: 5, gid: 6, mtimeS: 77 },
    );
    const d = lstatSync(join(dest, "d"), { bigint: true });
    expect([d.mode & 0o7777n, d.uid, d.gid, d.mtimeNs]).toEqual([0o1777n, 7n, 8n, 1_000_000_000_000n]);
    const f = lstatSync(join(dest, "d/f"), { bigint: true });
    expect([f.mode & 0o7777n, f.uid, f.gid, f.mtimeNs]).toEqual([0o4755n, 33n, 34n, 1_234_567_890_123_456_789n]);
    const l = lstatSync(join(dest, "d/l"), { bigint: true });
    expect([l.uid, l.gid, l.mtimeNs]).toEqual([5n, 6n, 77_000_000_000n]);
    expect(readlinkSync(join(dest, "d/l"))).toBe("/etc/../x");
  });

  test("a time before 1970 with a fraction is exact", () => {
    unpackEntries({ ...file("f"), pax: { mtime: "-1.25" } });
    expect(lstatSync(join(dest, "f"), { bigint: true }).mtimeNs).toBe(-1_250_000_000n);
  });

  test("security.capability keeps its raw bytes after the owner is set", () => {
    const capability = Buffer.from("0100000200200000000000000000000000000000", "hex");
    unpackEntries({ ...file("ping"), uid: 1, pax: { "SCHILY.xattr.security.capability": capability } });
    expect(xattr(join(dest, "ping"), "security.capability")).toBe(capability.toString("hex"));
  });

  test("devices and FIFOs are made with their numbers", () => {
    unpackEntries(
      { path: "null", type: "char", major: 1, minor: 3, mode: 0o666 },
      { path: "sda", type: "block", major: 8, minor: 300 },
      { path: "pipe", type: "fifo" },
    );
    expect(lstatSync(join(dest, "null")).rdev).toBe(0x103);
    expect(lstatSync(join(dest, "sda")).isBlockDevice()).toBe(true);
    expect(lstatSync(join(dest, "pipe")).isFIFO()).toBe(true);
  });

  test("names that are not UTF-8 keep their bytes", () => {
    unpackEntries({ ...file("x"), pax: { path: Buffer.from([0x66, 0xff, 0xfe]) } });
    expect(readdirSync(dest, { encoding: "buffer" })[0]).toEqual(Buffer.from([0x66, 0xff, 0xfe]));
    rmSync(dest, { recursive: true, force: true, maxRetries: 0 });
    expect(spawnSync(PROGRAM, ["--remove", dest]).status).toBe(0);
    expect(existsSync(dest)).toBe(false);
  });
});

describe("overlay form", () => {
  test("a whiteout is a char device 0:0 and an opaque marker an attribute", () => {
    unpackEntries(file("d/.wh.gone"), file("o/.wh..wh..opq"), file("o/kept"));
    const device = lstatSync(join(dest, "d/gone"));
    expect(device.isCharacterDevice() && device.rdev === 0).toBe(true);
    expect(xattr(join(dest, "o"), "trusted.overlay.opaque")).toBe("79");
    expect(readdirSync(join(dest, "o"))).toEqual(["kept"]);
  });

  test.each([
    ["before", [file(".wh.d"), { path: "d", type: "dir" }, file("d/new")] as TarEntry[]],
    ["after", [{ path: "d", type: "dir" }, file("d/new"), file(".wh.d")] as TarEntry[]],
  ])("a whiteout %s a directory of the same layer makes it opaque", (_, entries) => {
    unpackEntries(...entries);
    expect(readFileSync(join(dest, "d/new"), "utf8")).toBe("x");
    expect(xattr(join(dest, "d"), "trusted.overlay.opaque")).toBe("79");
  });
});

describe("a hostile layer", () => {
  test.each<[string, string, TarEntry[]]>([
    ["a name with ..", "LAYER_REFUSED", [file("../escaped")]],
    ["a name with .. inside", "LAYER_REFUSED", [file("a/../../escaped")]],
    ["a hard link out", "LAYER_REFUSED", [{ path: "l", type: "hardlink", target: "../../etc/passwd" }]],
    ["a hard link to a file of the host", "LAYER_REFUSED", [{ path: "l", type: "hardlink", target: "/etc/hostname" }]],
    [
      "an overlayfs attribute",
      "LAYER_REFUSED",
      [{ ...file("f"), pax: { "SCHILY.xattr.trusted.overlay.redirect": "/etc" } }],
    ],
    ["a file below a file", "LAYER_REFUSED", [file("f"), file("f/g")]],
    ["a device 0:0", "LAYER_REFUSED", [{ path: "c", type: "char", major: 0, minor: 0 }]],
    ["a whiteout of ..", "LAYER_REFUSED", [file("d/.wh...")]],
    ["a whiteout of .", "LAYER_REFUSED", [file("d/.wh..")]],
    ["a hard link to a whiteout", "LAYER_REFUSED", [file(".wh.x"), { path: "y", type: "hardlink", target: "x" }]],
    ["a hard link to a directory", "LAYER_REFUSED", [DIR, { path: "h", type: "hardlink", target: "d" }]],
    [
      "a hard link through a link to the host",
      "LAYER_REFUSED",
      [
        { path: "e", type: "symlink", target: "/etc" },
        { path: "h", type: "hardlink", target: "e/hostname" },
      ],
    ],
    [
      "a directory that becomes a link to the host",
      "LAYER_REFUSED",
      [DIR, file("d/a"), { path: "d", type: "symlink", target: "/etc" }, file("d/escaped")],
    ],
    ["a loop of links", "LAYER_REFUSED", [{ path: "a", type: "symlink", target: "a" }, file("a/escaped")]],
    ["a file below a FIFO", "LAYER_REFUSED", [{ path: "p", type: "fifo" }, file("p/escaped")]],
    ["a file as its root", "LAYER_REFUSED", [file(".")]],
    ["a link as its root", "LAYER_REFUSED", [{ path: "./", type: "symlink", target: "/etc" }]],
    ["a path of 2,500 directories", "LAYER_REFUSED", [file(`${"d/".repeat(2500)}f`)]],
    [
      "an attribute of 128 KiB",
      "LAYER_TOO_LARGE",
      [{ ...file("f"), pax: { "SCHILY.xattr.user.a": "A".repeat(131072) } }],
    ],
    ["a pax header of 8 MiB", "LAYER_TOO_LARGE", [{ ...file("f"), pax: { comment: "A".repeat(8 << 20) } }]],
    ["a negative size", "LAYER_CORRUPT", [{ ...file("f"), pax: { size: "-5" } }]],
    ["a size beyond 64 bits", "LAYER_CORRUPT", [{ ...file("f"), pax: { size: "18446744073709551621" } }]],
    ["a time that is none", "LAYER_CORRUPT", [{ ...file("f"), pax: { mtime: "nan" } }]],
    ["a NUL in a pax name", "LAYER_CORRUPT", [{ ...file("f"), pax: { path: "a\0b" } }]],
    ["an owner beyond 32 bits", "LAYER_CORRUPT", [{ ...file("f"), pax: { uid: "4294967295" } }]],
    ["a name longer than 255 bytes", "LAYER_REFUSED", [file("n".repeat(256))]],
  ])("with %s is %s", (_, code, entries) => {
    expect(unpackEntries(...entries)).toMatchObject(refused(code));
    expect(existsSync(join(top, "escaped"))).toBe(false);
  });

  test("with a device in the place of one name of a file leaves the other name", () => {
    unpackEntries(
      file("a", "whole"),
      { path: "b", type: "hardlink", target: "a" },
      { path: "b", type: "char", major: 1, minor: 3 },
    );
    expect(readFileSync(join(dest, "a"), "utf8")).toBe("whole");
    expect(lstatSync(join(dest, "b")).isCharacterDevice()).toBe(true);
  });

  test("with a hard link to a link that leads out replaces the link", () => {
    unpackEntries(
      { path: "s", type: "symlink", target: join(top, "escaped") },
      { path: "h", type: "hardlink", target: "s" },
      file("h"),
    );
    expect(readFileSync(join(dest, "h"), "utf8")).toBe("x");
    expect(existsSync(join(top, "escaped"))).toBe(false);
  });

  test("with links out of it writes inside, as a container would see them", () => {
    unpackEntries(
      { path: "etc", type: "symlink", target: "../../../../inside" },
      { path: "inside", type: "dir" },
      file("etc/passwd", "evil"),
    );
    expect(readFileSync(join(dest, "inside/passwd"), "utf8")).toBe("evil");
    expect(existsSync(join(top, "inside"))).toBe(false);
  });

  test("with an absolute link on the way writes below the layer's own root", () => {
    unpackEntries(
      { path: `inner${top}`, type: "dir" },
      { path: "out", type: "symlink", target: top },
      { path: top.slice(1), type: "dir" },
      file("out/escaped"),
    );
    expect(existsSync(join(top, "escaped"))).toBe(false);
    expect(readFileSync(join(dest, top, "escaped"), "utf8")).toBe("x");
  });

  test("with a file in the place of a link replaces the link, not what it points at", () => {
    writeFileSync(join(top, "victim"), "untouched");
    unpackEntries({ path: "l", type: "symlink", target: join(top, "victim") }, file("l", "new"));
    expect(readFileSync(join(top, "victim"), "utf8")).toBe("untouched");
    expect(readFileSync(join(dest, "l"), "utf8")).toBe("new");
  });

  test.each([
    ["gzip", gzipSync],
    ["zstd", zstd],
  ])("that grows beyond the limit out of %s is LAYER_TOO_LARGE", (_, pack) => {
    const bomb = pack(tarArchive([{ path: "zeros", type: "file", content: Buffer.alloc(8 << 20) }]) as Buffer);
    expect(unpack(bomb, "--max-bytes", String(1 << 20))).toMatchObject(refused("LAYER_TOO_LARGE"));
  });
});

describe("streams", () => {
  const archive = tarArchive([file("f", "content")]) as Buffer;

  test.each([
    ["cut gzip", () => gzipSync(archive).subarray(0, -9), "LAYER_TRUNCATED"],
    ["cut tar", () => archive.subarray(0, 700), "LAYER_TRUNCATED"],
    ["garbage after gzip", () => Buffer.concat([gzipSync(archive), Buffer.from("garbage")]), "LAYER_CORRUPT"],
    ["wrong gzip checksum", () => Buffer.concat([gzipSync(archive).subarray(0, -8), Buffer.alloc(8)]), "LAYER_CORRUPT"],
    ["zeros after gzip", () => Buffer.concat([gzipSync(archive), Buffer.alloc(512)]), "LAYER_CORRUPT"],
    ["gzip in gzip", () => gzipSync(gzipSync(archive)), "LAYER_TRUNCATED"],
    ["garbage after zstd", () => Buffer.concat([zstd(archive), Buffer.from("garbage")]), "LAYER_CORRUPT"],
    ["zstd of a dictionary", () => Buffer.from("28b52ffd23010203040102030401020304", "hex"), "LAYER_CORRUPT"],
    ["zstd with a window of 2 GiB", () => Buffer.from(`28b52ffd00a8${"00".repeat(64)}`, "hex"), "LAYER_TOO_LARGE"],
    ["noise", () => Buffer.alloc(2048, 0x55), "LAYER_CORRUPT"],
  ])("%s is refused", (_, stream, code) => {
    expect(unpack(stream())).toMatchObject(refused(code));
  });

  test("of several gzip members are one archive", () => {
    const answer = unpack(Buffer.concat([gzipSync(archive.subarray(0, 600)), gzipSync(archive.subarray(600))]));
    expect(answer).toMatchObject({ entries: 1, bytes: archive.length, compression: "gzip" });
  });

  test("that do not have the expected diffID are DIGEST_MISMATCH", () => {
    expect(unpack(archive, "--expect-diffid", `sha256:${"0".repeat(64)}`)).toMatchObject(refused("DIGEST_MISMATCH"));
  });
});

describe("as GNU tar", () => {
  const listing = (dir: string) =>
    execFileSync(
      "sh",
      [
        "-c",
        "find . -mindepth 1 ! -type d -printf '%p %y %m %U %G %s %n %T@ %l\\n' -o -printf '%p %y %m %U %G\\n' | LC_ALL=C sort",
      ],
      { cwd: dir },
    ).toString();

  function expectSame(archive: string, extract: string[]): void {
    const other = join(top, "gnu");
    mkdirSync(other);
    execFileSync("tar", [
      "--xattrs",
      "--xattrs-include=*",
      "--numeric-owner",
      "-xpf",
      archive,
      "-C",
      other,
      ...extract,
    ]);
    expect(unpack(readFileSync(archive))).not.toHaveProperty("error");
    expect(listing(dest)).toBe(listing(other));
    execFileSync("diff", ["-r", "--no-dereference", dest, other]);
    rmSync(other, { recursive: true });
    spawnSync(PROGRAM, ["--remove", dest]);
    mkdirSync(dest);
  }

  test("unpacks every layer of the fixtures", async () => {
    const layout = await fixtureLayout();
    const blobs = readdirSync(join(layout, "blobs/sha256")).map((name) => join(layout, "blobs/sha256", name));
    const layers = blobs.filter((path) => readFileSync(path).readUInt16BE(0) === 0x1f8b);
    expect(layers).toHaveLength(3);
    for (const layer of layers) expectSame(layer, []);
  });

  test.each(["gnu", "oldgnu", "posix", "ustar", "v7"])("unpacks what it wrote in format %s", (format) => {
    const tree = join(top, "tree");
    mkdirSync(join(tree, "deep/er"), { recursive: true });
    writeFileSync(join(tree, "deep/er/file"), "content");
    if (format !== "ustar" && format !== "v7") {
      mkdirSync(join(tree, "n".repeat(120)));
      writeFileSync(join(tree, "n".repeat(120), "m".repeat(150)), "long");
      writeFileSync(join(tree, "sparse"), "begin");
      truncateSync(join(tree, "sparse"), 50 << 20);
      execFileSync(
        "sh",
        [
          "-c",
          "for i in 1 3 5 7 9 11 13; do printf data | dd of=sparse bs=1 seek=$((i * 3000000)) conv=notrunc status=none; done; ln deep/er/file hard; ln -s deep soft",
        ],
        { cwd: tree },
      );
    }
    const sparse = existsSync(join(tree, "sparse")) ? ["-S"] : [];
    execFileSync("tar", [`--format=${format}`, ...sparse, "-cf", join(top, "a.tar"), "-C", tree, "."]);
    expectSame(join(top, "a.tar"), []);
  });

  test.each(["0.0", "0.1", "1.0"])("unpacks sparse files of pax format %s with their holes", (version) => {
    const tree = join(top, "tree");
    mkdirSync(tree);
    writeFileSync(join(tree, "sparse"), "begin");
    truncateSync(join(tree, "sparse"), 20 << 20);
    execFileSync(
      "sh",
      ["-c", "for i in 1 3 5; do printf data | dd of=sparse bs=1 seek=$((i * 3000000)) conv=notrunc status=none; done"],
      { cwd: tree },
    );
    execFileSync("tar", [
      "--format=posix",
      `--sparse-version=${version}`,
      "-S",
      "-cf",
      join(top, "a.tar"),
      "-C",
      tree,
      ".",
    ]);
    expect(unpack(readFileSync(join(top, "a.tar")))).toMatchObject({ entries: 2 });
    expect(readFileSync(join(dest, "sparse")).equals(readFileSync(join(tree, "sparse")))).toBe(true);
    expect(lstatSync(join(dest, "sparse")).blocks).toBeLessThan(1000);
  });
});
