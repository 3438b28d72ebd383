/**
 * Damaged archives, unpacked by minke-layer and by GNU tar; where both take one without complaint,
 * the trees must be equal. A target of `npm run fuzz`; a seed repeats a run.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { tarArchive } from "../../rootfs-fixtures/tar-writer.mjs";

const project = fileURLToPath(new URL("../..", import.meta.url));
const cache = join(project, ".cache/fuzz");
const TAR = [
  "--extract",
  "--delay-directory-restore",
  "--same-owner",
  "--same-permissions",
  "--numeric-owner",
  "--xattrs",
  "--xattrs-include=*",
];

/** Numbers that a seed repeats (mulberry32). */
function randomOf(seed) {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

function randomArchive(random) {
  const names = ["a", "b", "d/a", "d/b", "d/e/a", "n".repeat(120), "weiß"];
  const entries = [{ path: "d", type: "dir", mode: 0o755 }];
  for (let i = random(8); i >= 0; i--) {
    const path = names[random(names.length)];
    if (entries.some((entry) => entry.path === path)) continue;
    const common = {
      path,
      mode: random(0o10000),
      uid: random(70000),
      gid: random(70000),
      mtimeS: random(2 ** 31 - 1),
      pax: random(2) ? { mtime: `${random(2 ** 31 - 1)}.${String(random(10 ** 9)).padStart(9, "0")}` } : {},
    };
    const kind = random(4);
    if (kind === 0) entries.push({ ...common, type: "symlink", target: names[random(names.length)] });
    else if (kind === 1) entries.push({ ...common, type: "fifo" });
    else entries.push({ ...common, type: "file", content: Buffer.alloc(random(1500), random(256)) });
  }
  const archive = tarArchive(entries);
  // Half of them whole; in the others some bytes of headers are others, their checksum right again.
  if (random(2) === 0) return archive;
  for (let i = random(3); i >= 0; i--) {
    const block = random(archive.length / 512 - 2) * 512;
    archive[block + random(160)] = [0, 0x20, 0x2f, 0x2e, 0x30, 0x31, 0x35, 0x37, 0xff, random(256)][random(10)];
    if (archive.toString("latin1", block + 257, block + 262) !== "ustar") continue;
    archive.fill(0x20, block + 148, block + 156);
    const sum = archive.subarray(block, block + 512).reduce((total, byte) => total + byte, 0);
    archive.write(`${sum.toString(8).padStart(6, "0")}\0 `, block + 148, "latin1");
  }
  return archive;
}

/** @returns true where nothing was found */
export function fuzzTar(limitS, seed) {
  const random = randomOf(seed);
  const top = mkdtempSync(join(tmpdir(), "minke-fuzz-tar-"));
  const count = { both: 0, minkeOnly: 0, tarOnly: 0, neither: 0 };
  const until = performance.now() + limitS * 1000;
  try {
    while (performance.now() < until) {
      const archive = randomArchive(random);
      const [minke, tar] = ["minke", "tar"].map((name) => join(top, name));
      for (const dir of [minke, tar]) mkdirSync(dir);
      const byMinke = spawnSync(join(project, "build/Release/minke-layer"), ["--dest", minke], { input: archive });
      const byTar = spawnSync("tar", [...TAR, "--file=-", "-C", tar], { input: archive });
      // GNU tar warns of what it takes otherwise than it is written.
      const isTarFine = byTar.status === 0 && byTar.stderr.length === 0;
      if (byMinke.status === 0 && isTarFine) {
        count.both++;
        const difference = differenceOf(minke, tar);
        if (difference) return failed(archive, seed, difference);
      } else if (byMinke.status === 0) count.minkeOnly++;
      else if (byMinke.status === 1) count[isTarFine ? "tarOnly" : "neither"]++;
      else return failed(archive, seed, `minke-layer ended with ${byMinke.status ?? byMinke.signal}`);
      for (const dir of [minke, tar]) rmSync(dir, { recursive: true, force: true });
    }
  } finally {
    rmSync(top, { recursive: true, force: true });
  }
  console.log(`fuzz tar: nothing found in ${limitS} s (seed ${seed}): ${JSON.stringify(count)}`);
  return true;
}

function differenceOf(a, b) {
  const walked = execFileSync("python3", [join(project, "test/harness/walk-tree.py"), a, b], { encoding: "utf8" });
  // The root, and parents that the archive does not name, have the time of the unpacking.
  const nowS = Math.floor(Date.now() / 1000);
  const withoutNow = (line) =>
    line.replace(/ (\d{10})\d{9}, /, (text, atS) => (Math.abs(atS - nowS) < 60 ? " now, " : text));
  const [left = [], right = []] = walked.split("\n\n").map((tree) => tree.trim().split("\n").slice(1).map(withoutNow));
  const only = (list, others, mark) => list.filter((line) => !others.includes(line)).map((line) => `${mark} ${line}`);
  return [...only(left, right, "-"), ...only(right, left, "+")].join("\n");
}

function failed(archive, seed, what) {
  mkdirSync(cache, { recursive: true });
  const kept = join(cache, `tar-${seed}-${readdirSync(cache).length}.tar`);
  writeFileSync(kept, archive);
  console.error(`fuzz tar: FAILED (seed ${seed}), archive kept as ${kept}:\n${what}`);
  return false;
}
