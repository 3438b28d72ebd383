/**
 * `npm run bench -- pull [--runs N]`: how long it takes to pull and unpack one image of six gzip
 * layers (about 226 MB of tar) from a registry on loopback: minke, containerd and podman in turn,
 * in one run. The peers are Debian's, unpacked into `.cache/peers`; one that does not start is left
 * out and said so. Each pull starts from an empty store of its own; the page cache is warm.
 */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { request } from "node:http";
import { createServer } from "node:net";
import { availableParallelism, release, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { unpackedPackages } from "../../rootfs-fixtures/debian.mjs";

const project = fileURLToPath(new URL("../..", import.meta.url));
const minke = join(project, "dist/cli/main.js");
const LAYERS = 6;
const TAR_BYTES = 226_000_000;
const DEADLINE_MS = 60_000;
/** Of what the image is made: programs and libraries, as images hold them. */
const SOURCES = [
  "/usr/lib/x86_64-linux-gnu",
  "/usr/lib/gcc",
  "/usr/bin",
  "/usr/share/perl",
  "/usr/lib/python3",
  "/usr/share/doc",
];
const PEERS = [
  "containerd",
  "runc",
  "podman",
  "conmon",
  "libgpgme11",
  "libsubid4",
  "skopeo",
  "golang-github-containers-common",
  "golang-github-containers-image",
];

const { values } = parseArgs({ allowPositionals: true, options: { runs: { type: "string", default: "10" } } });
const runs = Number(values.runs);
if (process.getuid() !== 0 || !(runs > 0)) {
  console.error("usage (as root): npm run bench -- pull [--runs N]");
  process.exit(2);
}
await benchPull();
// A registry's connections would keep the process.
process.exit();

async function benchPull() {
  const folder = mkdtempSync(join(tmpdir(), "minke-bench-pull-"));
  const undo = [async () => rmSync(folder, { recursive: true, force: true })];
  try {
    const peers = join(project, ".cache/peers");
    mkdirSync(peers, { recursive: true });
    const unpacked = unpackedPackages(PEERS, peers);
    const env = {
      ...process.env,
      PATH: `${join(unpacked, "usr/bin")}:${join(unpacked, "usr/sbin")}:${process.env.PATH}`,
      LD_LIBRARY_PATH: join(unpacked, "usr/lib/x86_64-linux-gnu"),
      HOME: folder,
      XDG_RUNTIME_DIR: folder,
    };
    const image = imageLayout();
    const host = await startRegistry(folder, undo);
    const reference = `${host}/bench:1`;
    execFileSync(
      "skopeo",
      [
        "copy",
        "-q",
        "--insecure-policy",
        "--dest-tls-verify=false",
        `oci:${image.dir}:bench:1`,
        `docker://${reference}`,
      ],
      { env },
    );
    const contenders = { minke: pullByMinke, containerd: pullByContainerd, podman: pullByPodman };
    const figures = {};
    for (let i = -1; i < runs; i++) {
      for (const [name, pull] of Object.entries(contenders)) {
        if (figures[name]?.problem) continue;
        figures[name] ??= { ms: [] };
        const scratch = mkdtempSync(join(folder, `${name}-`));
        try {
          const found = await pull(scratch, reference, env);
          if (i >= 0) figures[name].ms.push(found.ms);
          for (const key of ["growthMb", "longestMs", "ownMs", "idleMs"])
            if (i >= 0 && key in found) (figures[name][key] ??= []).push(found[key]);
        } catch (err) {
          if (name === "minke") throw err;
          figures[name].problem = String(err.message).split("\n")[0];
        } finally {
          rmSync(scratch, { recursive: true, force: true });
        }
      }
    }
    print(figures, image, env);
  } finally {
    for (const step of undo.reverse()) await step();
  }
}

function print(figures, { tarBytes, packedBytes }, env) {
  const sorted = (list) => list.toSorted((a, b) => a - b);
  const median = (list) => sorted(list)[Math.floor(list.length / 2)];
  const version = (...command) =>
    spawnSync(command[0], command.slice(1), { encoding: "utf8", env }).stdout?.trim().split("\n")[0] ?? "";
  console.log(`kernel ${release()}, ${availableParallelism()} CPUs, Node ${process.version}, ${runs} runs, in ms`);
  console.log(
    `image: ${LAYERS} gzip layers, ${(packedBytes / 1e6).toFixed(0)} MB packed, ${(tarBytes / 1e6).toFixed(0)} MB of tar`,
  );
  console.log(`${version("containerd", "--version")}; ${version("podman", "--version")}`);
  console.log(`${"".padEnd(14)}${"median".padStart(9)}${"least".padStart(9)}${"most".padStart(9)}`);
  for (const [name, { ms, problem }] of Object.entries(figures)) {
    if (problem) console.log(`${name.padEnd(14)} left out: ${problem}`);
    else
      console.log(
        name.padEnd(14) +
          [median(ms), sorted(ms)[0], sorted(ms).at(-1)].map((value) => value.toFixed(0).padStart(9)).join(""),
      );
  }
  for (const peer of ["containerd", "podman"]) {
    if (figures[peer].ms.length > 0)
      console.log(`minke / ${peer}: ${(median(figures.minke.ms) / median(figures[peer].ms)).toFixed(2)}`);
  }
  const { growthMb, longestMs, ownMs, idleMs } = figures.minke;
  const most = (list) => `${median(list).toFixed(1)} (most ${Math.max(...list).toFixed(1)})`;
  console.log(
    `daemon: grew by ${Math.max(...growthMb).toFixed(0)} MB at most; event loop blocked, longest of a run in ms:`,
  );
  console.log(
    `  as a timer sees it ${most(longestMs)}, without waits for a processor ${most(ownMs)}, idle ${most(idleMs)}`,
  );
}

/** The image as an OCI layout in `.cache`, made once: files of this machine, a sixth in each layer. */
function imageLayout() {
  const dir = join(project, ".cache/bench/pull");
  if (!existsSync(dir)) {
    const building = `${dir}.${process.pid}`;
    mkdirSync(join(building, "blobs/sha256"), { recursive: true });
    const put = (bytes) => {
      const hex = createHash("sha256").update(bytes).digest("hex");
      writeFileSync(join(building, "blobs/sha256", hex), bytes);
      return { digest: `sha256:${hex}`, size: bytes.length };
    };
    const layers = [];
    const diffIds = [];
    for (const files of chooseFiles()) {
      const tar = execFileSync(
        "tar",
        ["-cf", "-", "--no-recursion", "--numeric-owner", "-P", "--transform=s,^/,,", "--null", "-T", "-"],
        { input: files.join("\0"), maxBuffer: 2 ** 31 },
      );
      diffIds.push(`sha256:${createHash("sha256").update(tar).digest("hex")}`);
      const packed = execFileSync("gzip", ["-6", "-n"], { input: tar, maxBuffer: 2 ** 31 });
      layers.push({
        mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
        ...put(packed),
        annotations: { "minke.bench.tar-bytes": String(tar.length) },
      });
    }
    const config = {
      architecture: process.arch === "x64" ? "amd64" : process.arch,
      os: "linux",
      config: {},
      rootfs: { type: "layers", diff_ids: diffIds },
    };
    const manifest = {
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: { mediaType: "application/vnd.oci.image.config.v1+json", ...put(Buffer.from(JSON.stringify(config))) },
      layers,
    };
    const top = {
      mediaType: manifest.mediaType,
      ...put(Buffer.from(JSON.stringify(manifest))),
      annotations: { "org.opencontainers.image.ref.name": "bench:1" },
    };
    writeFileSync(join(building, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [top] }));
    writeFileSync(join(building, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
    renameSync(building, dir);
  }
  const [top] = JSON.parse(readFileSync(join(dir, "index.json"), "utf8")).manifests;
  const { layers } = JSON.parse(readFileSync(join(dir, "blobs/sha256", top.digest.slice(7)), "utf8"));
  const sum = (of) => layers.reduce((total, layer) => total + of(layer), 0);
  return {
    dir,
    packedBytes: sum(({ size }) => size),
    tarBytes: sum(({ annotations }) => Number(annotations["minke.bench.tar-bytes"])),
  };
}

/** Lists of regular files, each for a layer of a sixth of the size. */
function chooseFiles() {
  const lists = [[]];
  let bytes = 0;
  const visit = (dir) => {
    for (const entry of readdirSync(dir, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (bytes >= TAR_BYTES) return;
      const path = join(dir, entry.name);
      if (entry.isDirectory()) visit(path);
      if (!entry.isFile()) continue;
      const { size } = statSync(path);
      // One huge file would be a layer of its own.
      if (size > 12_000_000) continue;
      bytes += 1024 + size;
      if (bytes > (TAR_BYTES / LAYERS) * lists.length && lists.length < LAYERS) lists.push([]);
      lists.at(-1).push(path);
    }
  };
  for (const dir of SOURCES) if (existsSync(dir)) visit(dir);
  return lists;
}

async function startRegistry(folder, undo) {
  const port = await freePort();
  const config = join(folder, "registry.yml");
  writeFileSync(
    config,
    `version: 0.1\nlog: { level: error, accesslog: { disabled: true } }\nstorage: { filesystem: { rootdirectory: "${folder}/registry" } }\nhttp: { addr: "127.0.0.1:${port}" }\n`,
  );
  const child = spawn("docker-registry", ["serve", config], { stdio: "ignore", env: { OTEL_TRACES_EXPORTER: "none" } });
  undo.push(() => ended(child, "SIGKILL"));
  await until(async () => (await get({ host: "127.0.0.1", port, path: "/v2/" })) === 200, "docker-registry");
  return `127.0.0.1:${port}`;
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function ended(child, signal) {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) return resolve();
    child.once("exit", () => resolve());
    child.kill(signal);
  });
}

async function until(holds, what) {
  for (let waitedMs = 0; waitedMs < DEADLINE_MS; waitedMs += 20) {
    if (await holds().catch(() => false)) return;
    await sleep(20);
  }
  throw new Error(`${what} does not answer`);
}

/** Status of the answer; its last line in `lines` where given. */
function get(options, body, lines) {
  return new Promise((resolve, reject) => {
    const headers = body ? { "content-type": "application/json" } : {};
    const call = request({ method: body ? "POST" : "GET", headers, ...options }, (response) => {
      let text = "";
      response.on("data", (chunk) => (text += chunk));
      response.once("end", () => {
        lines?.push(...text.trim().split("\n"));
        resolve(response.statusCode);
      });
    });
    call.once("error", reject);
    call.end(body ? JSON.stringify(body) : undefined);
  });
}

async function pullByMinke(scratch, reference) {
  const [root, run, config] = ["root", "run", "config.toml"].map((name) => join(scratch, name));
  for (const dir of [root, run]) mkdirSync(dir, { mode: 0o700 });
  const bridge = `mkimgb${(process.pid % 46656).toString(36)}`;
  writeFileSync(
    config,
    `log-level = "warn"\ncgroup-root = "minke-bench-pull-${process.pid}"\ntolerate-missing-controllers = true\n[network]\nmode = "builtin"\nbridge = "${bridge}"\nsubnet-ipv4 = "10.204.252.0/22"\nsubnet-ipv6 = "fd6d:696e:6b65:204::/64"\n`,
  );
  const log = openSync(join(scratch, "log"), "a");
  const delayFile = join(scratch, "delay");
  const env = {
    ...process.env,
    NODE_OPTIONS: `--import=${join(project, "test/perf/delay-probe.mjs")}`,
    MINKE_DELAY_FILE: delayFile,
  };
  const child = spawn(process.execPath, [minke, "daemon", "--root", root, "--run", run, "--config", config], {
    stdio: ["ignore", log, log],
    env,
  });
  const socketPath = join(run, "api.sock");
  const delay = async () => {
    rmSync(delayFile, { force: true });
    child.kill("SIGUSR2");
    await until(async () => existsSync(delayFile) && readFileSync(delayFile, "utf8") !== "", "the delay probe");
    return JSON.parse(readFileSync(delayFile, "utf8"));
  };
  try {
    await until(
      async () => (await get({ socketPath, path: "/healthz" })) === 200,
      `the daemon (${readFileSync(join(scratch, "log"), "utf8")})`,
    );
    await sleep(200);
    await delay();
    // As long as a pull takes, or so: what the same daemon sees while it does nothing.
    await sleep(2000);
    const { longestMs: idleMs } = await delay();
    const before = memoryMb(child.pid, "VmRSS");
    const lines = [];
    const startedAt = performance.now();
    await get({ socketPath, path: "/minke/v1/images/pull" }, { reference }, lines);
    const ms = performance.now() - startedAt;
    if (!lines.at(-1)?.includes('"image"')) throw new Error(`minke: ${lines.at(-1)}`);
    return { ms, growthMb: memoryMb(child.pid, "VmHWM") - before, idleMs, ...(await delay()) };
  } finally {
    await get({ socketPath, path: "/minke/v1/stop?pods=true" }, {}).catch(() => undefined);
    await ended(child, "SIGTERM");
  }
}

function memoryMb(pid, field) {
  return (
    Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1000
  );
}

async function pullByContainerd(scratch, reference, env) {
  const socket = join(scratch, "c.sock");
  const config = join(scratch, "config.toml");
  writeFileSync(
    config,
    `version = 2\nroot = "${scratch}/root"\nstate = "${scratch}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "${socket}"\n`,
  );
  const child = spawn("containerd", ["-c", config], { stdio: "ignore", env });
  child.once("error", () => undefined);
  try {
    await until(
      async () => spawnSync("ctr", ["-a", socket, "version"], { env, stdio: "ignore" }).status === 0,
      "containerd",
    );
    return {
      ms: await timed(
        "ctr",
        ["-a", socket, "images", "pull", "--plain-http", "--snapshotter", "overlayfs", reference],
        env,
      ),
    };
  } finally {
    await ended(child, "SIGTERM");
  }
}

async function pullByPodman(scratch, reference, env) {
  const policy = join(scratch, "policy.json");
  writeFileSync(policy, '{"default":[{"type":"insecureAcceptAnything"}]}');
  const storage = [
    "--root",
    join(scratch, "root"),
    "--runroot",
    join(scratch, "run"),
    "--storage-driver",
    "overlay",
    "--tmpdir",
    join(scratch, "tmp"),
  ];
  const ms = await timed(
    "podman",
    [...storage, "pull", "-q", "--tls-verify=false", "--signature-policy", policy, reference],
    env,
  );
  spawnSync("umount", [join(scratch, "root/overlay")], { stdio: "ignore" });
  return { ms };
}

/** Milliseconds that a program takes from its start to its end. */
function timed(program, args, env) {
  return new Promise((resolve, reject) => {
    const startedAt = performance.now();
    const child = spawn(program, args, { env, stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    child.stderr.on("data", (chunk) => (said += chunk));
    child.once("error", reject);
    child.once("close", (code) =>
      code === 0
        ? resolve(performance.now() - startedAt)
        : reject(new Error(`${program} ended with ${code}: ${said.trim().split("\n").at(-1)}`)),
    );
  });
}
