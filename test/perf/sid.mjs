/**
 * Debian sid's runtimes as peers of a benchmark, on whatever Debian this machine is: downloaded once into `.cache/sid`
 * with the libraries that they need, unpacked, never installed.
 *
 * patchelf gives them sid's own interpreter and libraries, so that they run with sid's libc and no chroot: a peer is
 * started exactly as minke is. Removing the folder takes the newest versions at the next run.
 */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { otherSuite, run, unpackedPackages } from "../../rootfs-fixtures/debian.mjs";

const project = fileURLToPath(new URL("../..", import.meta.url));
const SID = join(project, ".cache/sid");
const SID_TOOLS = join(SID, "tools");
const OLD = join(project, ".cache/peers");
const SID_PACKAGES = ["containerd", "runc", "crun", "containernetworking-plugins"];
const OLD_PACKAGES = [...SID_PACKAGES, "libyajl2"];
/**
 * The peers' programs: sid's, or the machine's own Debian's, with a loud line, where sid cannot be reached.
 *
 * @returns {{ suite: string, root: string, env: NodeJS.ProcessEnv, versions: Record<string, string> }}
 */
export function peerPrograms() {
  let suite = "Debian sid";
  let root = join(SID, "root");
  let debs = join(SID, "debs");
  const env = { ...process.env };
  try {
    prepareSid(root, debs);
  } catch (err) {
    const said = String(err.message).trim().split("\n");
    const reason = said.find((line) => line.startsWith("E: ")) ?? said.at(-1);
    console.log(`*** NOT COMPARED WITH CURRENT PEERS: Debian sid cannot be had (${reason});`);
    console.log("*** taking the older ones of this machine's Debian instead ***");
    suite = "this machine's Debian";
    mkdirSync(OLD, { recursive: true });
    root = unpackedPackages(OLD_PACKAGES, OLD);
    debs = join(OLD, "debs");
    env.LD_LIBRARY_PATH = librariesOf(root);
  }
  env.PATH = [join(root, "usr/bin"), join(root, "usr/sbin"), env.PATH].join(":");
  return { suite, root, env, versions: versionsOf(debs) };
}

/** Version of each package, without its epoch. */
function versionsOf(debs) {
  const names = readdirSync(debs).map((file) => file.split("_"));
  return Object.fromEntries(names.map(([name, version]) => [name, decodeURIComponent(version).replace(/^\d+:/, "")]));
}

/** Does nothing where `root` is there, made from these packages for this very path. */
function prepareSid(root, debs) {
  mkdirSync(SID_TOOLS, { recursive: true });
  if (!existsSync(debs)) download(debs);
  const stamp = join(root, ".made-of");
  const expected = [root, ...readdirSync(debs).sort(), ""].join("\n");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === expected) return;
  console.log("unpacking the peers of Debian sid");
  const patchelf = join(unpackedPackages(["patchelf"], SID_TOOLS), "usr/bin/patchelf");
  const building = mkdtempSync(join(SID, "unpacking-"));
  try {
    for (const name of readdirSync(debs)) run("dpkg-deb", ["-x", join(debs, name), building]);
    for (const unneeded of ["usr/share", "usr/bin/containerd-stress"]) {
      rmSync(join(building, unneeded), { recursive: true, force: true });
    }
    for (const folder of ["usr/bin", "usr/sbin", "usr/lib/cni"]) {
      for (const name of readdirSync(join(building, folder))) {
        const file = join(building, folder, name);
        if (lstatSync(file).isFile()) makeSelfContained(patchelf, file, building, root);
      }
    }
    writeFileSync(join(building, ".made-of"), expected);
    rmSync(root, { recursive: true, force: true });
    renameSync(building, root);
  } finally {
    rmSync(building, { recursive: true, force: true });
  }
}

/** The packages with everything that they depend on, as apt resolves it for a machine that has nothing yet. */
function download(debs) {
  console.log("downloading the peers of Debian sid, about 50 MB");
  const work = mkdtempSync(join(SID, "downloading-"));
  try {
    const status = join(work, "status");
    writeFileSync(status, "");
    const options = ["-o", `Dir::State::Status=${status}`, "-o", "Debug::NoLocking=true"];
    const install = ["--download-only", "--no-install-recommends", "-y", "install", ...SID_PACKAGES];
    run("apt-get", ["-q", ...otherSuite(work, "sid"), ...options, ...install]);
    const archives = join(work, "apt-cache/archives");
    const files = readdirSync(archives).filter((name) => name.endsWith(".deb"));
    mkdirSync(join(work, "debs"));
    for (const name of files) renameSync(join(archives, name), join(work, "debs", name));
    renameSync(join(work, "debs"), debs);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Makes a program of `building`, where it is a dynamic one, start with what lies below `root`, once it is moved there. */
function makeSelfContained(patchelf, file, building, root) {
  const { status, stdout } = spawnSync(patchelf, ["--print-interpreter", file], { encoding: "utf8" });
  if (status !== 0) return; // A script or a static program.
  const path = stdout.trim();
  const interpreter = ["", "/usr"].map((prefix) => prefix + path).find((at) => existsSync(join(building, at)));
  if (!interpreter) throw new Error(`no package holds "${path}", which "${file}" starts with`);
  // RPATH, unlike RUNPATH, holds for the libraries of a library too; and runc clears the environment of its second self.
  const libraries = librariesOf(building).replace(building, root);
  run(patchelf, ["--set-interpreter", join(root, interpreter), "--force-rpath", "--set-rpath", libraries, file]);
}

/** Folder of the libraries, which has the architecture in its name. */
function librariesOf(root) {
  const multiarch = readdirSync(join(root, "usr/lib")).find((name) => name.endsWith("-linux-gnu"));
  return join(root, "usr/lib", multiarch ?? "");
}
