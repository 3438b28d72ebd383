/**
 * The record of a layer's archive: its exact bytes are made again from the tree, and whatever is
 * changed in the tree or the record is found.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { builtFile } from "../../src/native/index.js";
import { requires } from "../harness/requires.js";
// @ts-expect-error plain JavaScript with JSDoc, outside of this project's root
import { tarArchive } from "../../rootfs-fixtures/tar-writer.mjs";

const PROGRAM = builtFile("minke-layer");

let top: string;
let layer: string;
beforeEach(requires("root"));
beforeEach(() => {
  top = mkdtempSync(join(tmpdir(), "minke-record-"));
  layer = join(top, "layer");
  mkdirSync(join(layer, "fs"), { recursive: true });
});
afterEach(() => rmSync(top, { recursive: true, force: true }));

interface Comparison {
  diffId: string;
  damageCount: number;
  damage: { kind: string; path: string; message: string }[];
}

const sha256 = (bytes: Buffer) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
const file = (path: string, text: string) => ({ path, type: "file", content: Buffer.from(text) });

function unpack(archive: Buffer): void {
  execFileSync(PROGRAM, ["--dest", join(layer, "fs"), "--record", layer], { input: archive });
}

const emitted = (...args: string[]) =>
  spawnSync(PROGRAM, ["--emit", layer, ...args], { maxBuffer: 1 << 30, encoding: "buffer" });

const compared = () => JSON.parse(execFileSync(PROGRAM, ["--verify", layer], { encoding: "latin1" })) as Comparison;

/** A tree with one of everything, as GNU tar packs it. */
function treeArchive(format: string): Buffer {
  const source = join(top, "source");
  mkdirSync(source);
  const script = `
    import os, sys
    os.chdir(sys.argv[1])
    os.makedirs("d/e"); os.mkdir("empty")
    with open("d/sparse", "wb") as f: f.seek(3000000); f.write(b"x" * 5000); f.truncate(9000000)
    with open("d/file", "wb") as f: f.write(b"text" * 1000)
    os.link("d/file", "d/e/hard"); os.symlink("../../x", "d/e/soft")
    os.mkfifo("d/fifo"); os.mknod("null", 0o20666, os.makedev(1, 3))
    open("l" * 150, "w").close(); open("ä" * 100, "w").close()
    os.chown("d/file", 1000, 70000); os.chmod("d/file", 0o4755); os.chmod("empty", 0o1777)
    os.utime("d", ns=(0, 1234567890123456789))
    if sys.argv[2] == "pax": os.setxattr("d/file", "user.bin", b"a\\0b"); os.setxattr("d", "user.dir", b"v")
  `;
  execFileSync("python3", ["-c", script.replace(/^ {4}/gm, ""), source, format]);
  const xattrs = format === "pax" ? ["--xattrs", "--xattrs-include=*"] : [];
  return execFileSync(
    "tar",
    ["--create", `--format=${format}`, "--sparse", "--numeric-owner", ...xattrs, "-C", source, "."],
    { maxBuffer: 1 << 28 },
  );
}

describe("an archive is made again, byte for byte,", () => {
  test.each(["pax", "gnu"])("of every kind of entry as GNU tar's format %s", (format) => {
    const archive = treeArchive(format);
    unpack(archive);
    expect(sha256(emitted("--expect-diffid", sha256(archive)).stdout)).toBe(sha256(archive));
    expect(compared()).toMatchObject({ diffId: sha256(archive), damage: [] });
  });

  test.each<[string, object[]]>([
    ["that names a file twice", [file("a", "first"), file("a", "second!")]],
    ["that puts a file in a directory's place", [file("d/x/y", "deep"), file("d/z", "z"), file("d", "flat")]],
    [
      "that replaces twice",
      [file("d/a", "1"), file("d", "2"), { path: "d", type: "dir" }, file("d/a", "3"), file("d", "4")],
    ],
    [
      "that goes through a link which it then replaces",
      [{ path: "c", type: "dir" }, { path: "a", type: "symlink", target: "c" }, file("a/d/f", "x"), file("a", "y")],
    ],
    [
      "that keeps a hard link to what it replaces",
      [file("a", "kept"), { path: "b", type: "hardlink", target: "a" }, file("a", "new")],
    ],
    [
      "with whiteouts, bodies in them included",
      [file("d/.wh.gone", "body"), file("e/.wh..wh..opq", ""), file("e/f", "")],
    ],
    ["with a whiteout of its own directory", [file("d/f", "x"), file(".wh.d", ""), { path: "g/.wh.h", type: "file" }]],
    ["that names a directory after what is in it", [file("d/f", "x"), { path: "d", type: "dir", mode: 0o711, uid: 5 }]],
  ])("%s", (_, entries) => {
    const archive = Buffer.concat([tarArchive(entries) as Buffer, Buffer.from("bytes after the end")]);
    unpack(archive);
    expect(sha256(emitted().stdout)).toBe(sha256(archive));
    expect(compared()).toMatchObject({ diffId: sha256(archive), damage: [] });
  });

  test("and a damaged tree gives LAYER_DAMAGED instead of other bytes", () => {
    const archive = tarArchive([file("a", "some text"), file("b", "more")]) as Buffer;
    unpack(archive);
    writeFileSync(join(layer, "fs/a"), "same size");
    const { status, stderr } = emitted("--expect-diffid", sha256(archive));
    expect(status).toBe(1);
    expect(JSON.parse(stderr.toString())).toMatchObject({ error: { code: "LAYER_DAMAGED" } });
  });
});

