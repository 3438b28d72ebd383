// @ts-check
/**
 * Debian packages as raw material: downloaded once into a cache folder, unpacked, never
 * installed. With a filled cache nothing is asked of the network, so the same cache gives
 * the same images; removing the cache takes the distribution's newest versions.
 */
import { spawnSync } from "node:child_process";
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, posix } from "node:path";

/**
 * Directory of the unpacked files of the packages, made on first use.
 *
 * @param {readonly string[]} packages names; their dependencies are not added
 * @param {string} cacheDir absolute
 * @returns {string}
 */
export function unpackedPackages(packages, cacheDir) {
  const debs = join(cacheDir, "debs");
  const unpacked = join(cacheDir, "unpacked");
  mkdirSync(debs, { recursive: true });
  const missing = packages.filter((name) => debFile(debs, name) === undefined);
  if (missing.length > 0) download(missing, debs);
  const stamp = packages.map((name) => debFile(debs, name)).join("\n");
  const stampFile = join(unpacked, ".packages", Buffer.from(stamp).toString("base64url").slice(-40));
  if (existsSync(stampFile)) return unpacked;
  const building = mkdtempSync(join(cacheDir, "unpacking-"));
  for (const name of packages) run("dpkg-deb", ["-x", join(debs, /** @type {string} */ (debFile(debs, name))), building]);
  mkdirSync(join(building, ".packages", basename(stampFile)), { recursive: true });
  rmSync(unpacked, { recursive: true, force: true });
  renameSync(building, unpacked);
  return unpacked;
}

/** @param {string} debs @param {string} name */
function debFile(debs, name) {
  return readdirSync(debs).sort().find((file) => file.startsWith(`${name}_`) && file.endsWith(".deb"));
}

/**
 * Downloads into a folder of this process first, so that a cut download is never taken for a package.
 *
 * @param {readonly string[]} packages @param {string} debs
 */
function download(packages, debs) {
  const partial = mkdtempSync(join(dirname(debs), "downloading-"));
  try {
    const args = ["-q", "-o", "APT::Sandbox::User=root", "download", ...packages];
    let result = spawnSync("apt-get", args, { cwd: partial, encoding: "utf8" });
    if (result.status !== 0) {
      spawnSync("apt-get", ["-q", "update"], { stdio: "ignore" });
      result = spawnSync("apt-get", args, { cwd: partial, encoding: "utf8" });
    }
    if (result.status !== 0) {
      const said = (result.stderr ?? result.error?.message ?? "").trim();
      throw new Error(
        `download Debian packages ${packages.join(", ")}: apt-get: ${said} ` +
          `(offline? put the .deb files into "${debs}", or run once with a network)`,
      );
    }
    for (const file of readdirSync(partial)) renameSync(join(partial, file), join(debs, file));
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}

/**
 * Options that make apt use another suite of the Debian archive that this machine is configured with, by package lists
 * of its own below `work`, which are fetched here. /etc/apt is only read.
 *
 * @param {string} work empty folder that the caller removes
 * @param {string | ((codename: string) => string)} suite such as "sid", or one made of the machine's codename
 * @returns {string[]}
 */
export function otherSuite(work, suite) {
  const { uri, codename } = configuredSource();
  const list = join(work, "sources.list");
  const name = typeof suite === "string" ? suite : suite(codename);
  writeFileSync(list, `deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${uri} ${name} main\n`);
  mkdirSync(join(work, "lists/partial"), { recursive: true });
  mkdirSync(join(work, "apt-cache/archives/partial"), { recursive: true });
  const options = Object.entries({
    "APT::Sandbox::User": "root",
    "Acquire::Languages": "none",
    "Dir::Etc::SourceList": list,
    "Dir::Etc::SourceParts": "/dev/null",
    "Dir::State::Lists": join(work, "lists"),
    "Dir::Cache": join(work, "apt-cache"),
  }).flatMap(([key, value]) => ["-o", `${key}=${value}`]);
  run("apt-get", ["-q", ...options, "--error-on=any", "update"]);
  return options;
}

/** Address and codename of the first Debian release among the machine's sources. */
function configuredSource() {
  const format = "$(CREATED_BY) $(REPO_URI) $(CODENAME)";
  for (const line of run("apt-get", ["indextargets", "--format", format]).split("\n")) {
    const [by, uri, codename] = line.split(" ");
    if (by === "Packages" && uri && codename && !/-(security|updates|backports)$/.test(codename)) {
      return { uri, codename };
    }
  }
  throw new Error("no Debian source is configured in /etc/apt");
}

/**
 * The binary, its ELF interpreter and every shared library that it needs, as paths below
 * `root` without a leading slash; links of a library's name are listed with what they point to.
 *
 * @param {string} root unpacked packages
 * @param {string} binary path below root
 * @returns {string[]}
 */
export function withSharedLibraries(root, binary) {
  const byName = filesByName(root);
  /** @type {Set<string>} */
  const found = new Set();
  const queue = [binary];
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    if (found.has(path)) continue;
    found.add(path);
    if (lstatSync(join(root, path)).isSymbolicLink()) {
      const target = readlinkSync(join(root, path));
      queue.push(target.startsWith("/") ? target.slice(1) : posix.join(posix.dirname(path), target));
      continue;
    }
    for (const name of neededNames(join(root, path))) {
      const file = byName.get(name);
      if (file === undefined) throw new Error(`collect libraries of "${binary}": "${name}" is in none of the packages`);
      queue.push(file);
    }
  }
  return [...found].sort();
}

/** Names of DT_NEEDED and of the interpreter. @param {string} file */
function neededNames(file) {
  const text = run("readelf", ["-l", "-d", file]);
  const needed = [...text.matchAll(/\(NEEDED\)\s+Shared library: \[([^\]]+)\]/g)].map((match) => match[1]);
  const interpreter = /\[Requesting program interpreter: ([^\]]+)\]/.exec(text)?.[1];
  return /** @type {string[]} */ (interpreter === undefined ? needed : [...needed, basename(interpreter)]);
}

/** @param {string} root */
function filesByName(root) {
  /** @type {Map<string, string>} */
  const byName = new Map();
  const walk = (/** @type {string} */ dir) => {
    for (const entry of readdirSync(join(root, dir), { withFileTypes: true })) {
      const path = posix.join(dir, entry.name);
      if (entry.isDirectory()) walk(path);
      // A loader in /lib64 is the name that binaries ask for; libraries stand in the multiarch folder.
      else if (!byName.has(entry.name) || path.startsWith("lib64/")) byName.set(entry.name, path);
    }
  };
  walk("");
  return byName;
}

/**
 * Standard output of a program that must succeed.
 *
 * @param {string} program @param {readonly string[]} args
 */
export function run(program, args) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: "utf8", maxBuffer: 1 << 26, env: { ...process.env, LC_ALL: "C" } });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}: ${error?.message ?? stderr.trim()}`);
  return stdout;
}

/** A tar entry of one file or symlink of the unpacked packages. @param {string} root @param {string} path */
export function entryOf(root, path) {
  const stat = lstatSync(join(root, path));
  if (stat.isSymbolicLink()) return { path, type: /** @type {const} */ ("symlink"), target: readlinkSync(join(root, path)) };
  return { path, type: /** @type {const} */ ("file"), mode: stat.mode & 0o7777, content: readFileSync(join(root, path)) };
}
