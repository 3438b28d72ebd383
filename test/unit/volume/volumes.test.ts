/** Volumes on the real file system: made, kept, removed, never led elsewhere. */
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { PodUid } from "../../../src/base/ids.js";
import { Paths } from "../../../src/settings/paths.js";
import { removeTree } from "../../../src/native/index.js";
import { openSubPath, Volumes } from "../../../src/volume/volumes.js";

const UID = "uid-1" as PodUid;
let dir: string;
let volumes: Volumes;
const mounted: string[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "minke-volume-test-"));
  mounted.length = 0;
  const mounts = {
    mountTmpfs: async (path: string, { sizeBytes }: { sizeBytes: number }) => void mounted.push(`${path} ${sizeBytes}`),
    unmount: async () => undefined,
  };
  volumes = new Volumes(new Paths(join(dir, "root"), join(dir, "run")), mounts);
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
});

describe("prepare", () => {
  test("makes an emptyDir of mode 0777 below directories of mode 0700, and keeps its content", async () => {
    const path = (await volumes.prepare(UID, [{ kind: "directory", name: "v" }], undefined)).get("v") ?? "";
    writeFileSync(join(path, "file"), "kept");
    expect((await volumes.prepare(UID, [{ kind: "directory", name: "v" }], undefined)).get("v")).toBe(path);
    expect(readFileSync(join(path, "file"), "utf8")).toBe("kept");
    expect(statSync(path).mode & 0o7777).toBe(0o777);
    expect(statSync(join(path, "..")).mode & 0o7777).toBe(0o700);
    expect(await volumes.list()).toEqual(new Set([UID]));
  });

  test("mounts a tmpfs of the size limit for a memory volume", async () => {
    await volumes.prepare(UID, [{ kind: "memory", name: "m", sizeBytes: 4096 }], undefined);
    expect(mounted).toEqual([`${join(dir, "run/tmpfs/volumes", UID, "m")} 4096`]);
  });

  test.each([
    ["Directory", "file", "is a File"],
    ["File", "directory", "is a Directory"],
    ["Socket", "file", "is a File"],
    ["Directory", "missing", "does not exist"],
  ] as const)("a hostPath of type %s that is a %s is HOST_PATH_TYPE", async (type, name, text) => {
    writeFileSync(join(dir, "file"), "");
    mkdirSync(join(dir, "directory"));
    const prepared = volumes.prepare(UID, [{ kind: "host", name: "h", path: join(dir, name), type }], undefined);
    await expect(prepared).rejects.toMatchObject({ code: "HOST_PATH_TYPE", message: expect.stringContaining(text) });
  });

  test("makes what a hostPath of type …OrCreate lacks", async () => {
    await volumes.prepare(
      UID,
      [
        { kind: "host", name: "d", path: join(dir, "a/b"), type: "DirectoryOrCreate" },
        { kind: "host", name: "f", path: join(dir, "a/f"), type: "FileOrCreate" },
      ],
      undefined,
    );
    expect([statSync(join(dir, "a/b")).isDirectory(), statSync(join(dir, "a/f")).isFile()]).toEqual([true, true]);
  });
});

describe("remove", () => {
  test("takes everything of the UID and never follows a link", async () => {
    const path = (await volumes.prepare(UID, [{ kind: "directory", name: "v" }], undefined)).get("v") ?? "";
    mkdirSync(join(dir, "outside"));
    writeFileSync(join(dir, "outside/precious"), "x");
    symlinkSync(join(dir, "outside"), join(path, "link"));
    mkdirSync(join(path, "deep/er"), { recursive: true });
    writeFileSync(Buffer.concat([Buffer.from(`${path}/deep/`), Buffer.from([0xff, 0xfe])]), "not UTF-8");
    chmodSync(join(path, "deep/er"), 0o700);
    await volumes.remove(UID);
    expect(existsSync(join(dir, "root/volumes", UID))).toBe(false);
    expect(existsSync(join(dir, "outside/precious"))).toBe(true);
    await volumes.remove(UID);
  });

  test("of a link in place of the tree refuses", async () => {
    mkdirSync(join(dir, "outside"));
    symlinkSync(join(dir, "outside"), join(dir, "link"));
    await expect(removeTree(join(dir, "link"))).rejects.toMatchObject({ syscall: { errno: "ENOTDIR" } });
    expect(lstatSync(join(dir, "outside")).isDirectory()).toBe(true);
  });
});

describe("a subPath", () => {
  test("is made where it is missing and opened below its volume", async () => {
    const opened = await openSubPath(dir, "a//b/./c");
    onTestFinished(() => opened.close());
    expect(statSync(`/proc/self/fd/${opened.fd}`).ino).toBe(statSync(join(dir, "a/b/c")).ino);
  });

  test.each(["link", "link/etc", "../x"])("%s that leads through a link or out is refused", async (path) => {
    const volume = join(dir, "volume");
    mkdirSync(volume);
    symlinkSync("/", join(volume, "link"));
    await expect(openSubPath(volume, path)).rejects.toMatchObject({ code: "SUB_PATH_ESCAPES" });
    expect(existsSync(join(dir, "x"))).toBe(false);
  });
});
