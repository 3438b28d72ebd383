import { openSync } from "node:fs";
import { expect, test } from "vitest";
import { errnoName, syscallError } from "../../../src/native/addon.js";
import { Fd } from "../../../src/native/fd.js";

test("syscallError names call and errno and adds the hint where the errno misleads", () => {
  const err = syscallError('mount volume "config"', "move_mount", 28);
  expect(err.message).toBe(
    'mount volume "config": move_mount: ENOSPC (the mount namespace has reached its limit; see /proc/sys/fs/mount-max)',
  );
  expect(err.syscall).toEqual({ name: "move_mount", errno: "ENOSPC" });
});

test("syscallError of EPERM is permission-denied PERMISSION_DENIED", () => {
  expect(syscallError("x", "unshare", 1)).toMatchObject({ kind: "permission-denied", code: "PERMISSION_DENIED" });
});

test("errnoName prefers EAGAIN and EOPNOTSUPP to their other names and knows what Node does not list", () => {
  expect([11, 95, 94, 123, 9999].map(errnoName)).toEqual([
    "EAGAIN",
    "EOPNOTSUPP",
    "ESOCKTNOSUPPORT",
    "ENOMEDIUM",
    "errno 9999",
  ]);
});

test("an Fd closes once, and its number is not readable after that", () => {
  const fd = new Fd(openSync("/dev/null", "r"), "null");
  fd.close();
  fd.close();
  expect(fd.isOpen).toBe(false);
  expect(() => fd.number).toThrow("closed");
});
