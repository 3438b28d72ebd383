/**
 * Opens a real store on what a crash left of one, and holds it to the promises: it starts, gives
 * every image and record that was promised and no other, every byte of them right, says what it
 * dropped, and leaves nothing that nobody needs.
 */
import { createHash } from "node:crypto";
import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync, type Stats } from "node:fs";
import { dirname, join } from "node:path";
import type { Digest } from "../../../src/base/ids.js";
import { ImageStore } from "../../../src/image/image-store.js";
import { Paths } from "../../../src/settings/paths.js";
import { FileStore } from "../../../src/state/store.js";

export const PLATFORM = { os: "linux", architecture: "amd64" } as const;
const NOUNS = ["pods", "configmaps", "secrets", "attachments"] as const;
/** Of the boot alone: a power cut may take or spoil any of them, but not what is beside them. */
export const BOOT_NOUNS = ["leases", "containers"] as const;

/**
 * What may stand under a key: `image REF`, `pods NAME`. `undefined`: nothing. Of a layer with a key,
 * `layer DIFFID`, the tree may be wrong: it is `sound`, `wrong`, or `marked` as damaged and not given out.
 */
export type Expected = ReadonlyMap<string, ReadonlySet<string | undefined>>;

/** Lines of each layer's tree, by diffID. */
export type Trees = ReadonlyMap<string, readonly string[]>;

/** Under which key a record stands, and what its value is. */
export type ReadRecord = (noun: string, id: string, body: unknown) => readonly [key: string, value: string];

const readWorkload: ReadRecord = (noun, id, body) => [`${noun} ${id}`, (body as { value: string }).value];

export interface Examined {
  /** Breaches of the promises, one sentence each. */
  readonly problems: readonly string[];
  /** Paths that the store found useless and removed. */
  readonly dropped: readonly string[];
}

export async function examine(
  root: string,
  expected: Expected,
  trees: Trees,
  readRecord: ReadRecord = readWorkload,
): Promise<Examined> {
  const dropped: string[] = [];
  const found = new Map<string, string>();
  try {
    const fragile = new Set([...expected.keys()].filter((key) => key.startsWith("layer ")));
    const problems = await imageProblemsIn(root, trees, found, dropped, fragile);
    problems.push(...(await readRecords(new Paths(root, `${root}-run`), found, readRecord)));
    return { problems: [...problems, ...surprises(expected, found)], dropped };
  } catch (err) {
    const why = err instanceof Error ? (err.stack ?? err.message) : String(err);
    return { problems: [`the store does not start: ${why}`], dropped };
  }
}

async function imageProblemsIn(
  root: string,
  trees: Trees,
  found: Map<string, string>,
  dropped: string[],
  fragile: ReadonlySet<string>,
): Promise<string[]> {
  const paths = new Paths(root, `${root}-run`);
  const before = thingsIn(paths);
  const images = await ImageStore.open(paths, { platform: PLATFORM });
  try {
    const problems = imageProblems(images, paths, trees, fragile, found);
    for (const { id, repoTags } of images.list()) for (const tag of repoTags) found.set(`image ${tag}`, id);
    for (const { file, problem } of images.quarantined) problems.push(`${file} could not be read: ${problem}`);
    dropped.push(...images.dropped.map(({ path }) => path));
    const after = new Set(thingsIn(paths));
    const unsaid = before.filter((path) => !after.has(path) && !dropped.includes(path));
    problems.push(
      ...unsaid.map((path) => `${path} was dropped, and nothing said so`),
      ...leftOvers(images, paths, fragile),
    );
    return problems;
  } finally {
    await images.close();
  }
}

function surprises(expected: Expected, found: ReadonlyMap<string, string>): string[] {
  const problems: string[] = [];
  for (const [key, allowed] of expected) {
    const is = found.get(key);
    if (allowed.has(is)) continue;
    const wanted = Array.from(allowed, (value) => value ?? "nothing").join(" or ");
    problems.push(`${key} is ${is ?? "not there"}, not ${wanted}`);
  }
  const isOfBoot = (key: string) => BOOT_NOUNS.some((noun) => key.startsWith(`${noun} `));
  for (const key of found.keys())
    if (!expected.has(key) && !isOfBoot(key)) problems.push(`${key} is there, and nobody made it`);
  return problems;
}

async function readRecords(paths: Paths, found: Map<string, string>, readRecord: ReadRecord): Promise<string[]> {
  const problems: string[] = [];
  for (const noun of NOUNS) {
    const dir = paths.durableState(noun);
    // Not made anew: the disk may be full.
    if (!existsSync(dir)) continue;
    const place = { dir, storeClass: "durable", quarantine: paths.quarantine, version: 1 } as const;
    const store = await FileStore.open<unknown>(place);
    for (const { file, problem } of store.quarantined) problems.push(`${file} could not be read: ${problem}`);
    for (const { id, body } of store.list()) found.set(...readRecord(noun, id, body));
  }
  for (const noun of BOOT_NOUNS) {
    const dir = paths.bootState(noun);
    if (!existsSync(dir)) continue;
    const store = await FileStore.open<unknown>({ dir, storeClass: "boot", quarantine: paths.quarantine, version: 1 });
    for (const { id, body } of store.list()) found.set(...readRecord(noun, id, body));
  }
  return problems;
}

