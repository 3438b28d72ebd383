import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Digest } from "../../../src/base/ids.js";
import { defaultPullPolicy } from "../../../src/image/pull-policy.js";
import { parseReference, repoDigestOf, repoTagOf } from "../../../src/image/reference.js";

const DIGEST = `sha256:${"a".repeat(64)}` as Digest;

test.each([
  ["busybox", "docker.io/library/busybox:latest"],
  ["busybox:1.29", "docker.io/library/busybox:1.29"],
  ["user/app", "docker.io/user/app:latest"],
  ["docker.io/busybox", "docker.io/library/busybox:latest"],
  ["index.docker.io/user/app:1", "docker.io/user/app:1"],
  ["registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"],
  ["localhost/app", "localhost/app:latest"],
  ["localhost:5000/app", "localhost:5000/app:latest"],
  ["127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"],
  ["[::1]:5000/app:1", "[::1]:5000/app:1"],
  ["[fd00::1]/app", "[fd00::1]/app:latest"],
  ["minke.test/a__b/c-d.e:1_2", "minke.test/a__b/c-d.e:1_2"],
  [`busybox@${DIGEST}`, `docker.io/library/busybox@${DIGEST}`],
  [`busybox:1@${DIGEST}`, `docker.io/library/busybox:1@${DIGEST}`],
])("parseReference of %s is %s", (text, normalised) => {
  expect(parseReference(text).toString()).toBe(normalised);
});

test.each([
  "",
  "Busybox",
  "busybox:",
  "busybox:-x",
  `busybox:${"t".repeat(129)}`,
  "busybox@sha256:abc",
  `busybox@sha512:${"a".repeat(128)}`,
  `busybox@${DIGEST.toUpperCase()}`,
  "a//b",
  "/busybox",
  "busybox/",
  "host.test:port/app",
  "a___b",
  "user/../app",
  "http://host.test/app",
  "app name",
  "app\n",
  "a".repeat(256),
  "a".repeat(64),
  "-host.test/app",
])("parseReference of %j is invalid-argument INVALID_REFERENCE", (text) => {
  expect(() => parseReference(text)).toThrow(
    expect.objectContaining({ kind: "invalid-argument", code: "INVALID_REFERENCE" }),
  );
});

test("parseReference of what a reference prints gives the same reference", () => {
  // No dots: with one, the first part would be a host.
  const component = fc.stringMatching(/^[a-z0-9]{1,8}((_|__|-)[a-z0-9]{1,8}){0,2}$/);
  const host = fc.oneof(
    fc.constant(""),
    fc.stringMatching(/^[a-z0-9]{1,8}\.[a-z]{2,5}(:[0-9]{1,5})?\/$/),
    fc.constant("localhost:5000/"),
    fc.constant("[::1]:80/"),
  );
  const tag = fc.oneof(fc.constant(""), fc.stringMatching(/^:[A-Za-z0-9_][A-Za-z0-9._-]{0,20}$/));
  const digest = fc.constantFrom("", `@${DIGEST}`);
  fc.assert(
    fc.property(host, fc.array(component, { minLength: 1, maxLength: 4 }), tag, digest, (h, path, t, d) => {
      const first = parseReference(h + path.join("/") + t + d);
      const again = parseReference(first.toString());
      expect({ ...again, toString: undefined }).toEqual({ ...first, toString: undefined });
      expect(again.toString()).toBe(first.toString());
    }),
  );
});

test("parseReference of any text throws INVALID_REFERENCE or gives a name that parses", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 60 }), (text) => {
      try {
        parseReference(parseReference(text).toString());
      } catch (err) {
        expect(err).toMatchObject({ code: "INVALID_REFERENCE" });
      }
    }),
  );
});

describe("names in records", () => {
  test("a reference with tag and digest has no tag of its own", () => {
    expect(repoTagOf(parseReference(`app:1@${DIGEST}`))).toBeUndefined();
    expect(repoTagOf(parseReference("app:1"))).toBe("docker.io/library/app:1");
    expect(repoDigestOf(parseReference("app:1"), DIGEST)).toBe(`docker.io/library/app@${DIGEST}`);
  });
});

test.each([
  ["app", "Always"],
  ["app:latest", "Always"],
  ["app:1", "IfNotPresent"],
  [`app@${DIGEST}`, "IfNotPresent"],
  [`app:latest@${DIGEST}`, "IfNotPresent"],
] as const)("defaultPullPolicy of %s is %s", (ref, policy) => {
  expect(defaultPullPolicy(ref)).toBe(policy);
});
