/**
 * Nonsense for CRI, generated from its .proto: each field that a request of a method can carry, in turn, as
 * nothing good could have it, in a request that is otherwise sound.
 */
import { fileURLToPath } from "node:url";
import { Proto, type ProtoField, type ProtoMethod, type Tree } from "./proto.js";

export const PROTO = new Proto(fileURLToPath(new URL("../../src/cri/proto/runtime/v1/api.proto", import.meta.url)));

/** One request of nonsense. */
export interface NonsenseCase {
  readonly method: ProtoMethod;
  /** `config.mounts[].host_path is not UTF-8`. */
  readonly title: string;
  /** Not to be read at all: INVALID_ARGUMENT, whatever the method. */
  readonly isMalformed: boolean;
  /** @param sound the request without nonsense */
  readonly request: (sound: Tree) => Uint8Array;
}

interface Nonsense {
  readonly is: string;
  readonly value: unknown;
  readonly isMalformed?: boolean;
}

const NOT_UTF8 = Buffer.from([0x61, 0xff, 0xfe, 0xc3, 0x28]);
/** A field of wire type 7, which there is not. */
const NO_MESSAGE = Buffer.from([0x0f, 0xff, 0xff]);
const OVERSIZED = "x".repeat(70_000);
const MANY = 2_000;

/** Text: what ends a line, a C string or a folder, is too long, or means something elsewhere. */
const TEXTS: readonly Nonsense[] = [
  { is: "empty", value: "" },
  { is: "unknown", value: "no such thing" },
  { is: "oversized", value: OVERSIZED },
  { is: "not UTF-8", value: NOT_UTF8, isMalformed: true },
  { is: "with a NUL", value: "a\0b" },
  { is: "two lines", value: "a\nb" },
  { is: "a way up", value: "../../up" },
  { is: "an absolute way up", value: "/proc/self/root/../../up" },
  { is: "a name of JavaScript", value: "__proto__" },
  { is: "an option", value: "-rf --" },
  { is: "of astral letters", value: "💥\u202e/💥" },
];

const INTEGERS: Readonly<Record<string, readonly bigint[]>> = {
  int32: [0n, -1n, -(2n ** 31n), 2n ** 31n - 1n, 2n ** 40n],
  int64: [0n, -1n, 1n, -(2n ** 63n), 2n ** 63n - 1n, 2n ** 53n],
  uint32: [0n, 1n, 2n ** 32n - 1n, 2n ** 40n],
  uint64: [0n, 1n, 2n ** 64n - 1n],
};

function nonsenseOf(type: string): readonly Nonsense[] {
  const integers = INTEGERS[type];
  if (integers) return integers.map((value) => ({ is: String(value), value }));
  if (type === "string") return TEXTS;
  if (type === "bool") return [false, true].map((value) => ({ is: String(value), value }));
  if (type === "double") return [Number.NaN, -Infinity].map((value) => ({ is: String(value), value }));
  if (type === "bytes")
    return [
      { is: "not UTF-8", value: NOT_UTF8 },
      { is: "with a NUL", value: Buffer.from("a\0b") },
      { is: "oversized", value: Buffer.alloc(200_000, "x") },
    ];
  if (PROTO.isEnum(type)) return [4711n, -1n, 1n].map((value) => ({ is: `value ${value}`, value }));
  return [
    { is: "empty", value: {} },
    { is: "no message", value: NO_MESSAGE, isMalformed: true },
  ];
}

/** Of a field with all that it holds. */
function nonsenseFor({ type, many }: ProtoField): Nonsense[] {
  const single = nonsenseOf(type);
  if (many === "") return [...single];
  const crowd = type === "string" || PROTO.messages.has(type) ? (single[1]?.value ?? "") : 1n;
  const element = type === "string" ? "no such thing" : PROTO.messages.has(type) ? {} : crowd;
  if (many === "repeated") {
    return [
      ...single.map(({ value, ...rest }) => ({ ...rest, value: [value] })),
      { is: `${MANY} times the same`, value: Array.from({ length: MANY }, () => element) },
    ];
  }
  return [
    ...single.map(({ is, value, ...rest }) => ({ ...rest, is: `of a value ${is}`, value: [["key", value]] })),
    ...TEXTS.map(({ is, value, ...rest }) => ({ ...rest, is: `of a key ${is}`, value: [[value, soundOf(type)]] })),
    { is: `${MANY} entries`, value: Array.from({ length: MANY }, (_, i) => [`key${i}`, soundOf(type)]) },
  ];
}

