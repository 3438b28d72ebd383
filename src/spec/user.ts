/**
 * Who a container's first process is: `user[:group]` of the request or the image, looked up in
 * the rootfs's own /etc/passwd and /etc/group. Pure: the caller reads the files, safely.
 */
import { RuntimeError } from "../base/errors.js";

export interface UserRequest {
  /** `uid`, `name`, `uid:gid`, `name:group`; empty: uid 0. */
  readonly user: string;
  /** Overrides the group of `user`. */
  readonly gid?: number | undefined;
  /** Added to what /etc/group says. */
  readonly supplementalGroups: readonly number[];
  /** `strict`: /etc/group gives no groups. Default: `merge`. */
  readonly supplementalGroupsPolicy?: "merge" | "strict" | undefined;
}

export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
  /** From /etc/passwd; `/` where the uid has no line. */
  readonly home: string;
}

interface PasswdLine {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

interface GroupLine {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

// uid_t's highest value means "no change" to the kernel (setresuid(2)), so it is no user.
const MAX_ID = 0xffff_fffe;

/**
 * Resolves a user as runc and containerd do: a number needs no line in /etc/passwd, and takes
 * its group, home and memberships from there where it has one; a name must have a line.
 *
 * @param passwd text of the rootfs's /etc/passwd; empty where it has none. @param group likewise
 * @throws RuntimeError `invalid-argument` UNKNOWN_USER or UNKNOWN_GROUP
 */
export function resolveUser(request: UserRequest, passwd: string, group: string): ResolvedUser {
  const separator = request.user.indexOf(":");
  const userText = separator < 0 ? request.user : request.user.slice(0, separator);
  const groupText = separator < 0 ? "" : request.user.slice(separator + 1);
  const users = parsePasswd(passwd);
  const groups = parseGroup(group);

  const numericUid = userText === "" ? 0 : parseId(userText);
  const line =
    numericUid === undefined ? users.find((u) => u.name === userText) : users.find((u) => u.uid === numericUid);
  const uid = numericUid ?? line?.uid;
  if (uid === undefined) {
    throw new RuntimeError(`user "${userText}" is neither a number nor a name in the image's /etc/passwd`, {
      kind: "invalid-argument",
      code: "UNKNOWN_USER",
    });
  }
  const gid = request.gid ?? (groupText === "" ? (line?.gid ?? 0) : resolveGroup(groupText, groups));
  const memberships =
    line && request.supplementalGroupsPolicy !== "strict"
      ? groups.filter((g) => g.members.includes(line.name)).map((g) => g.gid)
      : [];
  const additionalGids = [...new Set([gid, ...memberships, ...request.supplementalGroups])];
  return { uid, gid, additionalGids, home: line?.home ?? "/" };
}

function resolveGroup(text: string, groups: readonly GroupLine[]): number {
  const gid = parseId(text) ?? groups.find((g) => g.name === text)?.gid;
  if (gid === undefined) {
    throw new RuntimeError(`group "${text}" is neither a number nor a name in the image's /etc/group`, {
      kind: "invalid-argument",
      code: "UNKNOWN_GROUP",
    });
  }
  return gid;
}

/** A decimal id below 2^32 - 1, or `undefined`: "4294967296" is no way to become root. */
function parseId(text: string): number | undefined {
  if (!/^\d{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id <= MAX_ID ? id : undefined;
}

function parsePasswd(text: string): PasswdLine[] {
  return text.split("\n").flatMap((line) => {
    const [name, , uidText = "", gidText = "", , home] = line.split(":");
    const uid = parseId(uidText);
    const gid = parseId(gidText);
    if (!name || uid === undefined || gid === undefined) return [];
    return [{ name, uid, gid, home: home?.startsWith("/") ? home : "/" }];
  });
}

function parseGroup(text: string): GroupLine[] {
  return text.split("\n").flatMap((line) => {
    const [name, , gidText = "", members = ""] = line.split(":");
    const gid = parseId(gidText);
    return name && gid !== undefined ? [{ name, gid, members: members.split(",") }] : [];
  });
}
