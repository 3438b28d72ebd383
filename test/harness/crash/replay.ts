/**
 * Plays traced calls on the model of a disk, and hands out each state that a crash can leave,
 * once: as the entries of a tar archive, with what the program had said until then.
 */
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import {
  allButOneOf,
  anyOf,
  Disk,
  type Inode,
  type NodeType,
  onlyOneOf,
  PLAIN_REMAINS,
  type Remains,
  ROOT,
  type Version,
} from "./disk-model.js";
import { bytesOf, pathOfFd, type SystemCall } from "./system-calls.js";

/** An entry of rootfs-fixtures/tar-writer.mjs. */
export interface TarEntry {
  readonly path: string;
  readonly type: NodeType | "hardlink";
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeS: number;
  readonly content?: Buffer;
  readonly target?: string;
  readonly major?: number;
  readonly minor?: number;
  readonly pax?: Record<string, Buffer>;
}

export interface CrashState {
  readonly entries: readonly TarEntry[];
  /** Lines that the program had written to its standard output. */
  readonly said: readonly string[];
  /** Which call was the last, and what of the rest was kept. */
  readonly label: string;
  readonly hash: string;
}

/** Name of a call that a test takes out of a recording. */
export const LEFT_OUT = "left out";

const SYNCS = ["fsync", "fdatasync", "syncfs"];

export class Replay {
  readonly #root: string;
  readonly #disk = new Disk();
  readonly #said: string[] = [];
  readonly #seen = new Set<string>();
  readonly #random: () => number;
  /** Of each process: where its descriptors lead, for paths below /proc/self/fd. */
  readonly #descriptors = new Map<string, string>();
  /** The disk's `seq` when that many calls had ended. */
  readonly #seqAfter: number[] = [0];
  /** States that were possible; those that are handed out differ from each other. */
  candidates = 0;

  /** @param root absolute, without links: calls elsewhere change nothing here */
  constructor(root: string, random: () => number) {
    this.#root = root;
    this.#random = random;
  }

