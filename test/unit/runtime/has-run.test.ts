/** Whether a container began, by what lies on the disk and in a cgroup; here folders stand for both. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type ContainerId, newContainerId } from "../../../src/base/ids.js";
import type { RuntimeContext } from "../../../src/runtime/context.js";
import { hasRun } from "../../../src/runtime/has-run.js";
import { Paths } from "../../../src/settings/paths.js";
import type { ContainerRecord } from "../../../src/state/container.js";

let folder: string;
let ctx: RuntimeContext;
let id: ContainerId;
let dir: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "minke-has-run-"));
  const paths = new Paths(join(folder, "root"), join(folder, "run"));
  ctx = { paths, cgroups: { mount: join(folder, "cgroup"), root: "minke", controllers: new Set() } } as never;
  id = newContainerId();
  dir = paths.container(id);
  mkdirSync(join(dir, "work"), { recursive: true });
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const answer = () => hasRun(ctx, { id, cgroupPath: "/minke/pods/one" } as ContainerRecord);

function processorTime(us: number): void {
  const cgroup = join(folder, "cgroup/minke/pods/one");
  mkdirSync(cgroup, { recursive: true });
  writeFileSync(join(cgroup, "cpu.stat"), `usage_usec ${us}\nuser_usec ${us}\nsystem_usec 0\n`);
}

const mount = () => mkdirSync(join(dir, "work", "work"));

test("one whose cgroup has used a processor has run", async () => {
  processorTime(1);
  expect(await answer()).toBe(true);
});

test("one whose cgroup has used none has not, though its overlay was mounted", async () => {
  processorTime(0);
  mount();
  expect(await answer()).toBe(false);
});

test("one without a cgroup has run where its overlay was mounted", async () => {
  expect(await answer()).toBe(false);
  mount();
  expect(await answer()).toBe(true);
});

test("one with an exit file has run, whatever else is missing", async () => {
  writeFileSync(join(dir, "exit.json"), "{}");
  expect(await answer()).toBe(true);
});