function imageProblems(
  images: ImageStore,
  paths: Paths,
  trees: Trees,
  fragile: ReadonlySet<string>,
  found: Map<string, string>,
): string[] {
  const problems: string[] = [];
  for (const record of images.list()) {
    for (const digest of [record.id, record.manifestDigest]) {
      const bytes = readFileSync(paths.blob(digest));
      const is = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
      if (is !== digest) problems.push(`blob ${digest} has the digest ${is}`);
    }
    let isRefused = false;
    for (const { diffId } of record.layers) {
      if (fragile.has(`layer ${diffId}`)) {
        const state = stateOfFragile(images, paths, record.id, diffId, trees);
        found.set(`layer ${diffId}`, state);
        isRefused ||= state === "marked";
        continue;
      }
      const differences = treeDifferences(trees.get(diffId) ?? [], treeOf(paths.layer(diffId)));
      if (differences.length > 0)
        problems.push(`layer ${diffId} of ${record.repoTags.join(" ")}: ${differences.join("; ")}`);
    }
    if (isRefused) continue;
    const lowers = images.lowerDirs(record.id);
    if (lowers.length !== new Set(record.layers.map(({ diffId }) => diffId)).size)
      problems.push(`${record.id} lacks a layer`);
  }
  return problems;
}

/** Of a layer that was damaged on purpose: no wrong byte of it is given out once somebody has looked. */
function stateOfFragile(images: ImageStore, paths: Paths, id: string, diffId: Digest, trees: Trees): string {
  try {
    images.lowerDirs(id);
  } catch (err) {
    if ((err as { code?: string }).code === "IMAGE_DAMAGED") return "marked";
    throw err;
  }
  return treeDifferences(trees.get(diffId) ?? [], treeOf(paths.layer(diffId))).length === 0 ? "sound" : "wrong";
}

/** What may be dropped, and is then to be told: partial work, layers, blobs, image records. */
function thingsIn(paths: Paths): string[] {
  const names = (dir: string) => readdirQuietly(dir).map((name) => join(dir, name));
  const records = (["images", "layers"] as const).flatMap((noun) => names(paths.durableState(noun)));
  return [...names(paths.tmp), ...names(paths.layers), ...names(blobsOf(paths)), ...records];
}

function leftOvers(images: ImageStore, paths: Paths, fragile: ReadonlySet<string>): string[] {
  const hex = (digest: string) => digest.slice("sha256:".length);
  const records = images.list();
  const layers = records.flatMap((record) => record.layers.map(({ diffId }) => hex(diffId)));
  const blobs = records.flatMap(({ id, manifestDigest }) => [hex(id), hex(manifestDigest)]);
  const aside = readdirQuietly(paths.quarantine).filter(
    // A damaged layer stays for prune; a record of the boot may be spoiled.
    (name) =>
      [...fragile].some((key) => name.startsWith(`layer-${hex(key.slice("layer ".length))}-`)) || /^\d+-/.test(name),
  );
  const wanted: [string, string[]][] = [
    [paths.tmp, []],
    [paths.layers, layers],
    [blobsOf(paths), blobs],
    [paths.durableState("images"), records.map(({ id }) => `${hex(id)}.json`)],
    [paths.durableState("layers"), layers.map((name) => `${name}.json`)],
    [paths.quarantine, aside],
  ];
  return wanted.flatMap(([dir, names]) => {
    const left = readdirQuietly(dir).filter((name) => !names.includes(name));
    return left.map((name) => `${join(dir, name)} is left, and nothing needs it`);
  });
}

const blobsOf = (paths: Paths): string => dirname(paths.blob(`sha256:${"0".repeat(64)}` as Digest));

/** The trees of all layers of a store, as they are now. */
export function treesOf(root: string): Map<string, readonly string[]> {
  const { layers } = new Paths(root, `${root}-run`);
  return new Map(readdirQuietly(layers).map((hex) => [`sha256:${hex}`, treeOf(join(layers, hex, "fs"))]));
}

/** One line an entry: everything of it that an image defines. */
function treeOf(root: string): string[] {
  const inodes = new Map<number, string>();
  const lines: string[] = [];
  const walk = (path: string) => {
    const at = join(root, path);
    const is = lstatSync(at);
    const first = inodes.get(is.ino);
    inodes.set(is.ino, first ?? path);
    const link = first === undefined ? "" : `same as ${first}`;
    // Nobody sets the time of the tree's own root and of a whiteout.
    const isUnset = path === "" || (is.isCharacterDevice() && is.rdev === 0);
    const mtime = isUnset ? 0 : Math.floor(is.mtimeMs / 1000);
    lines.push(`/${path} ${is.mode.toString(8)} ${is.uid}:${is.gid} ${mtime} ${is.rdev} ${contentOf(at, is)} ${link}`);
    if (is.isDirectory()) for (const name of readdirSync(at).sort()) walk(join(path, name));
  };
  walk("");
  return lines;
}

function contentOf(path: string, is: Stats): string {
  if (is.isSymbolicLink()) return readlinkSync(path);
  if (!is.isFile()) return "";
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

function treeDifferences(wanted: readonly string[], is: readonly string[]): string[] {
  const missing = wanted.filter((line) => !is.includes(line)).map((line) => `- ${line}`);
  return [...missing, ...is.filter((line) => !wanted.includes(line)).map((line) => `+ ${line}`)].slice(0, 6);
}

function readdirQuietly(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw err;
  }
}