  /** Every state that a crash after any of the calls can leave and that no earlier one could. */
  *states(calls: readonly SystemCall[]): Generator<CrashState> {
    yield* this.#leave(PLAIN_REMAINS, "start");
    for (const [index, call] of calls.entries()) {
      const label = `call ${index} ${call.name} ${call.args.map((arg) => this.#short(arg)).join(" ")}`.slice(0, 240);
      const isSync = SYNCS.includes(call.name) && this.#isInside(pathOfFd(call.args[0] ?? ""));
      // Just before a sync most is pending: what may be missing is chosen there.
      if (isSync) {
        const { pendingChanges, pendingInodes } = this.#disk;
        yield* this.#leave(allButOneOf(pendingChanges, pendingInodes), `before ${label}`);
        const some = [1, 2, 3, 4].map((n) => anyOf(pendingChanges, this.#random, `some, ${n}`));
        yield* this.#leave(some, `before ${label}`);
      }
      const before = this.#disk.seq;
      const saidBefore = this.#said.length;
      this.#play(call);
      this.#seqAfter.push(this.#disk.seq);
      if (!isSync && this.#disk.seq === before && this.#said.length === saidBefore) continue;
      yield* this.#leave(PLAIN_REMAINS, label);
      const { pendingChanges } = this.#disk;
      const fresh = isSync ? pendingChanges : pendingChanges.filter(({ seq }) => seq > before);
      yield* this.#leave(onlyOneOf(fresh), label);
    }
  }

  /** The tree as the program left it: to compare with the real one. */
  tree(calls: readonly SystemCall[]): readonly TarEntry[] {
    for (const call of calls) {
      this.#play(call);
      this.#seqAfter.push(this.#disk.seq);
    }
    return this.#entries(PLAIN_REMAINS[0] as Remains);
  }

  *#leave(all: Iterable<Remains>, label: string): Generator<CrashState> {
    for (const remains of all) {
      this.candidates++;
      const entries = this.#entries(remains);
      const hash = hashOf(entries, this.#said.length);
      if (this.#seen.has(hash)) continue;
      this.#seen.add(hash);
      yield { entries, said: [...this.#said], label: `${label}: ${remains.label}`, hash };
    }
  }

  #entries(remains: Remains): TarEntry[] {
    const names = this.#disk.after(remains);
    const entries: TarEntry[] = [];
    const pathOf = new Map<number, string>();
    const walk = (dir: number, path: string) => {
      for (const [name, id] of [...(names.get(dir) ?? [])].sort(([a], [b]) => (a < b ? -1 : 1))) {
        const inode = this.#disk.inodes[id] as Inode;
        const at = join(path, name);
        const first = pathOf.get(id);
        if (first === undefined) pathOf.set(id, at);
        entries.push(entryOf(inode, at, first, remains));
        if (inode.type === "dir" && first === undefined) walk(id, at);
      }
    };
    walk(ROOT, "");
    return entries;
  }

  #play(call: SystemCall): void {
    const { name, args, pid } = call;
    for (const arg of [...args, call.result]) this.#remember(pid, arg);
    const [first = "", second = "", third = ""] = args;
    switch (name) {
      case "openat":
      case "openat2":
        return this.#open(call);
      case "write":
        if (first.startsWith("1<")) this.#said.push(...bytesOf(second).toString().split("\n").filter(Boolean));
        return this.#write(first, [second], undefined);
      case "pwrite64":
        return this.#write(first, [second], Number(args[3]));
      case "writev":
        return this.#write(
          first,
          Array.from(second.matchAll(/iov_base=("[^"]*"(?:\.\.\.)?)/g), (m) => m[1] ?? ""),
          undefined,
        );
      case "ftruncate":
        return this.#truncate(first, Number(second));
      case "fsync":
      case "fdatasync":
      case "syncfs":
        return this.#sync(call);
      case "mkdir":
        return this.#create(this.#path(pid, undefined, first), "dir", octal(second));
      case "mkdirat":
        return this.#create(this.#path(pid, first, second), "dir", octal(third));
      case "mknodat":
        return this.#mknod(call);
      case "symlink":
        return this.#create(this.#path(pid, undefined, second), "symlink", 0o777, bytesOf(first));
      case "symlinkat":
        return this.#create(this.#path(pid, second, third), "symlink", 0o777, bytesOf(first));
      case "link":
        return this.#link(this.#path(pid, undefined, first), this.#path(pid, undefined, second));
      case "linkat":
        return this.#link(this.#path(pid, first, second), this.#path(pid, third, args[3] ?? ""));
      case "rename":
        return this.#rename(this.#path(pid, undefined, first), this.#path(pid, undefined, second));
      case "renameat":
      case "renameat2":
        return this.#rename(this.#path(pid, first, second), this.#path(pid, third, args[3] ?? ""));
      case "unlink":
      case "rmdir":
        return this.#unlink(this.#path(pid, undefined, first));
      case "unlinkat":
        return this.#unlink(this.#path(pid, first, second));
      default:
        return this.#attributes(call);
    }
  }

  #attributes({ name, args, pid }: SystemCall): void {
    const [first = "", second = "", third = ""] = args;
    const at = (path: string | undefined, change: Partial<Version>) => {
      const inode = path === undefined ? undefined : this.#find(path);
      if (inode) this.#disk.change(inode, change);
    };
    const owner = (uid: string, gid: string): Partial<Version> => ({ uid: Number(uid), gid: Number(gid) });
    switch (name) {
      case "chmod":
        return at(this.#path(pid, undefined, first), { mode: octal(second) });
      case "fchmod":
        return at(pathOfFd(first), { mode: octal(second) });
      case "fchmodat":
        return at(this.#path(pid, first, second), { mode: octal(third) });
      case "chown":
      case "lchown":
        return at(this.#path(pid, undefined, first), owner(second, third));
      case "fchown":
        return at(pathOfFd(first), owner(second, third));
      case "fchownat":
        return at(this.#path(pid, first, second), owner(third, args[3] ?? ""));
      case "utimensat": {
        const mtime = [...third.matchAll(/tv_sec=(-?\d+), tv_nsec=\d/g)].at(-1)?.[1];
        const path = second === "NULL" ? pathOfFd(first) : this.#path(pid, first, second);
        return at(path, mtime === undefined ? {} : { mtimeS: Number(mtime) });
      }
      case "fsetxattr":
      case "lsetxattr": {
        const path = name === "fsetxattr" ? pathOfFd(first) : this.#path(pid, undefined, first);
        const xattrs = path === undefined ? {} : this.#find(path)?.versions.at(-1)?.xattrs;
        return at(path, { xattrs: { ...xattrs, [bytesOf(second).toString()]: bytesOf(third).toString("latin1") } });
      }
      default:
        // A call that the model does not know must not go unnoticed.
        if (name !== LEFT_OUT && args.some((arg) => this.#isInside(pathOfFd(arg)) || this.#isInside(stringOf(arg)))) {
          throw new Error(`the model of the disk does not know ${name}(${args.join(", ").slice(0, 200)})`);
        }
    }
  }

  #open({ args, result }: SystemCall): void {
    const path = pathOfFd(result);
    if (path === undefined || !this.#isInside(path)) return;
    const flags = args.slice(2).join(" ");
    const mode = /mode=(0\d*)/.exec(flags)?.[1] ?? args[3] ?? "0";
    const present = this.#find(path);
    if (!present && flags.includes("O_CREAT")) this.#create(path, "file", octal(mode));
    else if (present?.type === "file" && flags.includes("O_TRUNC"))
      this.#disk.change(present, { data: Buffer.alloc(0) });
    if (/O_TMPFILE/.test(flags)) throw new Error("the model of the disk does not know O_TMPFILE");
  }

  #write(fd: string, strings: readonly string[], offset: number | undefined): void {
    const path = pathOfFd(fd);
    const inode = path === undefined ? undefined : this.#find(path);
    if (!inode) return;
    const bytes = Buffer.concat(strings.map(bytesOf));
    const before = inode.versions.at(-1)?.data ?? Buffer.alloc(0);
    // Nobody here writes twice to one place, so what has no offset comes at the end.
    const at = offset ?? before.length;
    const data = Buffer.alloc(Math.max(before.length, at + bytes.length));
    before.copy(data);
    bytes.copy(data, at);
    this.#disk.change(inode, { data });
  }

  #truncate(fd: string, length: number): void {
    const path = pathOfFd(fd);
    const inode = path === undefined ? undefined : this.#find(path);
    if (!inode) return;
    const data = Buffer.alloc(length);
    inode.versions.at(-1)?.data.copy(data);
    this.#disk.change(inode, { data });
  }

  #sync({ name, args, begunAfter }: SystemCall): void {
    const path = pathOfFd(args[0] ?? "");
    if (path === undefined || !this.#isInside(path)) return;
    const upTo = this.#seqAfter[begunAfter] ?? 0;
    const inode = this.#find(path);
    if (name === "syncfs") this.#disk.syncAll(upTo);
    else if (inode) this.#disk.sync(inode, upTo);
  }

  #mknod({ pid, args }: SystemCall): void {
    const [dir = "", name = "", mode = "", device = ""] = args;
    const type = mode.includes("S_IFCHR") ? "char" : mode.includes("S_IFBLK") ? "block" : "fifo";
    const [, major = "0", minor = "0"] = /makedev\((0x[0-9a-f]+|\d+), (0x[0-9a-f]+|\d+)\)/.exec(device) ?? [];
    const bits = octal(/\|(0\d+)/.exec(mode)?.[1] ?? "0");
    this.#create(this.#path(pid, dir, name), type, bits, Buffer.alloc(0), [Number(major), Number(minor)]);
  }

  #create(path: string, type: NodeType, mode: number, data?: Buffer, device?: readonly [number, number]): void {
    const dir = this.#parent(path);
    if (!dir) return;
    const inode = this.#disk.make(type, mode, data, device);
    this.#disk.rename({ dir: dir.id, add: [dir.id, nameOf(path), inode.id] });
  }

  #link(from: string, to: string): void {
    const dir = this.#parent(to);
    const inode = this.#find(from);
    if (dir && inode) this.#disk.rename({ dir: dir.id, add: [dir.id, nameOf(to), inode.id] });
  }

  #rename(from: string, to: string): void {
    const dir = this.#parent(to);
    const fromDir = this.#parent(from);
    const inode = this.#find(from);
    if (!dir && !fromDir) return;
    if (!dir || !fromDir || !inode) throw new Error(`the model of the disk does not know ${from}, renamed to ${to}`);
    this.#disk.rename({
      dir: dir.id,
      remove: [fromDir.id, nameOf(from)],
      add: [dir.id, nameOf(to), inode.id],
    });
  }

  #unlink(path: string): void {
    const dir = this.#parent(path);
    if (dir) this.#disk.rename({ dir: dir.id, remove: [dir.id, nameOf(path)] });
  }

