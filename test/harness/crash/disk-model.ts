/**
 * A disk that promises only what POSIX does, replayed from traced calls, and the states in which a
 * crash can leave it. What fsync(2), syncfs(2) or an fsync of the directory has not made durable
 * may be there, may be missing, or may be there in part, each independent of the others:
 *
 *   contents and attributes of a file     by fsync of the file
 *   its name                              by fsync of the directory that holds it
 *   a rename                              whole or not at all, by fsync of the new directory
 *
 * That is weaker than what ext4, xfs or btrfs give (pillai2014, "All File Systems Are Not Created
 * Equal"), so what survives here survives there.
 */

export type NodeType = "file" | "dir" | "symlink" | "char" | "block" | "fifo";

/** Contents and attributes of an inode after one change of it. */
export interface Version {
  readonly seq: number;
  readonly data: Buffer;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** `undefined`: nobody has set it. */
  readonly mtimeS: number | undefined;
  readonly xattrs: Readonly<Record<string, string>>;
}

export interface Inode {
  readonly id: number;
  readonly type: NodeType;
  readonly device: readonly [number, number];
  readonly versions: Version[];
  /** Of `versions`: the newest that is durable. 0: nothing but that it exists. */
  durable: number;
}

/** A change of directories: one that is there at all is there whole. */
export interface NameChange {
  readonly seq: number;
  /** The directory whose fsync makes it durable. */
  readonly dir: number;
  readonly remove?: readonly [dir: number, name: string] | undefined;
  readonly add?: readonly [dir: number, name: string, inode: number] | undefined;
  isDurable: boolean;
}

export type Names = Map<number, Map<string, number>>;

export const ROOT = 0;

/** What a crash left of the changes that were not durable. */
export interface Remains {
  /** For the report of a failed state. */
  readonly label: string;
  readonly keeps: (change: NameChange) => boolean;
  /** Index into the versions, and whether the last write to it is torn. */
  readonly version: (inode: Inode) => { readonly index: number; readonly isTorn?: boolean };
}

export class Disk {
  readonly inodes: Inode[] = [];
  /** As the program sees it. */
  readonly names: Names = new Map();
  /** What is durable without any gap before it; `changes` come after. */
  readonly #base: Names = new Map();
  #changes: NameChange[] = [];
  #seq = 0;

  constructor() {
    this.make("dir", 0o700);
    this.#base.set(ROOT, new Map());
  }

  /** Changes so far: what is passed to `sync` says what a call may have covered. */
  get seq(): number {
    return this.#seq;
  }

  get pendingChanges(): readonly NameChange[] {
    return this.#changes.filter(({ isDurable }) => !isDurable);
  }

  get pendingInodes(): readonly Inode[] {
    return this.inodes.filter(({ durable, versions }) => durable < versions.length - 1);
  }

  make(
    type: NodeType,
    mode: number,
    data: Buffer = Buffer.alloc(0),
    device: readonly [number, number] = [0, 0],
  ): Inode {
    const first: Version = { seq: this.#seq, data, mode, uid: 0, gid: 0, mtimeS: undefined, xattrs: {} };
    const inode: Inode = { id: this.inodes.length, type, device, versions: [first], durable: 0 };
    this.inodes.push(inode);
    if (type === "dir") this.names.set(inode.id, new Map());
    return inode;
  }

  change(inode: Inode, change: Partial<Version>): void {
    inode.versions.push({ ...(inode.versions.at(-1) as Version), ...change, seq: ++this.#seq });
  }

  rename(change: Omit<NameChange, "seq" | "isDurable">): void {
    const done = { ...change, seq: ++this.#seq, isDurable: false };
    this.#changes.push(done);
    apply(this.names, done);
  }

  /** fsync(2). @param upTo changes after this one are not covered */
  sync(inode: Inode, upTo: number): void {
    inode.durable = Math.max(
      inode.durable,
      inode.versions.findLastIndex(({ seq }) => seq <= upTo),
    );
    for (const change of this.#changes) if (change.dir === inode.id && change.seq <= upTo) change.isDurable = true;
    this.#compact();
  }

  /** syncfs(2) */
  syncAll(upTo: number): void {
    for (const inode of this.inodes) this.sync(inode, upTo);
  }

  #compact(): void {
    const gap = this.#changes.findIndex(({ isDurable }) => !isDurable);
    const whole = gap < 0 ? this.#changes : this.#changes.slice(0, gap);
    for (const change of whole) apply(this.#base, change);
    this.#changes = gap < 0 ? [] : this.#changes.slice(gap);
  }

  /** The names that a crash leaves. */
  after(remains: Remains): Names {
    const names: Names = new Map(Array.from(this.#base, ([dir, entries]) => [dir, new Map(entries)]));
    for (const change of this.#changes) if (change.isDurable || remains.keeps(change)) apply(names, change);
    return names;
  }
}

function apply(names: Names, { remove, add }: NameChange): void {
  if (remove) names.get(remove[0])?.delete(remove[1]);
  if (!add) return;
  const [dir, name, inode] = add;
  let entries = names.get(dir);
  if (!entries) names.set(dir, (entries = new Map()));
  entries.set(name, inode);
}

const newest = (inode: Inode) => ({ index: inode.versions.length - 1 });
const durable = (inode: Inode) => ({ index: inode.durable });

/** The label of what a program leaves that was killed. */
export const KILLED = "everything";

/** All that was done is there: the program was killed, and the machine went on. */
const EVERYTHING: Remains = { label: KILLED, keeps: () => true, version: newest };
const DURABLE: Remains = { label: "what is durable", keeps: () => false, version: durable };

/** What may be left at any moment, without a choice among the changes. */
export const PLAIN_REMAINS: readonly Remains[] = [
  EVERYTHING,
  DURABLE,
  { label: "names without contents", keeps: () => true, version: durable },
  {
    label: "names with torn contents",
    keeps: () => true,
    version: (inode) => ({ ...newest(inode), isTorn: inode.durable < inode.versions.length - 1 }),
  },
  { label: "contents without names", keeps: () => false, version: newest },
];

/** Each change that is not durable, alone beside what is. */
export function* onlyOneOf(changes: readonly NameChange[]): Generator<Remains> {
  for (const one of changes) {
    const keeps = (change: NameChange) => change === one;
    yield { label: `only change ${one.seq}`, keeps, version: durable };
    yield { label: `only change ${one.seq}, contents whole`, keeps, version: newest };
  }
}

/** Each change, each inode's contents, missing from what is there otherwise. */
export function* allButOneOf(changes: readonly NameChange[], inodes: readonly Inode[]): Generator<Remains> {
  for (const one of changes) {
    yield { ...EVERYTHING, label: `all but change ${one.seq}`, keeps: (change) => change !== one };
  }
  for (const one of inodes) {
    const version = (inode: Inode) => (inode === one ? durable(inode) : newest(inode));
    yield { ...EVERYTHING, label: `all but the contents of inode ${one.id}`, version };
  }
}

/** Any of the changes. @param random a number from 0 to below 1 */
export function anyOf(changes: readonly NameChange[], random: () => number, label: string): Remains {
  const kept = new Set(changes.filter(() => random() < 0.5));
  const isWhole = new Map<Inode, number>();
  return {
    label,
    keeps: (change) => kept.has(change),
    version: (inode) => {
      if (!isWhole.has(inode)) isWhole.set(inode, random());
      const { index } = newest(inode);
      return { index: inode.durable + Math.round((isWhole.get(inode) ?? 0) * (index - inode.durable)) };
    },
  };
}
