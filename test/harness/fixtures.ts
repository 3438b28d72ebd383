/**
 * The fixture images' layout, built once for a checkout into `.cache` and shared by all tests:
 * its bytes depend on the builder and the packages alone.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
const BUILDER = join(PROJECT, "rootfs-fixtures");

/** Absolute path of the layout. */
export async function fixtureLayout(): Promise<string> {
  const hash = createHash("sha256");
  for (const file of readdirSync(BUILDER, { recursive: true, encoding: "utf8" }).sort()) {
    if (/\.(mjs|c)$/.test(file)) hash.update(readFileSync(join(BUILDER, file)));
  }
  const dir = join(PROJECT, ".cache/layouts", hash.digest("hex").slice(0, 16));
  if (existsSync(dir)) return dir;
  await mkdir(join(PROJECT, ".cache/layouts"), { recursive: true });
  // Several test processes may come here at once: each builds its own, and one rename wins.
  const building = `${dir}.${process.pid}`;
  await promisify(execFile)(process.execPath, [join(BUILDER, "build.mjs"), building]);
  await rename(building, dir).catch(async (err: unknown) => {
    await rm(building, { recursive: true, force: true });
    if (!existsSync(dir)) throw err;
  });
  return dir;
}
