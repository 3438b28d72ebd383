/**
 * Power cuts, replayed: everything that the store does to its files is recorded as system calls,
 * and a store is opened on every state in which a crash between any two of them can leave the disk.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import {
  inMemory,
  problemsIn,
  problemsOfAll,
  record,
  type Recording,
  SHARE,
  statesOf,
  type Steps,
  writeEntries,
} from "../harness/crash/crash-states.js";
import { randomOf } from "../harness/random.js";
import { smallImage, smallLayer } from "../harness/crash/images.js";
import { LEFT_OUT, Replay } from "../harness/crash/replay.js";
import { treesOf } from "../harness/crash/store-check.js";
import { treeDifferences, walkTrees } from "../harness/tree.js";
import { pathOfFd, type SystemCall } from "../harness/crash/system-calls.js";
import { pushLayout, type Registry, startRegistry } from "../harness/registry.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "registry"] as const;
const lacking = missing(...NEEDS);
let folder: string;
let registry: Registry;
let recording: Recording;
let trees: Map<string, readonly string[]>;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(inMemory(), "minke-crash-"));
  registry = await startRegistry();
  const steps = await stepsOf();
  recording = record(folder, steps);
  trees = treesOf(recording.root);
});
afterAll(async () => {
  await registry?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

async function stepsOf(): Promise<Steps> {
  const [base, left, right, other] = ["base", "left", "right", "other"].map((name) => smallLayer(name));
  if (!base || !left || !right || !other) throw new Error("four layers were made");
  const image = (ref: string, ...layers: (typeof base)[]) => smallImage(join(folder, "layouts"), ref, layers);
  const served = [image("crash/left:1", base, left), image("crash/right:1", base, right)];
  const [leftRef = "", rightRef = ""] = (
    await Promise.all(served.map(({ layout }) => pushLayout(registry, layout)))
  ).flat();
  const [leftId, rightId] = served.map(({ id }) => id);
  // The same name, another image: the tag moves.
  const moved = image(leftRef, base, other);
  const record = (noun: string, name: string, value: string | undefined) =>
    ({ op: value === undefined ? "delete" : "put", noun, name, value, gives: { [`${noun} ${name}`]: value } }) as const;
  return [
    // First of all, so that no syncfs of an image makes its directories durable.
    record("pods", "one", "desired"),
    { op: "pull", ref: leftRef, gives: { [`image ${leftRef}`]: leftId } },
    [
      { op: "pull", ref: rightRef, gives: { [`image ${rightRef}`]: rightId } },
      record("pods", "one", "progress"),
      record("secrets", "key", "first"),
    ],
    { op: "load", path: moved.layout, gives: { [`image ${leftRef}`]: moved.id } },
    // The image that has lost its tag goes.
    { op: "prune", gives: {} },
    record("secrets", "key", "second"),
    { op: "remove", ref: rightRef, gives: { [`image ${rightRef}`]: undefined } },
    record("pods", "one", undefined),
    { op: "reopen", gives: {} },
    [
      { op: "pull", ref: rightRef, gives: { [`image ${rightRef}`]: rightId } },
      { op: "remove", ref: leftRef, gives: { [`image ${leftRef}`]: undefined } },
    ],
    { op: "pull", ref: leftRef, gives: { [`image ${leftRef}`]: leftId } },
    { op: "load", path: moved.layout, gives: { [`image ${leftRef}`]: moved.id } },
    record("configmaps", "map", "only"),
    record("attachments", "sandbox", "made"),
    record("attachments", "sandbox", undefined),
    [record("leases", "sandbox", "10.0.0.1"), record("containers", "main", "running")],
    record("containers", "main", "exited"),
    record("leases", "sandbox", undefined),
  ];
}

test("the model of the disk ends as the real disk did", async () => {
  const replay = new Replay(recording.root, randomOf(1));
  const modelled = join(folder, "modelled");
  mkdirSync(modelled);
  await writeEntries(modelled, replay.tree(recording.calls));
  const [is = [], should = []] = walkTrees(join(modelled, "layers"), join(recording.root, "layers"));
  expect(is.length).toBeGreaterThan(30);
  // Times that nobody has set are the machine's: 0 in the model, this year's on the disk.
  const withoutNow = (lines: readonly string[]) =>
    lines.map((line) => line.replace(/, (0|1[78]\d{17}), \{/, ", unset, {"));
  expect(treeDifferences(withoutNow(is), withoutNow(should))).toEqual([]);
});

test("a store starts on what any crash leaves, whole, and says what it dropped", async () => {
  const { states, candidates } = statesOf(recording);
  const chosen = states.filter((_, index) => index % SHARE === 0);
  expect(chosen.length).toBeGreaterThan(80);
  expect(await problemsOfAll(chosen, recording.steps, trees)).toEqual([]);
  console.log(
    `${recording.calls.length} calls, ${candidates} ways to crash, ${states.length} states, ${chosen.length} opened`,
  );
}, 600_000);

/** Each way in which the order of writes can be wrong: the replay has to find it. */
test.each([
  ["the layers' files", (call: SystemCall) => call.name === "syncfs"],
  [
    "a record or blob before its rename",
    (call: SystemCall) => call.name === "fsync" && /\.tmp$|\.json\.\d/.test(fileOf(call)),
  ],
  [
    "the directory after a rename",
    (call: SystemCall) => call.name === "fsync" && /(images|layers|sha256|pods)$/.test(fileOf(call)),
  ],
  [
    "the directory that a record's directory is in",
    (call: SystemCall) => call.name === "fsync" && fileOf(call).endsWith("/durable"),
  ],
] as const)("a store that did not sync %s is found out", async (_, isLeftOut) => {
  const calls = recording.calls.map((call) => (isLeftOut(call) ? { ...call, name: LEFT_OUT } : call));
  expect(calls.filter(({ name }) => name === LEFT_OUT).length).toBeGreaterThan(1);
  let seen = 0;
  for (const state of new Replay(recording.root, randomOf(1)).states(calls)) {
    if (!/what is durable|names without contents/.test(state.label)) continue;
    seen++;
    if ((await problemsIn(state, recording.steps, trees)).length > 0) return;
  }
  expect.fail(`${seen} states were right`);
});

const fileOf = (call: SystemCall): string => pathOfFd(call.args[0] ?? "") ?? "";
