/** The doctor against the kernel that runs this test; it needs the addon. */
import { beforeEach, expect, test } from "vitest";
import { runDoctor } from "../../src/doctor/doctor.js";
import { requires } from "../harness/requires.js";

beforeEach(requires("root", "cgroup2", "overlayfs", "netns"));

test("runDoctor finds nothing missing on a machine that runs pods", async () => {
  const { checks } = await runDoctor();
  expect(checks.filter(({ status }) => status === "missing")).toEqual([]);
});

test("every check of runDoctor has a name of its own, and says what an absence costs", async () => {
  const { checks } = await runDoctor();
  const names = checks.map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
  expect(checks.filter(({ status, costs }) => status !== "ok" && costs === "")).toEqual([]);
  expect(checks.filter(({ found }) => found === "")).toEqual([]);
});

test("runDoctor leaves out no controller of cgroup v2 that a limit needs", async () => {
  const { checks } = await runDoctor();
  expect(checks.map(({ name }) => name)).toEqual(
    expect.arrayContaining(["cpu", "memory", "pids"].map((name) => `cgroup controller ${name}`)),
  );
});
