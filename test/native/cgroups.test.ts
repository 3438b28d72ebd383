/** Cgroups below a parent that somebody else made. Needs root. */
import { mkdirSync, readFileSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { makeCgroup } from "../../src/runtime/cgroups.js";
import { cgroup2Mount, requires } from "../harness/requires.js";

beforeEach(requires("root", "cgroup2", "controller:hugetlb"));

test("a cgroup gets controllers that the parents above it had but did not hand down", async () => {
  const mount = cgroup2Mount() ?? "";
  const root = `minke-cgtest-${process.pid}`;
  const layout = { mount, root, controllers: new Set(["hugetlb"]) };
  const made = [`/${root}`, `/${root}/pod`, `/${root}/pod/sandbox`];
  try {
    for (const cgroup of made.slice(0, 2)) mkdirSync(join(mount, cgroup));
    await makeCgroup(layout, `/${root}/pod/sandbox`, { handDown: true });
    for (const cgroup of made) {
      expect(readFileSync(join(mount, cgroup, "cgroup.subtree_control"), "utf8")).toBe("hugetlb\n");
    }
  } finally {
    for (const cgroup of made.toReversed()) rmdirSync(join(mount, cgroup));
  }
});
