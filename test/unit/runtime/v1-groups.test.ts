import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { V1Groups } from "../../../src/runtime/v1-groups.js";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "minke-v1-groups-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** @param root of the file system that is mounted */
const mount = (superOptions: string[], root = "/", fsType = "cgroup") => ({
  root,
  mountPoint: join(dir, superOptions.at(-1) ?? ""),
  fsType,
  superOptions: ["rw", ...superOptions],
});

/** /proc/7/cgroup. */
function membership(text: string) {
  mkdirSync(join(dir, "7"));
  writeFileSync(join(dir, "7/cgroup"), text);
}

describe("dirsOf", () => {
  test("finds the groups of a process, of hierarchies with several controllers too", async () => {
    membership("4:memory:/a b/c:d\n2:cpu,cpuacct:/\n1:name=systemd:/init\n0::/minke\n");
    const groups = new V1Groups([mount(["cpu", "cpuacct"]), mount(["memory"])], dir);
    expect(await groups.dirsOf(7)).toEqual({ cpu: join(dir, "cpuacct"), memory: join(dir, "memory/a b/c:d") });
  });

  test.each([
    ["/docker/1/inner", "/docker/1", "memory/inner"],
    ["/docker/1", "/docker/1", "memory"],
    ["/docker/12", "/docker/1", undefined],
    ["/../other", "/", undefined],
    ["/..", "/", undefined],
    ["/..named", "/", "memory/..named"],
  ])("of a process in %s where %s is mounted is %s", async (path, root, expected) => {
    membership(`4:memory:${path}\n`);
    const { memory } = await new V1Groups([mount(["memory"], root)], dir).dirsOf(7);
    expect(memory).toBe(expected && join(dir, expected));
  });

  test.each([
    ["a process that has ended", 8, "memory", "cgroup"],
    ["a hierarchy that is not mounted", 7, "cpuset", "cgroup"],
    ["cgroup v2", 7, "memory", "cgroup2"],
  ])("of %s is nothing", async (_, pid, controller, fsType) => {
    membership("4:memory:/a\n0::/b\n");
    expect(await new V1Groups([mount([controller], "/", fsType)], dir).dirsOf(pid)).toEqual({});
  });
});

test("has a controller only where a mount of v1 shows it", () => {
  const groups = new V1Groups([mount(["cpuset"]), mount(["cpu", "cpuacct"]), mount(["memory"], "/", "cgroup2")]);
  expect([groups.has("cpu"), groups.has("memory")]).toEqual([true, false]);
});

test("read of a file that changes gives what is there now, and of one that is missing nothing", async () => {
  const groups = new V1Groups([]);
  expect(await groups.read(dir, "memory.failcnt")).toBeUndefined();
  for (const text of ["1\n", "2\n"]) {
    writeFileSync(join(dir, "memory.failcnt"), text);
    expect(await Promise.all([groups.read(dir, "memory.failcnt"), groups.read(dir, "memory.failcnt")])).toEqual([
      text,
      text,
    ]);
  }
});
