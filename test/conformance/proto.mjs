// @ts-check
/**
 * Our .proto beside the official one: Go module k8s.io/cri-api, of the version that ours follows.
 *
 * Compared are the facts of the wire and of names: services, methods, messages, fields with number, type
 * and label, enums with their values. Comments, options and what is reserved are not.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The released version that has every message of ours. */
export const CRI_API = "v0.37.2";
const PATH = "runtime/v1/api.proto";

/**
 * Prints what differs.
 *
 * @param {string} project @returns {boolean} true where nothing differs
 */
export function isOfficialProto(project) {
  const work = mkdtempSync(join(tmpdir(), "minke-cri-api-"));
  try {
    const module = JSON.parse(run("go", ["mod", "download", "-json", `k8s.io/cri-api@${CRI_API}`], work));
    mkdirSync(join(work, "runtime/v1"), { recursive: true });
    copyFileSync(join(module.Dir, "pkg/apis", PATH), join(work, PATH));
    const official = factsOf(project, work);
    const ours = factsOf(project, join(project, "src/cri/proto"));
    const differences = [
      ...[...official].filter((fact) => !ours.has(fact)).map((fact) => `only official: ${fact}`),
      ...[...ours].filter((fact) => !official.has(fact)).map((fact) => `only ours: ${fact}`),
    ];
    for (const difference of differences.sort()) console.log(difference);
    console.log(`.proto: ${official.size} facts of cri-api ${CRI_API}, ${differences.length} differences`);
    return differences.length === 0;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** @param {string} program @param {string[]} args @param {string} cwd */
function run(program, args, cwd) {
  const result = spawnSync(program, args, { cwd, encoding: "utf8", maxBuffer: 64 << 20 });
  if (result.status !== 0) throw new Error(`${program} ${args.join(" ")}: ${result.error?.message ?? result.stderr}`);
  return result.stdout;
}

/** A line each. @param {string} project @param {string} folder with runtime/v1/api.proto @returns {Set<string>} */
function factsOf(project, folder) {
  const image = JSON.parse(
    run(join(project, "node_modules/.bin/buf"), ["build", folder, "-o", "-#format=json"], folder),
  );
  const {
    package: name,
    messageType = [],
    enumType = [],
    service = [],
  } = image.file.find((/** @type {{ name: string }} */ file) => file.name === PATH);
  return new Set([
    ...messageType.flatMap((/** @type {any} */ message) => messageFacts(`.${name}`, message)),
    ...enumType.flatMap((/** @type {any} */ one) => enumFacts(`.${name}`, one)),
    ...service.flatMap((/** @type {any} */ one) =>
      one.method.map(
        (/** @type {any} */ { name: method, inputType, outputType, clientStreaming, serverStreaming }) =>
          `rpc ${one.name}.${method}(${clientStreaming ? "stream " : ""}${inputType}) ${serverStreaming ? "stream " : ""}${outputType}`,
      ),
    ),
  ]);
}

/** @param {string} parent @param {any} message @returns {string[]} */
function messageFacts(parent, message) {
  const name = `${parent}.${message.name}`;
  return [
    `message ${name}`,
    ...(message.field ?? []).map(
      (/** @type {any} */ { name: field, number, label, type, typeName = "", oneofIndex, proto3Optional }) =>
        `field ${name}.${field} = ${number} ${label} ${type} ${typeName} ${oneofIndex === undefined ? "" : "oneof"} ${proto3Optional ? "optional" : ""}`.trim(),
    ),
    ...(message.nestedType ?? []).flatMap((/** @type {any} */ nested) => messageFacts(name, nested)),
    ...(message.enumType ?? []).flatMap((/** @type {any} */ nested) => enumFacts(name, nested)),
  ];
}

/** @param {string} parent @param {any} one @returns {string[]} */
function enumFacts(parent, one) {
  return one.value.map((/** @type {any} */ value) => `enum ${parent}.${one.name}.${value.name} = ${value.number ?? 0}`);
}
