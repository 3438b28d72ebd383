/**
 * Whose fault a failed start is: what the caller named, or a step that is ours alone.
 */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { MonitorRequestError } from "../../../src/monitor/monitor-error.js";
import { PROJECT } from "../../harness/cli.js";

const kindOf = (step: string, errno: string, code = "START_FAILED") =>
  new MonitorRequestError({ code, message: "start", step, syscall: "openat2", errno }).kind;

const ASKED_FOR = [
  ...["chdir", "device", "exec", "hook", "intel rdt", "label", "limits", "log", "mask", "mount", "namespace"],
  ...["network device", "readonly path", "symlink", "sysctl", "terminal"],
];
/** The last six are the monitor's own, and the commands of another runtime. */
const OURS = [
  ...["none", "setup", "user map", "propagation", "rootfs", "readonly root", "pivot root", "hostname", "domainname"],
  ...["oom score", "rlimit", "personality", "scheduler", "io priority", "capabilities", "user", "no new privileges"],
  ...["seccomp", "stdio", "wait", "cpu affinity", "memory policy"],
  ...["cgroup", "init", "watch", "create", "start", "delete"],
];

const UNFIT = ["EEXIST", "EISDIR", "ENOENT", "ENOTDIR", "EROFS"];

test.each(ASKED_FOR)("a missing or unfit file in the step %s is failed-precondition", (step) => {
  expect(UNFIT.map((errno) => kindOf(step, errno))).toEqual(UNFIT.map(() => "failed-precondition"));
});

test.each(OURS)("a missing or unfit file in the step %s is internal", (step) => {
  expect(UNFIT.map((errno) => kindOf(step, errno))).toEqual(UNFIT.map(() => "internal"));
  expect(kindOf(step, "ENOENT", "EXEC_FAILED")).toBe("internal");
});

test.each(["E2BIG", "ELOOP", "ENAMETOOLONG"])("%s is an argument of the caller's, or ours to answer for", (errno) => {
  expect(kindOf("mount", errno)).toBe("invalid-argument");
  expect(kindOf("cgroup", errno)).toBe("internal");
});

test("a refused spec is invalid-argument, and exhausted descriptors resource-exhausted in any step", () => {
  expect(kindOf("spec", "")).toBe("invalid-argument");
  expect(kindOf("cgroup", "EMFILE")).toBe("resource-exhausted");
  expect(kindOf("mount", "EMFILE")).toBe("resource-exhausted");
});

test("an errno that says nothing of the caller's files leaves the kind of the request", () => {
  expect(kindOf("mount", "EIO")).toBe("internal");
});

test("every step of the native core is on one side", () => {
  const header = readFileSync(`${PROJECT}native/runtime/child_report.h`, "utf8");
  const steps = [...header.matchAll(/X\(k\w+, "([^"]+)"\)/g)].map(([, name]) => name ?? "");
  expect(steps.length).toBeGreaterThan(30);
  const sides = new Set([...ASKED_FOR, ...OURS]);
  expect(steps.filter((step) => !sides.has(step))).toEqual([]);
});
