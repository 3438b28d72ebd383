// @ts-check
/**
 * What is in the fixture images: one base layer of busybox, and one layer each for nginx
 * and for our probe on top of it. The base is shared, so that layer sharing is always exercised.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import { entryOf, run, unpackedPackages, withSharedLibraries } from "./debian.mjs";
import { sortedEntries, tarArchive } from "./tar-writer.mjs";

/** @typedef {import("./tar-writer.mjs").TarEntry} TarEntry */
/** @typedef {import("./oci-layout.mjs").Image} Image */
/** @typedef {import("./oci-layout.mjs").Layer} Layer */

const HERE = dirname(fileURLToPath(import.meta.url));
const PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
// nginx-light of Debian 12 is nginx with a list of modules left out; these are its depends.
const PACKAGES = ["busybox-static", "nginx", "nginx-common", "libc6", "libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g"];

const PASSWD = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`;
const GROUP = `root:x:0:
daemon:x:1:
tty:x:5:
users:x:100:
www-data:x:33:
nogroup:x:65534:
`;
const NGINX_CONF = `user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr notice;
events { worker_connections 256; }
http {
  include /etc/nginx/mime.types;
  default_type application/octet-stream;
  access_log /dev/stdout;
  sendfile on;
  server {
    listen 80 default_server;
    listen [::]:80 default_server;
    root /usr/share/nginx/html;
    index index.html;
  }
}
`;

/**
 * All fixture images. Needs gcc, binutils and, with an empty cache, a Debian mirror.
 *
 * @param {string} cacheDir absolute; holds the packages
 * @returns {Image[]}
 */
export function fixtureImages(cacheDir) {
  const root = unpackedPackages(PACKAGES, cacheDir);
  const architecture = run("dpkg", ["--print-architecture"]).trim();
  const base = layer(baseEntries(join(root, "bin/busybox")), "busybox as /bin, users, /tmp");
  const nginx = layer(nginxEntries(root), "nginx with its libraries");
  const probe = layer([file("usr/bin/probe", compiledProbe(), 0o755)], "probe, static");
  return [
    { ref: "minke.test/busybox:1", architecture, layers: [base], config: { Env: [PATH], Cmd: ["sh"] } },
    {
      ref: "minke.test/nginx:1",
      architecture,
      layers: [base, nginx],
      config: { Env: [PATH], Cmd: ["nginx", "-g", "daemon off;"], ExposedPorts: { "80/tcp": {} }, StopSignal: "SIGQUIT" },
    },
    { ref: "minke.test/probe:1", architecture, layers: [base, probe], config: { Env: [PATH, "PROBE=1"], Entrypoint: ["/usr/bin/probe"] } },
  ];
}

/**
 * A layer of these entries and of every directory above them that they do not name.
 *
 * @param {readonly TarEntry[]} entries @param {string} [comment]
 * @returns {Layer}
 */
export function layer(entries, comment = "") {
  const named = new Set(entries.map((entry) => entry.path));
  /** @type {TarEntry[]} */
  const parents = [];
  for (const { path } of entries) {
    for (let dir = posix.dirname(path); dir !== "."; dir = posix.dirname(dir)) {
      if (named.has(dir)) continue;
      named.add(dir);
      parents.push({ path: dir, type: "dir" });
    }
  }
  return { tar: tarArchive(sortedEntries([...parents, ...entries])), comment };
}

/** @param {string} path @param {string | Buffer} content @returns {TarEntry} */
export function file(path, content, mode = 0o644) {
  return { path, type: "file", mode, content: Buffer.from(content) };
}

/**
 * A root file system of one busybox. Applets are hard links: with symlinks, masking one applet would
 * mask busybox itself.
 *
 * @param {string} binary path of a static busybox
 * @returns {TarEntry[]}
 */
export function baseEntries(binary) {
  const busybox = "bin/busybox";
  const applets = run(binary, ["--list"]).trim().split("\n").filter((name) => name !== "busybox");
  const links = applets.map((name) => ({ path: `bin/${name}`, type: /** @type {const} */ ("hardlink"), mode: 0o755, target: busybox }));
  const dirs = ["dev", "etc", "home", "proc", "run", "sys", "usr/bin", "usr/sbin", "var/www"].map((path) => ({ path, type: /** @type {const} */ ("dir") }));
  return [
    file(busybox, readFileSync(binary), 0o755),
    ...links,
    ...dirs,
    { path: "root", type: "dir", mode: 0o700 },
    { path: "tmp", type: "dir", mode: 0o1777 },
    { path: "var/run", type: "symlink", target: "/run" },
    file("etc/passwd", PASSWD),
    file("etc/group", GROUP),
    file("etc/shadow", "root:*:19000:0:99999:7:::\n", 0o640),
    file("etc/os-release", 'ID=minke-fixture\nNAME="minke fixture"\nVERSION_ID=1\n'),
  ];
}

/** @param {string} root @returns {TarEntry[]} */
function nginxEntries(root) {
  return [
    ...withSharedLibraries(root, "usr/sbin/nginx").map((path) => entryOf(root, path)),
    entryOf(root, "etc/nginx/mime.types"),
    file("etc/nginx/nginx.conf", NGINX_CONF),
    file("usr/share/nginx/html/index.html", "<!doctype html>\n<title>minke fixture</title>\n<p>nginx of the fixture image\n"),
    { path: "var/lib/nginx", type: "dir" },
    { path: "var/log/nginx", type: "dir" },
  ];
}

function compiledProbe() {
  const dir = mkdtempSync(join(tmpdir(), "minke-probe-"));
  try {
    const out = join(dir, "probe");
    const flags = ["-std=gnu11", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none", "-no-pie"];
    run("gcc", [...flags, `-ffile-prefix-map=${HERE}=.`, "-o", out, join(HERE, "probe/probe.c")]);
    return readFileSync(out);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
