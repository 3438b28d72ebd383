/** Messages of a .proto as tables, and trees of any value as their bytes: also what no generated type would take. */
import { readFileSync } from "node:fs";
import { BinaryWriter } from "@bufbuild/protobuf/wire";

export interface ProtoField {
  readonly name: string;
  readonly number: number;
  /** A scalar's, an enum's or a message's; of a map, that of its values: its keys are text. */
  readonly type: string;
  readonly many: "" | "repeated" | "map";
}

export interface ProtoMethod {
  /** As gRPC has it: `/runtime.v1.RuntimeService/Version`. */
  readonly path: string;
  readonly request: string;
  readonly streams: boolean;
}

/** By name; bytes in the place of anything are written as they are, with their length in front. */
export interface Tree {
  [field: string]: unknown;
}

export class Proto {
  readonly messages = new Map<string, readonly ProtoField[]>();
  readonly methods: readonly ProtoMethod[];
  readonly #enums = new Set<string>();

  constructor(path: string) {
    const text = readFileSync(path, "utf8");
    const inPackage = /^package ([\w.]+);/m.exec(text)?.[1] ?? "";
    for (const [, name = ""] of text.matchAll(/^\s*enum (\w+) \{/gm)) this.#enums.add(name);
    for (const [, name = "", body = ""] of text.matchAll(/^message (\w+) \{(\}|\n.*?^\})/gms))
      this.messages.set(name, fieldsOf(body));
    this.methods = [...text.matchAll(/^service (\w+) \{\n(.*?)^\}/gms)].flatMap(([, service = "", body = ""]) =>
      [...body.matchAll(/rpc (\w+)\((\w+)\) returns \((stream )?/g)].map(([, name = "", request = "", stream]) => ({
        path: `/${inPackage}.${service}/${name}`,
        request,
        streams: stream !== undefined,
      })),
    );
  }

  fields(message: string): readonly ProtoField[] {
    const fields = this.messages.get(message);
    if (!fields) throw new Error(`no message ${message}`);
    return fields;
  }

  isEnum(type: string): boolean {
    return this.#enums.has(type);
  }

  encode(message: string, tree: Tree): Uint8Array {
    const writer = new BinaryWriter();
    for (const field of this.fields(message)) {
      const value = tree[field.name];
      if (value === undefined) continue;
      if (field.many === "map") this.#entries(writer, field, value as readonly (readonly [unknown, unknown])[]);
      else
        for (const one of field.many === "repeated" && Array.isArray(value) ? value : [value])
          this.#value(writer, field.number, field.type, one);
    }
    return writer.finish();
  }

  #entries(writer: BinaryWriter, field: ProtoField, entries: readonly (readonly [unknown, unknown])[]): void {
    for (const [key, value] of entries) {
      const entry = new BinaryWriter();
      this.#value(entry, 1, "string", key);
      this.#value(entry, 2, field.type, value);
      writer.uint32((field.number << 3) | LENGTH).bytes(entry.finish());
    }
  }

  #value(writer: BinaryWriter, number: number, type: string, value: unknown): void {
    if (value instanceof Uint8Array) writer.uint32((number << 3) | LENGTH).bytes(value);
    else if (type === "string") writer.uint32((number << 3) | LENGTH).string(value as string);
    else if (type === "bool") writer.uint32(number << 3).bool(value as boolean);
    else if (type === "double") writer.uint32((number << 3) | FIXED64).double(value as number);
    else if (type.startsWith("uint")) writer.uint32(number << 3).uint64(value as bigint);
    else if (type.startsWith("int") || this.isEnum(type)) writer.uint32(number << 3).int64(value as bigint);
    else writer.uint32((number << 3) | LENGTH).bytes(this.encode(type, value as Tree));
  }
}

/** Wire types; protobuf.dev, "Encoding". */
const FIXED64 = 1;
const LENGTH = 2;

function fieldsOf(body: string): ProtoField[] {
  const line = /^\s+(repeated )?(?:map<string, ([\w.]+)>|([\w.]+)) (\w+) = (\d+)/gm;
  return [...body.matchAll(line)].map(([, repeated, mapped, type = "", name = "", number]) => ({
    name,
    number: Number(number),
    type: mapped ?? type,
    many: mapped !== undefined ? "map" : repeated !== undefined ? "repeated" : "",
  }));
}