  #remember(pid: number, argument: string): void {
    const fd = /^(\d+)</.exec(argument)?.[1];
    const path = fd === undefined ? undefined : pathOfFd(argument);
    if (path !== undefined) this.#descriptors.set(`${pid} ${fd}`, path);
  }

  #path(pid: number, dir: string | undefined, name: string): string {
    const text = bytesOf(name).toString();
    const [, fd, rest = ""] = /^\/proc\/self\/fd\/(\d+)(.*)$/.exec(text) ?? [];
    if (fd !== undefined) return (this.#descriptors.get(`${pid} ${fd}`) ?? "/unknown") + rest;
    const base = dir === undefined ? "/" : (pathOfFd(dir) ?? "/unknown");
    return text === "" ? base : text.startsWith("/") ? join(text) : join(base, text);
  }

  #isInside(path: string | undefined): boolean {
    return path === this.#root || (path?.startsWith(`${this.#root}/`) ?? false);
  }

  #parent(path: string): Inode | undefined {
    if (!this.#isInside(path)) return undefined;
    const dir = this.#find(dirname(path));
    if (!dir) throw new Error(`the model of the disk does not know the directory of ${path}`);
    return dir;
  }

  #find(path: string): Inode | undefined {
    if (!this.#isInside(path)) return undefined;
    let id = ROOT;
    for (const name of path.slice(this.#root.length).split("/").filter(Boolean)) {
      const next = this.#disk.names.get(id)?.get(name);
      if (next === undefined) return undefined;
      id = next;
    }
    return this.#disk.inodes[id];
  }

  #short(argument: string): string {
    return (pathOfFd(argument) ?? stringOf(argument) ?? argument)
      .replace(this.#root, "")
      .replace(/[^ -~]/g, "?")
      .slice(0, 90);
  }
}