const soundOf = (type: string): unknown => (type === "bytes" ? Buffer.from("1") : "1");

/** What stands beside a field of nonsense in messages that a sound request has none of. */
const SIBLINGS: Readonly<Record<string, Tree>> = {
  Mount: { container_path: "/mnt", host_path: "/usr/share" },
  Device: { container_path: "/dev/other", host_path: "/dev/null", permissions: "rw" },
  PortMapping: { container_port: 80n, host_port: 0n },
  IDMapping: { host_id: 100_000n, length: 65_536n },
  HugepageLimit: { page_size: "2MB" },
  KeyValue: { key: "KEY" },
  SecurityProfile: { profile_type: 2n },
};

type Path = readonly ProtoField[];

function put(tree: Tree, [field, ...below]: Path, value: unknown): Tree {
  if (!field) return tree;
  const here = tree[field.name];
  if (below.length === 0) {
    // A sound cgroup parent is below the test's own, where what comes of nonsense is found too.
    const isOwn = field.name === "cgroup_parent" && typeof value === "string" && value !== "";
    return { ...tree, [field.name]: isOwn ? `${String(here)}/${value}` : value };
  }
  const inner = ((field.many === "repeated" ? (here as unknown[] | undefined)?.[0] : here) ?? {
    ...SIBLINGS[field.type],
  }) as Tree;
  const changed = put(inner, below, value);
  return { ...tree, [field.name]: field.many === "repeated" ? [changed] : changed };
}

/** Every field below a message, once for each way to it. */
function pathsOf(message: string, above: Path = []): Path[] {
  return PROTO.fields(message).flatMap((field) => {
    const path = [...above, field];
    return PROTO.messages.has(field.type) ? [path, ...pathsOf(field.type, path)] : [path];
  });
}

/** All cases of a method: the same at every call, in the same order. */
export function nonsenseCases(method: ProtoMethod): NonsenseCase[] {
  const ofFields = pathsOf(method.request).flatMap((path) => {
    const name = path.map((field) => (field.many === "repeated" ? `${field.name}[]` : field.name)).join(".");
    // A sandbox's config beside its id says nothing that the sandbox has not said, and RestorePod is not
    // implemented: nobody looks into these.
    const isRead = path[0]?.name !== "sandbox_config" && method.request !== "RestorePodRequest";
    const kinds = nonsenseFor(path.at(-1) as ProtoField).filter((kind) => isRead || kind.isMalformed);
    return kinds.map(
      ({ is, value, isMalformed = false }): NonsenseCase => ({
        method,
        title: `${method.path.split("/").at(-1)}: ${name} ${is}`,
        isMalformed,
        request: (sound) => PROTO.encode(method.request, put(sound, path, value)),
      }),
    );
  });
  const whole = (title: string, isMalformed: boolean, bytes: Uint8Array): NonsenseCase => ({
    method,
    title: `${method.path.split("/").at(-1)}: a request ${title}`,
    isMalformed,
    request: () => bytes,
  });
  return [
    whole("without any field", false, new Uint8Array()),
    whole("that is no message", true, NO_MESSAGE),
    whole("that ends within a field", true, Buffer.from([0x0a, 0x7f, 0x61])),
    whole("of fields that there are not", false, Buffer.from([0xfa, 0x7f, 0x03, 0x61, 0x62, 0x63, 0xf0, 0x7f, 0x05])),
    ...ofFields,
  ];
}

/** Some of them, by chance. */
export function sample<T>(all: readonly T[], count: number, random: () => number): T[] {
  const left = [...all];
  return Array.from({ length: Math.min(count, all.length) }, () =>
    left.splice(Math.floor(random() * left.length), 1),
  ).flat();
}
