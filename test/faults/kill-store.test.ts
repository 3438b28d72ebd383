/**
 * kill -9 of whoever works on the image store, and of `minke-layer`, at every step of pull, load
 * and remove: images that were there are there, whole, what was under way is there or not, and
 * the next store sweeps the rest.
 *
 * A program with the built store stands for the daemon: it is started in a tenth of the time.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ImageStore } from "../../src/image/image-store.js";
import { Paths } from "../../src/settings/paths.js";
import { expectedAfter, inMemory, runSteps, type Step } from "../harness/crash/crash-states.js";
import { type SmallImage, smallImage, smallLayer } from "../harness/crash/images.js";
import { examine, PLATFORM, treesOf } from "../harness/crash/store-check.js";
import { killedAt } from "../harness/crash/system-calls.js";
import { pushLayout, type Registry, startRegistry } from "../harness/registry.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "registry"] as const;
const lacking = missing(...NEEDS);

/** Points of the store while an image comes, in their order; `resolve` is a pull's and a load's alike. */
const POINTS_IN = [
  "resolve",
  "after resolve",
  "unpack layer",
  "after unpack layer",
  "sync layer",
  "after sync layer",
  "commit layer",
  "after commit layer",
  "record image",
  "after write blobs",
  "after write record",
  "after record image",
] as const;

const POINTS_OUT = [
  "forget image",
  "after forget image",
  "forget layer",
  "after forget layer",
  "after remove image",
] as const;

/** Calls that `minke-layer` alone makes here, one kind for each thing that it does. */
const LAYER_CALLS = [
  "mkdirat",
  "pwrite64",
  "fchown",
  "fsetxattr",
  "symlinkat",
  "mknodat",
  "linkat",
  "utimensat",
  "syncfs",
] as const;

let folder: string;
let registry: Registry;
let kept: SmallImage;
let coming: SmallImage;
/** Takes the tag of `coming`. */
let taker: SmallImage;
let served: string;
/** A store with the image `kept`, and one with both. */
const roots = { one: "", both: "" };
let trees: Map<string, readonly string[]>;
let made = 0;

