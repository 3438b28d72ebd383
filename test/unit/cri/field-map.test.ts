/** Every field that a CRI request can carry is in the map of fields, which says where it is honoured and what shows that. */
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const read = (path: string): string => readFileSync(`${root}${path}`, "utf8");

/** A reason is a sentence, not a word. */
const MIN_REASON_CHARACTERS = 30;

const SHORT_NAMES: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    ["fields", "containers", "sandboxes", "streams", "userns", "cdi", "nonsense"].map((name) => [
      name,
      `test/system/cri-${name}.test.ts`,
    ]),
  ),
  "container-config": "test/unit/cri/convert/container-config.test.ts",
  "sandbox-config": "test/unit/cri/convert/sandbox-config.test.ts",
};

/** `Message.field` of everything that a request of the .proto reaches, the messages of Windows aside. */
function inputFields(proto: string): Set<string> {
  const messages = new Map<string, { name: string; type: string }[]>();
  for (const [, name = "", body = ""] of proto.matchAll(/^message (\w+) \{\n(.*?)^\}/gms)) {
    const fields = [...body.matchAll(/^\s+(?:repeated )?(map<.*?>|[\w.]+) (\w+) = \d+/gm)].map(
      ([, type = "", field = ""]) => ({ name: field, type }),
    );
    messages.set(name, fields);
  }
  const reached = new Set<string>();
  const waiting = [...proto.matchAll(/^\s+rpc \w+\((\w+)\)/gm)].map(([, request = ""]) => request);
  const found = new Set<string>();
  for (let message = waiting.pop(); message !== undefined; message = waiting.pop()) {
    if (reached.has(message)) continue;
    reached.add(message);
    for (const { name, type } of messages.get(message) ?? []) {
      found.add(`${message}.${name}`);
      if (messages.has(type) && !type.startsWith("Windows")) waiting.push(type);
    }
  }
  return found;
}

interface Row {
  readonly fields: readonly string[];
  readonly honouredIn: string;
  readonly shownBy: string;
}

function rowsOf(map: string): Row[] {
  return [...map.matchAll(/^\| ([\w, ]+): ([\w, ]+) \| (.+?) \| (.+?) \|$/gm)].map(
    ([, messages = "", names = "", honouredIn = "", shownBy = ""]) => ({
      fields: messages.split(", ").flatMap((message) => names.split(", ").map((name) => `${message}.${name}`)),
      honouredIn,
      shownBy,
    }),
  );
}

const camelCase = (name: string): string => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());

/** What is wrong with a row; nothing where all holds. */
function faultsOf({ fields, honouredIn, shownBy }: Row): string[] {
  const [where = "", ...rest] = shownBy.split(": ");
  const name = rest.join(": ");
  const faults: string[] = [];
  if (honouredIn !== "–") {
    const source = existsSync(`${root}${honouredIn}`) ? read(honouredIn) : "";
    for (const field of fields) {
      const word = camelCase(field.split(".")[1] ?? "");
      if (!source.includes(word)) faults.push(`${field}: ${honouredIn} does not name ${word}`);
    }
  }
  if (where === "reason") {
    if (name.length < MIN_REASON_CHARACTERS) faults.push(`${fields[0]}: "${name}" is no reason`);
    return faults;
  }
  const file = SHORT_NAMES[where] ?? where;
  if (!existsSync(`${root}${file}`)) faults.push(`${fields[0]}: there is no ${file}`);
  else if (!read(file).includes(name)) faults.push(`${fields[0]}: ${file} has no test "${name}"`);
  return faults;
}

const rows = rowsOf(read("test/conformance/cri-fields.md"));

test("every input field of the .proto is in the map, once, and the map has no other", () => {
  const listed = rows.flatMap(({ fields }) => fields);
  expect(listed.toSorted()).toEqual([...inputFields(read("src/cri/proto/runtime/v1/api.proto"))].toSorted());
});

test("every row's file names the field, and its test exists, or a reason is given", () => {
  expect(rows.flatMap(faultsOf)).toEqual([]);
});

test("a field that is not listed, a test that is not there and a reason of one word are found", () => {
  const fields = inputFields(
    "service S {\n  rpc Do(A) returns (B) {}\n}\nmessage A {\n  repeated C c = 1;\n}\nmessage C {\n  map<string, string> d = 2;\n}\nmessage B {\n  string e = 1;\n}\n",
  );
  expect([...fields].toSorted()).toEqual(["A.c", "C.d"]);
  const row = { fields: ["Mount.host_path"], honouredIn: "src/cri/batches.ts", shownBy: "fields: no such test" };
  expect(faultsOf(row)).toHaveLength(2);
  expect(faultsOf({ ...row, honouredIn: "–", shownBy: "reason: later" })).toHaveLength(1);
});