function stringOf(argument: string): string | undefined {
  return argument.startsWith('"') ? bytesOf(argument.replace(/\.\.\.$/, "")).toString("latin1") : undefined;
}

const nameOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1);
const octal = (text: string): number => Number.parseInt(text, 8);

function entryOf(inode: Inode, path: string, linkTo: string | undefined, remains: Remains): TarEntry {
  const { index, isTorn } = remains.version(inode);
  const version = inode.versions[index] as Version;
  const common = { path, mode: version.mode, uid: version.uid, gid: version.gid, mtimeS: version.mtimeS ?? 0 };
  if (linkTo !== undefined && inode.type !== "dir") return { ...common, type: "hardlink", target: linkTo };
  const pax = Object.fromEntries(
    Object.entries(version.xattrs).map(([name, value]) => [`SCHILY.xattr.${name}`, Buffer.from(value, "latin1")]),
  );
  const [major, minor] = inode.device;
  if (inode.type === "symlink") return { ...common, type: "symlink", target: version.data.toString() };
  if (inode.type === "file")
    return { ...common, type: "file", content: isTorn ? torn(version.data) : version.data, pax };
  return { ...common, type: inode.type, major, minor, pax };
}

/** The first half as it was, the rest as blocks that were never written. */
function torn(data: Buffer): Buffer {
  return Buffer.concat([data.subarray(0, data.length >> 1), Buffer.alloc(data.length - (data.length >> 1))]);
}

function hashOf(entries: readonly TarEntry[], said: number): string {
  const hash = createHash("sha1").update(`${said}`);
  for (const { content, pax, ...entry } of entries) {
    hash.update(JSON.stringify(entry));
    if (content) hash.update(content);
    if (pax) for (const [name, value] of Object.entries(pax)) hash.update(name).update(value);
  }
  return hash.digest("base64");
}
