import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { resolveUser } from "../../../src/spec/user.js";

const PASSWD =
  "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nbroken line\nodd:x:4294967296:1::/:\n";
const GROUP = "root:x:0:\nwww-data:x:33:\nadm:x:4:www-data,other\ndisk:x:6:root\nbad:x:notanumber:www-data\n";
const resolve = (user: string, more: { gid?: number; supplementalGroups?: number[] } = {}) =>
  resolveUser({ user, gid: more.gid, supplementalGroups: more.supplementalGroups ?? [] }, PASSWD, GROUP);

describe("resolveUser", () => {
  test("of an empty user is root with root's groups and home", () => {
    expect(resolve("")).toEqual({ uid: 0, gid: 0, additionalGids: [0, 6], home: "/root" });
  });
  test("of a name takes uid, gid, memberships and home from the image", () => {
    expect(resolve("www-data")).toEqual({ uid: 33, gid: 33, additionalGids: [33, 4], home: "/var/www" });
  });
  test("of a number with a line takes the rest from the line", () => {
    expect(resolve("33")).toEqual({ uid: 33, gid: 33, additionalGids: [33, 4], home: "/var/www" });
  });
  test("of a number without a line has group 0 and home /", () => {
    expect(resolve("1002")).toEqual({ uid: 1002, gid: 0, additionalGids: [0], home: "/" });
  });
  test("of user:group takes the group by name or number", () => {
    expect(resolve("1003:adm").gid).toBe(4);
    expect(resolve("www-data:100").gid).toBe(100);
  });
  test("with a gid of the request overrides the image's group", () => {
    expect(resolve("www-data:100", { gid: 7, supplementalGroups: [9, 7] }).additionalGids).toEqual([7, 4, 9]);
  });
  test("of an unknown name is invalid-argument UNKNOWN_USER", () => {
    expect(() => resolve("nobody-here")).toThrow(
      expect.objectContaining({ kind: "invalid-argument", code: "UNKNOWN_USER" }),
    );
  });
  test("of an unknown group is invalid-argument UNKNOWN_GROUP", () => {
    expect(() => resolve("0:nogroup")).toThrow(
      expect.objectContaining({ kind: "invalid-argument", code: "UNKNOWN_GROUP" }),
    );
  });
  for (const text of ["4294967295", "4294967296", "18446744073709551616", "-1", "0x0", "1e3", " 0", "+0"]) {
    test(`of ${JSON.stringify(text)} is refused, never truncated to another user (CVE-2024-40635)`, () => {
      expect(() => resolve(text)).toThrow(expect.objectContaining({ code: "UNKNOWN_USER" }));
    });
  }
  test("never yields an id outside 0 to 2^32 - 2, whatever the files say", () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), fc.string(), (user, passwd, group) => {
        try {
          const { uid, gid, additionalGids } = resolveUser({ user, supplementalGroups: [] }, passwd, group);
          for (const id of [uid, gid, ...additionalGids])
            expect(Number.isInteger(id) && id >= 0 && id < 0xffff_ffff).toBe(true);
        } catch (err) {
          expect(err).toMatchObject({ kind: "invalid-argument" });
        }
      }),
    );
  });
});
