import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { builtFile } from "../../src/native/index.js";
import { readInLayers } from "../../src/image/layer-lookup.js";
import { requires } from "../harness/requires.js";
// @ts-expect-error plain JavaScript with JSDoc, outside of this project's root
import { tarArchive } from "../../rootfs-fixtures/tar-writer.mjs";

let top: string;
beforeEach(requires("root"));
beforeEach(() => {
  top = mkdtempSync(join(tmpdir(), "minke-lookup-"));
});
afterEach(() => rmSync(top, { recursive: true, force: true }));

function layer(name: string, files: Record<string, string>): string {
  const dir = join(top, name);
  mkdirSync(dir);
  const entries = Object.entries(files).map(([path, text]) => ({ path, type: "file", content: Buffer.from(text) }));
  execFileSync(builtFile("minke-layer"), ["--dest", dir], { input: tarArchive(entries) as Buffer });
  return dir;
}
const read = async (dirs: string[], path: string) => (await readInLayers(dirs, path, 100))?.toString();

test("an opaque directory shows nothing of the layers below, a plain one does", async () => {
  const upper = layer("upper", { "etc/.wh..wh..opq": "", "etc/own": "own", "usr/own": "own" });
  const lower = layer("lower", { "etc/passwd": "lower", "usr/passwd": "lower" });
  expect(await read([upper, lower], "/etc/own")).toBe("own");
  expect(await read([upper, lower], "/etc/passwd")).toBeUndefined();
  expect(await read([upper, lower], "/usr/passwd")).toBe("lower");
});

test("a directory made opaque two layers up hides both below", async () => {
  const dirs = [layer("a", { "etc/a": "a" }), layer("b", { "etc/.wh..wh..opq": "" }), layer("c", { "etc/c": "c" })];
  expect(await read(dirs, "/etc/a")).toBe("a");
  expect(await read(dirs, "/etc/c")).toBeUndefined();
});
