/**
 * Every field of the spec that a Linux runtime obeys has a test: test/conformance/covered-fields.json
 * names it. The fields are read from the types in src/oci, so that a new one is not forgotten.
 */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { PROJECT } from "../../harness/cli.js";

const TYPES = ["runtime-spec", "linux", "seccomp"].map((name) => readFileSync(`${PROJECT}src/oci/${name}.ts`, "utf8"));
const covered: Record<string, string> = JSON.parse(
  readFileSync(`${PROJECT}test/conformance/covered-fields.json`, "utf8"),
);
/** Of other platforms. */
const ELSEWHERE = ["solaris", "windows", "vm", "zos", "freebsd", "process.commandLine", "process.user.username"];

/** Names and types of an interface's properties, or undefined. */
function propertiesOf(name: string): [string, string][] | undefined {
  for (const text of TYPES) {
    const body = new RegExp(`^export interface ${name} \\{\\n(.*?)^\\}`, "ms").exec(text)?.[1];
    if (body === undefined) continue;
    const flat = body.replaceAll(/\/\*\*.*?\*\//gs, "");
    return [...flat.matchAll(/^ {2}(\w+)\??:([^;]*);/gm)].map(([, key = "", type = ""]) => [key, type]);
  }
  return undefined;
}

/** Paths of the leaves below an interface, "linux.devices.major". */
function fieldsBelow(name: string, prefix = ""): string[] {
  return (propertiesOf(name) ?? []).flatMap(([key, type]) => {
    const path = `${prefix}${key}`;
    if (ELSEWHERE.includes(path)) return [];
    const inner = [...type.matchAll(/\b[A-Z]\w+/g)].map(([word]) => word).find((word) => propertiesOf(word));
    return inner ? fieldsBelow(inner, `${path}.`) : [path];
  });
}

test("every field of the spec's types has a test, and the map names no other", () => {
  const fields = fieldsBelow("Spec");
  expect(fields.length).toBeGreaterThan(150);
  expect(Object.keys(covered).toSorted()).toEqual(fields.toSorted());
});

test("every test that the map names is there, and no runtime-tools program that is expected to fail", () => {
  const failing = Object.keys(
    JSON.parse(readFileSync(`${PROJECT}test/conformance/runtime-tools/expected.json`, "utf8")),
  );
  for (const [field, place] of Object.entries(covered)) {
    const [file = "", title = ""] = place.split(/: (.*)/s);
    if (file === "runtime-tools") expect(failing, field).not.toContain(title);
    else expect(readFileSync(`${PROJECT}${file}`, "utf8"), field).toContain(`"${title}"`);
  }
});
