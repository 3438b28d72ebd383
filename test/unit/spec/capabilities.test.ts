import { expect, test } from "vitest";
import { CAPABILITIES, capabilitiesOfMask, containerCapabilities } from "../../../src/spec/capabilities.js";

const EVERYTHING = new Set<string>(CAPABILITIES);
const given = (
  addCapabilities: string[],
  dropCapabilities: string[],
  privileged = false,
  available: ReadonlySet<string> = EVERYTHING,
) => containerCapabilities({ privileged, addCapabilities, dropCapabilities }, available);

test("an unprivileged container gets the fourteen default capabilities", () => {
  expect(given([], [])).toHaveLength(14);
  expect(given([], [])).not.toContain("CAP_SYS_ADMIN");
});
test("drop ALL and add one gives just that one", () => {
  expect(given(["NET_ADMIN"], ["ALL"])).toEqual(["CAP_NET_ADMIN"]);
});
test("add ALL and drop one gives all but that one", () => {
  expect(given(["ALL"], ["SYS_ADMIN"])).toEqual(CAPABILITIES.filter((name) => name !== "CAP_SYS_ADMIN"));
});
test("drop takes a default away, with or without the prefix, in any case", () => {
  expect(given([], ["chown"])).not.toContain("CAP_CHOWN");
  expect(given([], ["CAP_CHOWN"])).toHaveLength(13);
});
test("privileged gives what the daemon has and no more", () => {
  expect(given([], [], true, new Set(["CAP_CHOWN", "CAP_SYS_ADMIN"]))).toEqual(["CAP_CHOWN", "CAP_SYS_ADMIN"]);
});
test("a default that the daemon lacks is left out", () => {
  expect(given([], [], false, new Set(["CAP_CHOWN"]))).toEqual(["CAP_CHOWN"]);
});
test("adding what the daemon lacks is failed-precondition CAPABILITY_NOT_AVAILABLE", () => {
  expect(() => given(["SYS_RESOURCE"], [], false, new Set(["CAP_CHOWN"]))).toThrow(
    expect.objectContaining({ kind: "failed-precondition", code: "CAPABILITY_NOT_AVAILABLE" }),
  );
});
test("an unknown name is invalid-argument UNKNOWN_CAPABILITY", () => {
  expect(() => given(["NET_ADMINS"], [])).toThrow(
    expect.objectContaining({ kind: "invalid-argument", code: "UNKNOWN_CAPABILITY" }),
  );
});
test("a mask of /proc/self/status is read in the kernel's numbering", () => {
  expect([...capabilitiesOfMask("0000000000000021")]).toEqual(["CAP_CHOWN", "CAP_KILL"]);
  expect(capabilitiesOfMask("000001ffffffffff").size).toBe(41);
});
