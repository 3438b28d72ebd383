// @ts-check
/**
 * `node rootfs-fixtures/build.mjs OUT_DIR [--cache DIR]`: writes the fixture images as one
 * OCI image layout into OUT_DIR, replacing what is there. Same packages, same bytes.
 *
 * Plain JavaScript, because it runs before and without a build of minke.
 */
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { fixtureImages } from "./images.mjs";
import { writeLayout } from "./oci-layout.mjs";

const PROJECT = dirname(dirname(fileURLToPath(import.meta.url)));
export const DEFAULT_CACHE_DIR = join(PROJECT, ".cache/rootfs-fixtures");

/** @param {string} outDir @param {string} [cacheDir] */
export function buildFixtures(outDir, cacheDir = DEFAULT_CACHE_DIR) {
  const images = fixtureImages(resolve(cacheDir));
  writeLayout(resolve(outDir), images);
  return images.map((image) => image.ref);
}

/** @param {readonly string[]} args */
function main(args) {
  const at = args.indexOf("--cache");
  const cacheDir = at < 0 ? undefined : args[at + 1];
  const rest = at < 0 ? args : args.filter((_, i) => i !== at && i !== at + 1);
  const outDir = rest[0];
  if (rest.length !== 1 || outDir === undefined || (at >= 0 && cacheDir === undefined)) {
    process.stderr.write("usage: node rootfs-fixtures/build.mjs OUT_DIR [--cache DIR]\n");
    return 2;
  }
  try {
    for (const ref of buildFixtures(outDir, cacheDir)) process.stdout.write(`${ref}\n`);
    return 0;
  } catch (err) {
    process.stderr.write(`build fixture images: ${err instanceof Error ? err.message : String(err)}\n`);
    return 1;
  }
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(resolve(process.argv[1])).href) {
  process.exitCode = main(process.argv.slice(2));
}
