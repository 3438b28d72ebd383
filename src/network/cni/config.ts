/**
 * CNI network configurations: one file read, checked and brought into one form. CNI spec,
 * section 1, "Network configuration format".
 *
 * A `.conf` holds one plugin, a `.conflist` a chain of them; `.json` may be either. Knows no
 * plugin's own keys: they are passed on as they were written.
 */
import { readdir, readFile } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { hasErrno, RuntimeError, withContext } from "../../base/errors.js";

/** The versions spoken here, oldest first. */
export const CNI_VERSIONS = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] as const;
export type CniVersion = (typeof CNI_VERSIONS)[number];

/** One plugin's object, as written. */
export interface PluginConfig {
  readonly type: string;
  readonly capabilities?: Readonly<Record<string, boolean>> | undefined;
  readonly [key: string]: unknown;
}

/** A chain of plugins under one name. Plain data: it is kept with each attachment that it made. */
export interface NetworkConfig {
  /** Where it is from. */
  readonly file: string;
  readonly name: string;
  readonly version: CniVersion;
  readonly disableCheck: boolean;
  readonly disableGc: boolean;
  readonly plugins: readonly PluginConfig[];
}

const EXTENSIONS: ReadonlySet<string> = new Set([".conf", ".conflist", ".json"]);
/** Larger than any of them: limits come before parsing. */
const MAX_FILE_BYTES = 1024 * 1024;
/** CNI spec, "Network configuration objects", `name`. */
const NETWORK_NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;
/** A file name in a directory of plugins. */
const PLUGIN_TYPE = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

/** True where the version is this one or later. */
export function isAtLeast(version: CniVersion, least: CniVersion): boolean {
  return CNI_VERSIONS.indexOf(version) >= CNI_VERSIONS.indexOf(least);
}

/** The files of a directory that may be configurations, in their order; none where it is missing. */
export async function configFiles(dir: string): Promise<string[]> {
  try {
    const names = (await readdir(dir)).filter((name) => EXTENSIONS.has(extname(name)));
    // By bytes, as every other runtime has it; a locale must not change the network.
    return names.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))).map((name) => join(dir, name));
  } catch (err) {
    if (hasErrno(err, "ENOENT") || hasErrno(err, "ENOTDIR")) return [];
    throw withContext(err, `read CNI configurations of "${dir}"`);
  }
}

/** @throws RuntimeError `failed-precondition` CNI_CONFIG_INVALID: naming the file and what is wrong */
export async function readConfig(file: string): Promise<NetworkConfig> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (err) {
    throw withContext(err, `read CNI configuration "${file}"`);
  }
  return parseConfig(text, file);
}

/** @throws RuntimeError `failed-precondition` CNI_CONFIG_INVALID */
export function parseConfig(text: string, file: string): NetworkConfig {
  const invalid = (what: string): RuntimeError =>
    new RuntimeError(`read CNI configuration "${file}": ${what}`, {
      kind: "failed-precondition",
      code: "CNI_CONFIG_INVALID",
    });
  if (text.length > MAX_FILE_BYTES) throw invalid(`more than ${MAX_FILE_BYTES} bytes`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (err) {
    // V8 quotes the text with its line ends.
    throw invalid(`not JSON: ${(err instanceof Error ? err.message : String(err)).replace(/\p{Cc}+/gu, " ")}`);
  }
  if (!isObject(parsed)) throw invalid("not a JSON object");
  const { name } = parsed;
  if (typeof name !== "string" || !NETWORK_NAME.test(name)) {
    throw invalid(
      `"name" is ${JSON.stringify(name)}, not a letter or digit followed by letters, digits, "_", "." or "-"`,
    );
  }
  const isList = Array.isArray(parsed["plugins"]);
  if (!isList && (extname(file) === ".conflist" || parsed["type"] === undefined)) throw invalid('"plugins" is no list');
  const plugins = isList ? (parsed["plugins"] as unknown[]) : [parsed];
  if (plugins.length === 0) throw invalid('"plugins" is empty');
  return {
    file,
    name,
    version: chooseVersion(parsed, invalid),
    disableCheck: isTrue(parsed["disableCheck"]),
    disableGc: isTrue(parsed["disableGC"]),
    plugins: plugins.map((plugin, index) => checkedPlugin(plugin, isList ? `plugins[${index}]` : "", invalid)),
  };
}

function checkedPlugin(plugin: unknown, path: string, invalid: (what: string) => RuntimeError): PluginConfig {
  const at = path === "" ? "" : `${path}.`;
  if (!isObject(plugin)) throw invalid(`"${path}" is not an object`);
  const { type, capabilities } = plugin;
  if (typeof type !== "string" || !PLUGIN_TYPE.test(type)) {
    throw invalid(`"${at}type" is ${JSON.stringify(type)}, not the file name of a plugin`);
  }
  if (capabilities !== undefined && !isObject(capabilities)) throw invalid(`"${at}capabilities" is not an object`);
  return plugin as PluginConfig;
}

/** The latest that both sides speak; `cniVersions` came with 1.1, as a hint beside `cniVersion`. */
function chooseVersion(parsed: Record<string, unknown>, invalid: (what: string) => RuntimeError): CniVersion {
  const { cniVersion, cniVersions } = parsed;
  const offered = new Set([cniVersion, ...(Array.isArray(cniVersions) ? (cniVersions as unknown[]) : [])]);
  const chosen = CNI_VERSIONS.findLast((version) => offered.has(version));
  if (chosen) return chosen;
  const said = cniVersion === undefined ? "is missing" : `is ${JSON.stringify(cniVersion)}`;
  throw invalid(`"cniVersion" ${said}; spoken here are ${CNI_VERSIONS.join(", ")}`);
}

/** For messages: `"podnet" of 10-podnet.conflist`. */
export function describeConfig({ name, file }: NetworkConfig): string {
  return `"${name}" of ${basename(file)}`;
}

/** libcni takes the text as well. */
function isTrue(value: unknown): boolean {
  return value === true || value === "true";
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
