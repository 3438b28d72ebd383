/**
 * Power cuts, replayed, while images are cared for: an archive comes by a stream and goes as one,
 * tags come, move and go, a damaged layer is found and fetched again.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import {
  inMemory,
  problemsOfAll,
  record,
  type Recording,
  SHARE,
  statesOf,
  type Steps,
} from "../harness/crash/crash-states.js";
import { smallImage, smallLayer } from "../harness/crash/images.js";
import { examine, treesOf } from "../harness/crash/store-check.js";
import { pushLayout, type Registry, startRegistry } from "../harness/registry.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "registry"] as const;
const lacking = missing(...NEEDS);
let folder: string;
let registry: Registry;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(inMemory(), "minke-crash-"));
  registry = await startRegistry();
});
afterAll(async () => {
  await registry?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

function recorded(name: string, steps: Steps): Recording {
  const place = join(folder, name);
  mkdirSync(place);
  return record(place, steps);
}

async function expectAllWhole(recording: Recording, trees: Map<string, readonly string[]>): Promise<void> {
  const { states, candidates } = statesOf(recording);
  const chosen = states.filter((_, index) => index % (3 * SHARE) === 0);
  expect(chosen.length).toBeGreaterThan(20);
  expect(await problemsOfAll(chosen, recording.steps, trees)).toEqual([]);
  console.log(
    `${recording.calls.length} calls, ${candidates} ways to crash, ${states.length} states, ${chosen.length} opened`,
  );
}

test("archives that come and go as streams, and tags that move, survive any crash", { timeout: 600_000 }, async () => {
  const [base, one, other] = [smallLayer("base"), smallLayer("one"), smallLayer("other")];
  const first = smallImage(join(folder, "layouts"), "first.example/image:1", [base, one]);
  const second = smallImage(join(folder, "layouts"), "second.example/image:1", [base, other]);
  const archive = join(folder, "first.tar.gz");
  execFileSync("tar", ["-czf", archive, "-C", first.layout, "."]);
  const [mine, saved] = ["my.own/name:1", join(folder, "saved.tar")];
  const recording = recorded("tags", [
    { op: "load", path: second.layout, gives: { [`image ${second.ref}`]: second.id } },
    { op: "loadStream", path: archive, gives: { [`image ${first.ref}`]: first.id } },
    { op: "tag", ref: second.ref, name: mine, gives: { [`image ${mine}`]: second.id } },
    // Older than the one that had the tag: the later tag counts, not the later pull.
    { op: "load", path: first.layout, gives: { [`image ${first.ref}`]: first.id } },
    { op: "tag", ref: first.ref, name: mine, gives: { [`image ${mine}`]: first.id } },
    { op: "tag", ref: second.ref, name: mine, gives: { [`image ${mine}`]: second.id } },
    { op: "save", ref: first.ref, path: saved, format: "docker-archive", gives: {} },
    { op: "untag", name: mine, gives: { [`image ${mine}`]: undefined } },
    { op: "untag", name: first.ref, gives: { [`image ${first.ref}`]: undefined } },
    { op: "loadStream", path: saved, gives: { [`image ${first.ref}`]: first.id } },
  ]);
  await expectAllWhole(recording, treesOf(recording.root));
});

test("a damaged layer that is found and repaired costs no image at any crash", { timeout: 600_000 }, async () => {
  const layers = [smallLayer("base"), smallLayer("own")];
  const made = smallImage(join(folder, "layouts"), "crash/repaired:1", layers);
  const [ref = ""] = await pushLayout(registry, made.layout);
  const whole = recorded("whole", [{ op: "pull", ref, gives: {} }]);
  const trees = treesOf(whole.root);
  const own = [...trees].find(([, lines]) => lines.some((line) => line.startsWith("/own.d/")))?.[0] ?? "";
  const layer = (state: string) => ({ [`layer ${own}`]: state });
  const recording = recorded("repair", [
    { op: "pull", ref, gives: { [`image ${ref}`]: made.id, ...layer("sound") } },
    { op: "damage", ref, path: "own.d/empty", gives: layer("wrong") },
    { op: "verify", ref, gives: layer("marked") },
    { op: "repair", ref, gives: layer("sound") },
    { op: "prune", gives: {} },
    { op: "damage", ref, path: "own.d/empty", gives: layer("wrong") },
    // Without a look before: found and fetched again in one.
    { op: "repair", ref, gives: layer("sound"), passes: layer("marked") },
  ]);
  const expected = new Map([
    [`image ${ref}`, new Set([made.id])],
    [`layer ${own}`, new Set(["sound"])],
  ]);
  expect((await examine(recording.root, expected, trees)).problems).toEqual([]);
  await expectAllWhole(recording, trees);
});
