/**
 * Damage at random to what is stored of an image: every one is found and named, nothing starts
 * from it, and repair makes it as it was. A seed gives the same damage again.
 *
 *     MINKE_SOAK_SCALE=10 npm run test:soak -- test/soak/image-damage    # by command, for ten minutes
 *     MINKE_DAMAGE_SEED=17 npm run test:soak -- test/soak/image-damage   # that one seed alone
 */
import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  lchownSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { ImageStore } from "../../src/image/image-store.js";
import type { VerifiedPart } from "../../src/image/image-verify.js";
import { Paths } from "../../src/settings/paths.js";
import { randomOf } from "../harness/random.js";
import { smallImage, smallLayer } from "../harness/crash/images.js";
import { PLATFORM, treesOf } from "../harness/crash/store-check.js";
import { pushLayout, type Registry, startRegistry } from "../harness/registry.js";
import { missing, requires } from "../harness/requires.js";
import { scaled } from "./scale.js";

const NEEDS = ["root", "registry"] as const;
const lacking = missing(...NEEDS);
const only = process.env["MINKE_DAMAGE_SEED"];
const seeds = only === undefined ? Array.from({ length: scaled(200) }, (_, seed) => seed) : [Number(only)];

let folder: string;
let registry: Registry;
let store: ImageStore;
let paths: Paths;
let ref: string;
let id: string;
/** Of every entry of every layer, as it was unpacked. */
let before: ReturnType<typeof whole>;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(tmpdir(), "minke-damage-"));
  registry = await startRegistry();
  const layers = ["one", "two"].map((name) => smallLayer(name));
  const { layout } = smallImage(folder, "test/damaged:1", layers);
  [ref = ""] = await pushLayout(registry, layout);
  paths = new Paths(join(folder, "root"), join(folder, "run"));
  mkdirSync(paths.root, { mode: 0o700 });
  store = await ImageStore.open(paths, { platform: PLATFORM });
  ({ id } = await store.pull(ref));
  before = whole();
});
afterAll(async () => {
  await store?.close();
  await registry?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const layerDirs = () =>
  readdirSync(paths.layers)
    .sort()
    .map((name) => join(paths.layers, name));

const whole = () => [...treesOf(paths.root)].sort();

type Random = <T>(all: readonly T[]) => T;

/** Paths of a tree's entries of some type. */
function entriesOf(dir: string, isWanted: (path: string) => boolean): string[] {
  const names = readdirSync(join(dir, "fs"), { recursive: true, encoding: "utf8" });
  return names.map((name) => join(dir, "fs", name)).filter(isWanted);
}
/** What a second name of a file has, is reported under the first. */
const isFile = (path: string) => lstatSync(path).isFile() && basename(path) !== "same";
const isContent = (path: string) => isFile(path) && lstatSync(path).size > 0;
const isAny = () => true;
const isWhiteout = (path: string) => lstatSync(path).isCharacterDevice();
const isDirectory = (path: string) => lstatSync(path).isDirectory();

/** Keeps the time of change, so that only what is meant is damaged. */
function quietly(path: string, change: () => void): void {
  const { atime, mtime } = lstatSync(path);
  change();
  lutimesSync(path, atime, mtime);
}

/** Each damages an entry and gives what a report of it has to hold. */
const DAMAGES: Readonly<Record<string, (dir: string, pick: Random) => string>> = {
  "other bytes": (dir, pick) => {
    const path = pick(entriesOf(dir, isContent));
    const bytes = readFileSync(path);
    const at = pick([...bytes.keys()]);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << pick([0, 1, 2, 3, 4, 5, 6, 7]));
    quietly(path, () => writeFileSync(path, bytes));
    return basename(path);
  },
  "cut short": (dir, pick) => {
    const path = pick(entriesOf(dir, isContent));
    quietly(path, () => truncateSync(path, pick([...Array(lstatSync(path).size).keys()])));
    return basename(path);
  },
  grown: (dir, pick) => {
    const path = pick(entriesOf(dir, isFile));
    quietly(path, () => appendFileSync(path, "x"));
    return basename(path);
  },
  mode: (dir, pick) => {
    const path = pick(entriesOf(dir, (one) => isFile(one) || isDirectory(one)));
    chmodSync(path, (lstatSync(path).mode & 0o7777) ^ pick([0o1, 0o20, 0o400, 0o2000]));
    return basename(path);
  },
  owner: (dir, pick) => {
    const path = pick(entriesOf(dir, (one) => !isFile(one) && !isWhiteout(one)));
    const { uid, gid } = lstatSync(path);
    lchownSync(path, uid + 1, gid);
    return basename(path);
  },
  time: (dir, pick) => {
    const path = pick(entriesOf(dir, isFile));
    utimesSync(path, 5, 5 + pick([0, 1, 2]));
    return basename(path);
  },
  attribute: (dir, pick) => {
    const path = pick(entriesOf(dir, (one) => isFile(one) || isDirectory(one)));
    execFileSync("python3", ["-c", "import os,sys; os.setxattr(sys.argv[1], 'user.more', b'1')", path]);
    return basename(path);
  },
  missing: (dir, pick) => {
    const path = pick(entriesOf(dir, isAny));
    rmSync(path, { recursive: true });
    return basename(path);
  },
  added: (dir, pick) => {
    const path = join(pick([join(dir, "fs"), ...entriesOf(dir, isDirectory)]), "added");
    pick([() => writeFileSync(path, "x"), () => mkdirSync(path), () => symlinkSync("x", path)])();
    return "added";
  },
  "replaced by a link": (dir, pick) => {
    const path = pick(entriesOf(dir, isFile));
    rmSync(path);
    symlinkSync("/etc/passwd", path);
    return basename(path);
  },
  "a link elsewhere": (dir, pick) => {
    const path = pick(entriesOf(dir, (one) => lstatSync(one).isSymbolicLink()));
    rmSync(path);
    symlinkSync("elsewhere", path);
    return basename(path);
  },
  "a whiteout made a file": (dir, pick) => {
    const path = pick(entriesOf(dir, isWhiteout));
    rmSync(path);
    writeFileSync(path, "");
    return basename(path);
  },
  "a hard link made a copy": (dir) => {
    const path = entriesOf(dir, (one) => basename(one) === "same")[0] ?? "";
    copyFileSync(path, `${path}.copy`);
    const { atime, mtime } = lstatSync(path);
    renameSync(`${path}.copy`, path);
    utimesSync(path, atime, mtime);
    return "hard link";
  },
  "a hard link more": (dir, pick) => {
    const path = pick(entriesOf(dir, isFile));
    linkSync(path, join(dirname(path), "linked"));
    return "linked";
  },
  "the record": (dir, pick) => {
    const path = join(dir, "tar-record.zst");
    const bytes = readFileSync(path);
    const at = pick([...bytes.keys()]);
    bytes[at] = (bytes[at] ?? 0) ^ 0x55;
    writeFileSync(path, bytes);
    return "record";
  },
  "the tree": (dir) => {
    rmSync(join(dir, "fs"), { recursive: true });
    return "";
  },
  "the layer": (dir) => {
    rmSync(dir, { recursive: true });
    return "";
  },
  "another layer's": (dir) => {
    const other = layerDirs().find((one) => one !== dir) ?? "";
    rmSync(dir, { recursive: true });
    execFileSync("cp", ["-a", other, dir]);
    return "";
  },
};

async function verify(repair: boolean): Promise<VerifiedPart[]> {
  const parts: VerifiedPart[] = [];
  const signal = new AbortController().signal;
  await store.care.verify({ names: [], repair, signal, onPart: (part) => parts.push(part) });
  return parts.filter(({ state }) => state !== "sound");
}

test(`${seeds.length} random damages are found, named, refused and repaired`, {
  timeout: 120_000 + 10_000 * seeds.length,
}, async () => {
  const kinds = Object.keys(DAMAGES);
  const done = new Map<string, number>();
  for (const seed of seeds) {
    const random = randomOf(seed + 1);
    const pick: Random = (all) => all[Math.floor(random() * all.length)] as never;
    const dir = pick(layerDirs());
    // Every kind in turn, as chance may leave one out.
    const kind = kinds[seed % kinds.length] ?? "";
    const named = DAMAGES[kind]?.(dir, pick) ?? "";
    const what = `MINKE_DAMAGE_SEED=${seed}: ${kind} of "${named}" in ${basename(dir).slice(0, 12)}`;
    const found = await verify(false);
    expect(
      found.map(({ kind: part, digest, state }) => [part, digest, state]),
      what,
    ).toEqual([["layer", `sha256:${basename(dir)}`, "damaged"]]);
    expect(found[0]?.problems.join("\n"), what).toContain(named);
    expect(() => store.lowerDirs(id), what).toThrow(expect.objectContaining({ code: "IMAGE_DAMAGED" }) as Error);
    expect(await verify(true), what).toEqual([expect.objectContaining({ state: "repaired" })]);
    expect(whole(), what).toEqual(before);
    expect(store.lowerDirs(id), what).toHaveLength(2);
    done.set(kind, (done.get(kind) ?? 0) + 1);
    if (seed % 50 === 49) await store.care.prune({ all: false, dryRun: false, includesCri: false });
  }
  expect(await verify(false)).toEqual([]);
  console.log(`damages: ${[...done].map(([kind, count]) => `${kind} ${count}`).join(", ")}`);
});