const keyOf = (ref: string): string => `image ${ref}`;
const pull = (): Step => ({ op: "pull", ref: served, gives: { [keyOf(served)]: coming.id } });
const load = (): Step => ({ op: "load", path: coming.layout, gives: { [keyOf(coming.ref)]: coming.id } });
const remove = (): Step => ({ op: "remove", ref: coming.ref, gives: { [keyOf(coming.ref)]: undefined } });

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(inMemory(), "minke-kill-store-"));
  const [base, own] = [smallLayer("base"), smallLayer("own")];
  kept = smallImage(join(folder, "layouts"), "kept.example/image:1", [base]);
  coming = smallImage(join(folder, "layouts"), "coming.example/image:1", [base, own]);
  taker = smallImage(join(folder, "layouts"), coming.ref, [base]);
  registry = await startRegistry();
  [served = ""] = await pushLayout(registry, coming.layout, () => ({ repository: "image", tag: "1" }));
  for (const name of ["one", "both"] as const) {
    roots[name] = join(folder, name);
    mkdirSync(roots[name], { mode: 0o700 });
    const steps: Step[] = [{ op: "load", path: kept.layout, gives: {} }];
    if (name === "both") steps.push(load());
    const { said, errors } = await runSteps(roots[name], steps);
    expect(
      said.filter((line) => line.startsWith("done")),
      errors,
    ).toHaveLength(steps.length);
  }
  trees = treesOf(roots.both);
});
afterAll(async () => {
  await registry?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

function copyOf(root: string): string {
  const copy = join(folder, `root-${made++}`);
  execFileSync("cp", ["-a", root, copy]);
  return copy;
}

/** What must be true of the other image whatever happens, and of the one that a step is about. */
function expectedOf(said: readonly string[], step: Step, before: string | undefined) {
  const after = new Map(expectedAfter(said, [step]));
  for (const [key, values] of after)
    after.set(key, new Set([...values].map((value) => value ?? before)).add(step.gives[key]));
  const isDone = said.some((line) => line.startsWith("done"));
  for (const key of after.keys()) if (isDone) after.set(key, new Set([step.gives[key]]));
  return after.set(keyOf(kept.ref), new Set([kept.id]));
}

async function expectWhole(
  root: string,
  said: readonly string[],
  step: Step,
  before: string | undefined,
): Promise<void> {
  const { problems } = await examine(root, expectedOf(said, step, before), trees);
  expect(problems).toEqual([]);
  // And the same step goes through where the last one was cut off.
  const store = await ImageStore.open(new Paths(root, `${root}-run`), { platform: PLATFORM });
  if (step.op === "pull") await store.pull(step.ref ?? "");
  else if (step.op === "load") await store.loadLayout(step.path ?? "");
  else await store.remove(step.ref ?? "");
  await store.close();
  const after = await examine(root, expectedOf(["done 0"], step, before), trees);
  expect(after).toEqual({ problems: [], dropped: [] });
}

/** A load passes the same steps, and the kinds of calls differ little: CI asks for all of them. */
const isWhole = process.env["MINKE_CRASH_STATES"] === "all";
const WAYS_IN = [
  ["pull", pull],
  ["load", load],
] as const;

describe.each(isWhole ? WAYS_IN : WAYS_IN.slice(0, 1))("while an image comes by %s", (_, stepOf) => {
  test.each(POINTS_IN)("a store that is killed at '%s' is whole", async (point) => {
    const root = copyOf(roots.one);
    const { signal, said, errors } = await runSteps(root, [stepOf()], { env: { MINKE_FAILPOINTS: `${point}=kill` } });
    expect(signal, `${said.join()} ${errors}`).toBe("SIGKILL");
    await expectWhole(root, said, stepOf(), undefined);
  });

  test.each(isWhole ? LAYER_CALLS : LAYER_CALLS.filter((_, index) => index % 4 === 1))(
    "a minke-layer that is killed at its %s leaves nothing",
    async (call) => {
      const root = copyOf(roots.one);
      const wrapper = killedAt(call, 1);
      const { said, errors } = await runSteps(root, [stepOf()], { wrapper });
      expect(said, errors).toEqual(["begin 0", "failed INTERNAL 0"]);
      const { problems, dropped } = await examine(root, expectedOf([], stepOf(), undefined), trees);
      expect({ problems, dropped }).toEqual({ problems: [], dropped: [] });
      await expectWhole(root, [], stepOf(), undefined);
    },
  );
});

describe("while an image is removed", () => {
  test.each(POINTS_OUT)("a store that is killed at '%s' is whole", async (point) => {
    const root = copyOf(roots.both);
    const { signal, said, errors } = await runSteps(root, [remove()], { env: { MINKE_FAILPOINTS: `${point}=kill` } });
    expect(signal, `${said.join()} ${errors}`).toBe("SIGKILL");
    await expectWhole(root, said, remove(), coming.id);
  });

  test("a minke-layer that is killed at its unlinkat leaves only what the next start removes", async () => {
    const root = copyOf(roots.both);
    const wrapper = killedAt("unlinkat", 2);
    const { said, errors } = await runSteps(root, [remove()], { wrapper });
    expect(said, errors).toEqual(["begin 0", "failed INTERNAL 0"]);
    const { problems, dropped } = await examine(root, expectedOf(["done 0"], remove(), undefined), trees);
    expect(problems).toEqual([]);
    expect(dropped.some((path) => path.startsWith(join(root, "layers")))).toBe(true);
  });
});

test.each(["prune images", "forget layer", "after forget layer", "after prune images"])(
  "a store that is killed at '%s' of a prune has every image with a name, whole",
  async (point) => {
    const root = copyOf(roots.both);
    // Another image takes the tag: what had it has no name any more.
    const taken: Step = { op: "load", path: taker.layout, gives: { [keyOf(coming.ref)]: taker.id } };
    expect((await runSteps(root, [taken])).said).toEqual(["begin 0", "done 0"]);
    const prune: Step = { op: "prune", gives: {} };
    const { signal, errors } = await runSteps(root, [prune], { env: { MINKE_FAILPOINTS: `${point}=kill` } });
    expect(signal, errors).toBe("SIGKILL");
    const { problems } = await examine(root, expectedOf(["done 0"], taken, undefined), trees);
    expect(problems).toEqual([]);
  },
);

test("no step of the store is missing above", async () => {
  const passed = async (root: string, step: Step) => {
    const { errors } = await runSteps(copyOf(root), [step], { env: { MINKE_FAILPOINTS: "*=trace" } });
    return Array.from(errors.matchAll(/^failpoint (.*)$/gm), (match) => match[1]);
  };
  expect(new Set(await passed(roots.one, pull()))).toEqual(new Set(POINTS_IN));
  expect(new Set(await passed(roots.both, remove()))).toEqual(new Set(POINTS_OUT));
});
