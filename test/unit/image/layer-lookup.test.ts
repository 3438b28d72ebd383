import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { readInLayers } from "../../../src/image/layer-lookup.js";

let top: string;
let layers: [string, string];
beforeEach(async () => {
  top = await mkdtemp(join(tmpdir(), "minke-layers-"));
  layers = [join(top, "upper"), join(top, "lower")];
  for (const layer of layers) await mkdir(layer);
});
afterEach(() => rm(top, { recursive: true }));

async function put(layer: 0 | 1, path: string, text: string): Promise<void> {
  const file = join(layers[layer], path);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, text);
}
async function link(layer: 0 | 1, path: string, target: string): Promise<void> {
  await mkdir(dirname(join(layers[layer], path)), { recursive: true });
  await symlink(target, join(layers[layer], path));
}
const read = async (path: string, capBytes = 100) => (await readInLayers(layers, path, capBytes))?.toString();

test("a file of the topmost layer hides the one below", async () => {
  await put(0, "etc/passwd", "upper");
  await put(1, "etc/passwd", "lower");
  expect(await read("/etc/passwd")).toBe("upper");
});
test("a directory of both layers is merged", async () => {
  await put(0, "etc/other", "x");
  await put(1, "etc/passwd", "lower");
  expect(await read("/etc/passwd")).toBe("lower");
});
test("a whiteout hides the file below", async () => {
  await put(1, "etc/passwd", "lower");
  await mkdir(join(layers[0], "etc"));
  execFileSync("mknod", [join(layers[0], "etc/passwd"), "c", "0", "0"]);
  expect(await read("/etc/passwd")).toBeUndefined();
});
test("a file in place of a directory hides the whole directory", async () => {
  await put(0, "etc", "a file");
  await put(1, "etc/passwd", "lower");
  expect(await read("/etc/passwd")).toBeUndefined();
});
test("links are followed inside the image, absolute and relative", async () => {
  await put(1, "usr/lib/passwd", "found");
  await link(0, "etc/passwd", "/usr/lib/passwd");
  await link(1, "etc/group", "../usr/lib/./passwd");
  expect(await read("/etc/passwd")).toBe("found");
  expect(await read("/etc/group")).toBe("found");
});
test("a link out of the image stays inside", async () => {
  await writeFile(join(top, "secret"), "host");
  await link(0, "etc/passwd", "../../../secret");
  await link(0, "etc/group", "/../../secret");
  expect(await read("/etc/passwd")).toBeUndefined();
  expect(await read("/etc/group")).toBeUndefined();
});
test("a loop of links is no file", async () => {
  await link(0, "a", "b");
  await link(0, "b", "a");
  expect(await read("/a")).toBeUndefined();
});
test("a FIFO or a directory is no file and is not waited for", async () => {
  await mkdir(join(layers[0], "etc"));
  execFileSync("mkfifo", [join(layers[0], "etc/passwd")]);
  expect(await read("/etc/passwd")).toBeUndefined();
  expect(await read("/etc")).toBeUndefined();
});
test("a file over the cap is invalid-argument IMAGE_FILE_TOO_LARGE", async () => {
  await put(0, "etc/passwd", "x".repeat(101));
  await expect(read("/etc/passwd")).rejects.toMatchObject({ kind: "invalid-argument", code: "IMAGE_FILE_TOO_LARGE" });
});
