/**
 * kill -9 of whoever works on the image store, and of `minke-layer`, at every step of what is not a
 * pull, a load or a removal of an image: an archive that comes as a stream, tags, repair, save.
 */
import { execFileSync } from "node:child_process";
import { createReadStream, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { ImageStore } from "../../src/image/image-store.js";
import type { VerifiedPart } from "../../src/image/image-verify.js";
import { Paths } from "../../src/settings/paths.js";
import { inMemory, runSteps, type Step } from "../harness/crash/crash-states.js";
import { type SmallImage, smallImage, smallLayer } from "../harness/crash/images.js";
import { examine, type Expected, PLATFORM, treesOf } from "../harness/crash/store-check.js";
import { killedAt } from "../harness/crash/system-calls.js";
import { pushLayout, type Registry, startRegistry } from "../harness/registry.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "registry"] as const;
const lacking = missing(...NEEDS);
const ARCHIVE_POINTS = [
  "read archive",
  "after read archive",
  "after resolve",
  "after unpack layer",
  "after write record",
];
const TAG_POINTS = ["tag image", "after write tag", "after tag image"];
const UNTAG_POINTS = ["remove image", "after remove image"];
const REPAIR_POINTS = [
  "verify layer",
  "repair",
  "after resolve",
  "unpack layer",
  "after unpack layer",
  "after sync layer",
  "quarantine layer",
  "after quarantine layer",
  "commit layer",
  "after commit layer",
  "after write blobs",
  "after record image",
  "after repair",
];
const MINE = "my.own/name:1";

/** CI asks for all; a point is three starts of Node.js. */
const isWhole = process.env["MINKE_CRASH_STATES"] === "all";
const shareOf = (points: readonly string[]) => (isWhole ? points : points.filter((_, index) => index % 7 === 1));

let folder: string;
let registry: Registry;
let older: SmallImage;
let newer: SmallImage;
let coming: SmallImage;
let archive: string;
/** With the images `older` and `newer`, and `MINE` on the latter. */
let prepared: string;
/** `newer`'s own layer, and what a registry knows the image by. */
let own: string;
let served: string;
let trees: Map<string, readonly string[]>;
let made = 0;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(inMemory(), "minke-kill-care-"));
  const [base, one, two] = [smallLayer("base"), smallLayer("one"), smallLayer("two")];
  const layouts = join(folder, "layouts");
  older = smallImage(layouts, "older.example/image:1", [base]);
  newer = smallImage(layouts, "newer.example/image:1", [base, one]);
  coming = smallImage(layouts, "coming.example/image:1", [base, two]);
  archive = join(folder, "coming.tar.gz");
  execFileSync("tar", ["-czf", archive, "-C", coming.layout, "."]);
  registry = await startRegistry();
  [served = ""] = await pushLayout(registry, newer.layout, () => ({ repository: "image", tag: "1" }));
  const all = join(folder, "all");
  mkdirSync(all, { mode: 0o700 });
  await succeed(all, [older, newer, coming].map(loadOf));
  trees = treesOf(all);
  own = [...trees].find(([, lines]) => lines.some((line) => line.startsWith("/one.d/")))?.[0] ?? "";
  prepared = join(folder, "prepared");
  mkdirSync(prepared, { mode: 0o700 });
  const pull: Step = { op: "pull", ref: served, gives: {} };
  await succeed(prepared, [loadOf(older), pull, { op: "tag", ref: served, name: MINE, gives: {} }]);
});
afterAll(async () => {
  await registry?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const loadOf = ({ layout }: SmallImage): Step => ({ op: "load", path: layout, gives: {} });

async function succeed(root: string, steps: readonly Step[]): Promise<void> {
  const { said, errors } = await runSteps(root, steps);
  expect(
    said.filter((line) => line.startsWith("done")),
    `${said.join()} ${errors}`,
  ).toHaveLength(steps.length);
}

function copyOf(root: string): string {
  const copy = join(folder, `root-${made++}`);
  execFileSync("cp", ["-a", root, copy]);
  return copy;
}

/** What is there whatever happens, and what besides. */
function expected(besides: Readonly<Record<string, readonly (string | undefined)[]>>): Expected {
  const always = { [`image ${older.ref}`]: [older.id], [`image ${served}`]: [newer.id], [`image ${MINE}`]: [newer.id] };
  return new Map(Object.entries({ ...always, ...besides }).map(([key, values]) => [key, new Set(values)]));
}

async function expectWhole(root: string, wanted: Expected): Promise<void> {
  expect((await examine(root, wanted, trees)).problems).toEqual([]);
}

async function killed(root: string, step: Step, point: string): Promise<void> {
  const { signal, said, errors } = await runSteps(root, [step], { env: { MINKE_FAILPOINTS: `${point}=kill` } });
  expect(signal, `${said.join()} ${errors}`).toBe("SIGKILL");
}

test.each(shareOf(ARCHIVE_POINTS))(
  "a store that is killed at '%s' of an archive from a stream is whole",
  async (point) => {
    const root = copyOf(prepared);
    const step: Step = { op: "loadStream", path: archive, gives: {} };
    await killed(root, step, point);
    await expectWhole(root, expected({ [`image ${coming.ref}`]: [undefined, coming.id] }));
    await succeed(root, [step]);
    await expectWhole(root, expected({ [`image ${coming.ref}`]: [coming.id] }));
  },
);

test.each(shareOf(TAG_POINTS))("a store that is killed at '%s' has the tag on one image", async (point) => {
  const root = copyOf(prepared);
  const step: Step = { op: "tag", ref: older.ref, name: MINE, gives: {} };
  await killed(root, step, point);
  // What was written first counts, though the other image came later.
  await expectWhole(root, expected({ [`image ${MINE}`]: [point === "tag image" ? newer.id : older.id] }));
  await succeed(root, [step]);
  await expectWhole(root, expected({ [`image ${MINE}`]: [older.id] }));
});

test.each(shareOf(UNTAG_POINTS))("a store that is killed at '%s' has the image with its other tag", async (point) => {
  const root = copyOf(prepared);
  await killed(root, { op: "untag", name: MINE, gives: {} }, point);
  await expectWhole(root, expected({ [`image ${MINE}`]: [point === "remove image" ? newer.id : undefined] }));
});

test.each(shareOf(REPAIR_POINTS))(
  "a store that is killed at '%s' of a repair has the image, and repairs it then",
  async (point) => {
    const root = copyOf(prepared);
    await succeed(root, [{ op: "damage", ref: served, path: "one.d/empty", gives: {} }]);
    const repair: Step = { op: "repair", ref: served, gives: {} };
    await killed(root, repair, point);
    // The sound layer is looked at first.
    const states = point.endsWith("verify layer") ? ["wrong"] : ["marked", "sound"];
    await expectWhole(root, expected({ [`layer ${own}`]: states }));
    await succeed(root, [repair, { op: "prune", gives: {} }]);
    await expectWhole(root, expected({ [`layer ${own}`]: ["sound"] }));
    expect(readdirSync(join(root, "quarantine"))).toEqual([]);
  },
);

test.each(shareOf(["mkdirat", "pwrite64", "syncfs"]))(
  "a minke-layer that is killed at its %s of a repair leaves the layer marked",
  async (call) => {
    const root = copyOf(prepared);
    await succeed(root, [{ op: "damage", ref: served, path: "one.d/empty", gives: {} }]);
    const wrapper = killedAt(call, 1);
    const { said, errors } = await runSteps(root, [{ op: "repair", ref: served, gives: {} }], { wrapper });
    expect(said, errors).toEqual(["begin 0", "failed NOT_REPAIRED 0"]);
    await expectWhole(root, expected({ [`layer ${own}`]: ["marked"] }));
  },
);

test("a registry that goes away in the middle of a repair leaves the image marked, and says why", async () => {
  const root = copyOf(prepared);
  const gone = await startRegistry();
  const [ref = ""] = await pushLayout(gone, coming.layout, () => ({ repository: "gone", tag: "1" }));
  await succeed(root, [
    { op: "pull", ref, gives: {} },
    { op: "damage", ref, path: "two.d/empty", gives: {} },
  ]);
  const store = await ImageStore.open(new Paths(root, `${root}-run`), {
    platform: PLATFORM,
    registries: { [gone.host]: { endpoint: gone.endpoint } },
    times: { stallMs: 1000 },
  });
  const parts: VerifiedPart[] = [];
  try {
    // After the documents, which are looked at first, before the layers.
    await store.care.verify({
      ...{ names: [ref], repair: true, signal: new AbortController().signal },
      onPart: (part) => {
        parts.push(part);
        if (parts.length === 1) void gone.kill();
      },
    });
    expect(parts.filter(({ state }) => state !== "sound")).toEqual([
      expect.objectContaining({ state: "damaged", repairError: expect.stringContaining(gone.host) as string }),
    ]);
    expect(() => store.lowerDirs(coming.id)).toThrow(expect.objectContaining({ code: "IMAGE_DAMAGED" }) as Error);
    await store.loadLayout(createReadStream(archive));
    expect(store.lowerDirs(coming.id)).toHaveLength(2);
  } finally {
    await store.close();
    await gone.close();
  }
});

test("a save that is killed leaves the store as it was", async () => {
  const root = copyOf(prepared);
  const wrapper = killedAt("write", 40);
  const step: Step = { op: "save", ref: served, path: join(folder, "saved"), format: "docker-archive", gives: {} };
  await runSteps(root, [step], { wrapper });
  expect(await examine(root, expected({}), trees)).toEqual({ problems: [], dropped: [] });
});

test("no step of a repair, a tag or an archive is missing above", async () => {
  const passed = async (root: string, step: Step) => {
    const { errors } = await runSteps(root, [step], { env: { MINKE_FAILPOINTS: "*=trace" } });
    return Array.from(errors.matchAll(/^failpoint (.*)$/gm), (match) => match[1] ?? "");
  };
  const root = copyOf(prepared);
  await succeed(root, [{ op: "damage", ref: served, path: "one.d/empty", gives: {} }]);
  const repaired = new Set(await passed(root, { op: "repair", ref: served, gives: {} }));
  // Between the others of the list nothing is written.
  const silent = ["after verify layer", "resolve", "sync layer", "record image", "after write record"];
  expect([...repaired].filter((point) => !REPAIR_POINTS.includes(point)).sort()).toEqual(silent.sort());
  expect(new Set(await passed(root, { op: "tag", ref: older.ref, name: MINE, gives: {} }))).toEqual(
    new Set(TAG_POINTS),
  );
  expect(new Set(await passed(root, { op: "untag", name: MINE, gives: {} }))).toEqual(new Set(UNTAG_POINTS));
  const loaded = await passed(root, { op: "loadStream", path: archive, gives: {} });
  expect(loaded).toEqual(expect.arrayContaining(ARCHIVE_POINTS));
});