describe("damage is found:", () => {
  const entries = [
    { path: "etc", type: "dir", mode: 0o755, mtimeS: 1000 },
    file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
    file("etc/shadow", "root:*::\n"),
    { path: "bin/sh", type: "symlink", target: "busybox" },
    { path: "bin/su", type: "file", mode: 0o4755, content: Buffer.from("suid") },
    { path: "bin/su2", type: "hardlink", target: "bin/su" },
    { path: "dev/null", type: "char", mode: 0o666, major: 1, minor: 3 },
    { path: "x", type: "file", content: Buffer.from("x"), pax: { "SCHILY.xattr.user.a": "1" } },
    file("lib/.wh.old", ""),
    file("opt/.wh..wh..opq", ""),
  ];
  const damages: [string, string, string, string][] = [
    [
      "other bytes of the same size, with the old time",
      "content",
      "etc/passwd",
      "t=os.stat(p).st_mtime_ns; open(p,'r+').write('toor'); os.utime(p, ns=(t,t))",
    ],
    ["a file that was cut short", "content", "etc/passwd", "os.truncate(p, 3)"],
    ["another mode", "metadata", "etc/shadow", "os.chmod(p, 0o666)"],
    ["another owner", "metadata", "etc/shadow", "os.chown(p, 1000, 0)"],
    ["another time", "metadata", "etc/shadow", "os.utime(p, (5, 5))"],
    ["a lost setuid bit", "metadata", "bin/su", "os.chmod(p, 0o755)"],
    ["a changed attribute", "metadata", "x", "os.setxattr(p, 'user.a', b'2')"],
    ["an attribute more", "metadata", "x", "os.setxattr(p, 'user.b', b'2')"],
    ["a missing file", "missing", "etc/passwd", "os.unlink(p)"],
    ["an added file", "added", "etc/evil", "open(p, 'w').close()"],
    ["a link that leads elsewhere", "content", "bin/sh", "os.unlink(p); os.symlink('evil', p)"],
    ["a hard link made a copy", "metadata", "bin/su", "os.unlink(p + '2'); shutil.copy2(p, p + '2')"],
    ["a device made a file", "metadata", "dev/null", "os.unlink(p); open(p, 'w').close()"],
    ["a removed whiteout", "missing", "lib/old", "os.unlink(p)"],
    ["a directory that is no longer opaque", "metadata", "opt", "os.removexattr(p, 'trusted.overlay.opaque')"],
    ["another mode of a directory that no entry names", "metadata", "bin", "os.chmod(p, 0o777)"],
  ];

  test.each(damages)("%s is %s", (_, kind, path, script) => {
    unpack(tarArchive(entries) as Buffer);
    expect(compared().damage).toEqual([]);
    execFileSync("python3", ["-c", `import os,sys,shutil; p=sys.argv[1]; ${script}`, join(layer, "fs", path)]);
    expect(compared().damage).toContainEqual(
      expect.objectContaining({ kind, path: expect.stringMatching(path) as string }),
    );
  });

  test("bytes in a hole of a sparse file are content", () => {
    unpack(treeArchive("pax"));
    execFileSync("python3", [
      "-c",
      "import os,sys; p=sys.argv[1]; t=os.stat(p).st_mtime_ns; f=open(p,'r+b'); f.seek(1000); f.write(b'!'); f.close(); os.utime(p, ns=(t,t))",
      join(layer, "fs/d/sparse"),
    ]);
    expect(compared().damage).toEqual([expect.objectContaining({ kind: "content", path: "d/sparse" })]);
  });

  test.each(["cut short", "changed", "grown", "gone"])("a record that is %s is record", (how) => {
    unpack(tarArchive(entries) as Buffer);
    const record = join(layer, "tar-record.zst");
    const bytes = readFileSync(record);
    if (how === "cut short") writeFileSync(record, bytes.subarray(0, bytes.length - 7));
    else if (how === "grown") appendFileSync(record, "x");
    else if (how === "gone") rmSync(record);
    else {
      bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 0x10;
      writeFileSync(record, bytes);
    }
    expect(compared().damage).toEqual([expect.objectContaining({ kind: "record" })]);
  });
});

test("what a directory and its children occupy is what du says", () => {
  unpack(treeArchive("pax"));
  const usage = JSON.parse(execFileSync(PROGRAM, ["--usage", layer], { encoding: "latin1" })) as {
    bytes: number;
    children: { name: string; bytes: number }[];
  };
  const sum = usage.children.reduce((total, { bytes }) => total + bytes, usage.bytes);
  expect(sum).toBe(Number(execFileSync("du", ["-s", "-B1", layer], { encoding: "utf8" }).split("\t")[0]));
  expect(usage.children.map(({ name }) => name).sort()).toEqual(readdirSync(layer).sort());
});
