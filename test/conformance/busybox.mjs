// @ts-check
/**
 * busybox as critest expects it: a plain static defconfig build of Debian's source package, with
 * one line of ash changed. Debian's own busybox-static lacks applets that critest runs (ipcs,
 * pgrep), and has another ash configuration.
 *
 * The source comes through a list of source packages derived from the machine's own, kept beside
 * the cache: the system's apt is left as it is.
 */
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { run } from "../../rootfs-fixtures/debian.mjs";

/**
 * critest wants `/bin/sh: ls: Permission denied`, what ash said up to 1.30. Later ones put `line 0:`
 * between (shell/ash.c, ash_vmsg).
 */
const PATCHED_FILE = "shell/ash.c";
const LINE_NUMBER = 'fprintf(stderr, "line %d: ", errlinno);';

/** Off in the build: what needs headers or libraries that Debian 12 has in another shape. */
const OFF = ["CONFIG_TC", "CONFIG_FEATURE_TC_INGRESS"];
const ON = ["CONFIG_STATIC"];

/**
 * Path of the built binary, built where the cache has none.
 *
 * @param {string} cacheDir absolute @returns {string}
 */
export function builtBusybox(cacheDir) {
  const binary = join(cacheDir, "busybox");
  if (existsSync(binary)) return binary;
  mkdirSync(cacheDir, { recursive: true });
  const work = mkdtempSync(join(cacheDir, "building-"));
  try {
    const source = unpackedSource(work);
    patch(source);
    configure(source);
    runIn(source, "make", ["-s", "-j2", "busybox"]);
    renameSync(join(source, "busybox"), binary);
    return binary;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** @param {string} work @returns {string} */
function unpackedSource(work) {
  const lists = join(work, "lists");
  mkdirSync(join(lists, "partial"), { recursive: true });
  const sources = join(work, "sources.list");
  writeFileSync(sources, sourceLines());
  const options = [
    ["Dir::Etc::sourcelist", sources],
    ["Dir::Etc::sourceparts", "-"],
    ["Dir::State::lists", lists],
    ["Dir::Cache", join(work, "cache")],
    ["APT::Sandbox::User", "root"],
  ].flatMap(([name, value]) => ["-o", `${name}=${value}`]);
  runIn(work, "apt-get", ["-q", ...options, "update"]);
  runIn(work, "apt-get", ["-q", ...options, "--download-only", "source", "busybox"]);
  const dsc = readdirSync(work).find((name) => name.endsWith(".dsc"));
  if (dsc === undefined) throw new Error("apt-get source busybox left no .dsc file");
  runIn(work, "dpkg-source", ["--no-check", "-x", dsc, "source"]);
  return join(work, "source");
}

/** One deb-src line for each Debian archive of the machine's own sources. */
function sourceLines() {
  const release = /^VERSION_CODENAME=(\S+)$/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "bookworm";
  const texts = ["/etc/apt/sources.list", ...filesOf("/etc/apt/sources.list.d")].map(readIfThere);
  const uris = new Set(
    texts.flatMap((text) =>
      [...text.matchAll(/(https?:\/\/\S*debian\.org\/debian)\/?(?=\s|$)/gm)].map((match) => match[1]),
    ),
  );
  if (uris.size === 0) uris.add("http://deb.debian.org/debian");
  return [...uris].map((uri) => `deb-src ${uri} ${release} main\n`).join("");
}

/** @param {string} dir */
function filesOf(dir) {
  return existsSync(dir) ? readdirSync(dir).map((name) => join(dir, name)) : [];
}

/** @param {string} file */
function readIfThere(file) {
  return existsSync(file) ? readFileSync(file, "utf8").replace(/^\s*#.*$/gm, "") : "";
}

/** @param {string} source */
function patch(source) {
  const file = join(source, PATCHED_FILE);
  const before = readFileSync(file, "utf8");
  if (!before.includes(LINE_NUMBER))
    throw new Error(`patch ${PATCHED_FILE}: the line to change is not there; another version of busybox?`);
  writeFileSync(file, before.replace(LINE_NUMBER, ";"));
}

/** @param {string} source */
function configure(source) {
  runIn(source, "make", ["-s", "defconfig"]);
  const file = join(source, ".config");
  let text = readFileSync(file, "utf8");
  for (const name of OFF) text = text.replace(new RegExp(`^${name}=.*$`, "m"), `# ${name} is not set`);
  for (const name of ON) text = text.replace(new RegExp(`^# ${name} is not set$`, "m"), `${name}=y`);
  writeFileSync(file, text);
  const result = spawnSync("sh", ["-c", "yes '' | make -s oldconfig >/dev/null"], { cwd: source, encoding: "utf8" });
  if (result.status !== 0) throw new Error(`configure busybox: ${result.stderr}`);
}

/** @param {string} cwd @param {string} program @param {readonly string[]} args */
function runIn(cwd, program, args) {
  run("env", ["-C", cwd, program, ...args]);
}
