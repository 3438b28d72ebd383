/**
 * `npm run bench -- pull [--runs N] [--alone]`: how long it takes to pull and unpack one image of six gzip
 * layers (about 226 MB of tar) from a registry on loopback: minke, containerd and podman in turn,
 * in one run. containerd is Debian sid's (sid.mjs), podman this machine's Debian's, unpacked into `.cache/peers`; one
 * that does not start is left out and said so. Each pull starts from an empty store of its own; the page cache is warm.
 *
 * A second daemon of minke does nothing meanwhile: what its event loop sees is the machine's doing.
 * On a busy machine the figure that holds is processor time: no other load adds to it.
 */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { unpackedPackages } from "../../rootfs-fixtures/debian.mjs";
import { DAEMON_ENV, DAEMON_NODE_FLAGS } from "../../dist/client/node-flags.js";
import { heading, median, row } from "./figures.mjs";
import { imageLayout, LAYERS } from "./pull-image.mjs";
import { ended, get, PEERS, pullByContainerd, pullByPodman, startRegistry, until } from "./pull-peers.mjs";
import { peerPrograms } from "./sid.mjs";
import { withUndo } from "./undo.mjs";

const project = fileURLToPath(new URL("../..", import.meta.url));
const minke = join(project, "dist/cli/main.js");

const { values } = parseArgs({
  allowPositionals: true,
  options: { runs: { type: "string", default: "10" }, alone: { type: "boolean", default: false } },
});
const runs = Number(values.runs);
if (process.getuid() !== 0 || !(runs > 0)) {
  console.error("usage (as root): npm run bench -- pull [--runs N] [--alone]");
  process.exit(2);
}
await benchPull();
// A registry's connections would keep the process.
process.exit();

async function benchPull() {
  const folder = mkdtempSync(join(tmpdir(), "minke-bench-pull-"));
  await withUndo(async (undo) => {
    undo.push(() => rmSync(folder, { recursive: true, force: true }));
    const peers = join(project, ".cache/peers");
    mkdirSync(peers, { recursive: true });
    const unpacked = unpackedPackages(PEERS, peers);
    const own = { HOME: folder, XDG_RUNTIME_DIR: folder };
    const env = {
      ...process.env,
      ...own,
      PATH: `${join(unpacked, "usr/bin")}:${join(unpacked, "usr/sbin")}:${process.env.PATH}`,
      LD_LIBRARY_PATH: join(unpacked, "usr/lib/x86_64-linux-gnu"),
    };
    const containerd = values.alone ? undefined : peerPrograms();
    const envs = { containerd: { ...containerd?.env, ...own }, podman: env };
    const image = imageLayout(join(project, ".cache/bench/pull"));
    const host = await startRegistry(folder, undo);
    const reference = `${host}/bench:1`;
    const copy = ["copy", "-q", "--insecure-policy", "--dest-tls-verify=false"];
    execFileSync("skopeo", [...copy, `oci:${image.dir}:bench:1`, `docker://${reference}`], { env });
    const figures = await measure(folder, reference, envs, undo);
    if (containerd) console.log(`peers: containerd ${containerd.versions.containerd} (${containerd.suite})`);
    print(figures, image, env);
  });
}

/** Of each contender its `ms` a run, and of minke's daemon more; the first run counts for none. */
async function measure(folder, reference, envs, undo) {
  const idle = await startDaemon(mkdtempSync(join(folder, "idle-")), "i");
  undo.push(() => idle.stop());
  const contenders = { minke: (scratch) => pullByMinke(scratch, reference, idle, undo) };
  if (!values.alone) Object.assign(contenders, { containerd: pullByContainerd, podman: pullByPodman });
  const figures = {};
  for (let i = -1; i < runs; i++) {
    for (const [name, pull] of Object.entries(contenders)) {
      figures[name] ??= { ms: [] };
      if (figures[name].problem) continue;
      const scratch = mkdtempSync(join(folder, `${name}-`));
      try {
        const found = Object.entries(await pull(scratch, reference, envs[name], undo));
        if (i >= 0) for (const [key, value] of found) (figures[name][key] ??= []).push(value);
      } catch (err) {
        if (name === "minke") throw err;
        figures[name].problem = String(err.message).split("\n")[0];
      } finally {
        rmSync(scratch, { recursive: true, force: true });
      }
    }
  }
  return figures;
}

function print(figures, { tarBytes, packedBytes }, env) {
  const version = (...command) =>
    spawnSync(command[0], command.slice(1), { encoding: "utf8", env }).stdout?.trim().split("\n")[0] ?? "";
  console.log(heading(`${runs} runs, in ms`));
  const [packed, plain] = [packedBytes, tarBytes].map((size) => (size / 1e6).toFixed(0));
  console.log(`image: ${LAYERS} gzip layers, ${packed} MB packed, ${plain} MB of tar`);
  if (!values.alone) console.log(version("podman", "--version"));
  console.log(row("", ["median", "least", "most"]));
  const table = (name, list) => console.log(row(name, [median(list), Math.min(...list), Math.max(...list)]));
  for (const [name, { ms, problem }] of Object.entries(figures)) {
    if (problem) console.log(`${name}: left out: ${problem}`);
    else table(name, ms);
  }
  for (const [name, { ms }] of Object.entries(figures)) {
    if (name !== "minke" && ms.length > 0)
      console.log(`minke / ${name}: ${(median(figures.minke.ms) / median(ms)).toFixed(2)}`);
  }
  const { growthMb, pulling, idling } = figures.minke;
  console.log(`daemon: grew by ${Math.max(...growthMb).toFixed(0)} MB at most; its event loop, longest of a run:`);
  for (const [name, list] of Object.entries({ pulling, "an idle daemon beside it": idling })) {
    console.log(` ${name}`);
    table(
      "  processor time, one turn",
      list.map(({ cpuMs }) => cpuMs),
    );
    table(
      "  blocked",
      list.map(({ longestMs }) => longestMs),
    );
    table(
      "  … not for a processor",
      list.map(({ ownMs }) => ownMs),
    );
  }
}

/** @param idle a daemon that is observed at the same time */
async function pullByMinke(scratch, reference, idle, undo) {
  const daemon = await startDaemon(scratch, "p");
  undo.push(() => daemon.stop());
  try {
    await sleep(200);
    await Promise.all([daemon.delay(), idle.delay()]);
    const before = memoryMb(daemon.pid, "VmRSS");
    const lines = [];
    const startedAt = performance.now();
    await get({ socketPath: daemon.socketPath, path: "/minke/v1/images/pull" }, { reference }, lines);
    const ms = performance.now() - startedAt;
    if (!lines.at(-1)?.includes('"image"')) throw new Error(`minke: ${lines.at(-1)}`);
    const growthMb = memoryMb(daemon.pid, "VmHWM") - before;
    const [pulling, idling] = await Promise.all([daemon.delay(), idle.delay()]);
    return { ms, growthMb, pulling, idling };
  } finally {
    await daemon.stop();
  }
}

/** A daemon with the delay probe in it. @param letter tells the links of two daemons from each other */
async function startDaemon(folder, letter) {
  const [root, run, config] = ["root", "run", "config.toml"].map((name) => join(folder, name));
  for (const dir of [root, run]) mkdirSync(dir, { mode: 0o700 });
  const name = `mkb${letter}${(process.pid % 46656).toString(36)}`;
  const third = letter === "i" ? 248 : 252;
  writeFileSync(
    config,
    `log-level = "warn"\ncgroup-root = "minke-bench-pull-${name}"\ntolerate-missing-controllers = true\n[network]\nmode = "builtin"\nbridge = "${name}"\nsubnet-ipv4 = "10.204.${third}.0/22"\nsubnet-ipv6 = "fd6d:696e:6b65:${third}::/64"\n[nri]\nenabled = false\n`,
  );
  const log = openSync(join(folder, "log"), "a");
  const delayFile = join(folder, "delay");
  const env = {
    ...process.env,
    ...DAEMON_ENV,
    NODE_OPTIONS: `--import=${join(project, "test/perf/delay-probe.mjs")}`,
    MINKE_DELAY_FILE: delayFile,
  };
  const args = [...DAEMON_NODE_FLAGS, minke, "daemon", "--root", root, "--run", run, "--config", config];
  const child = spawn(process.execPath, args, {
    stdio: ["ignore", log, log],
    env,
  });
  closeSync(log);
  const socketPath = join(run, "api.sock");
  const stop = async () => {
    await get({ socketPath, path: "/minke/v1/stop?pods=true" }, {}).catch(() => undefined);
    await ended(child, "SIGTERM");
  };
  /** Of the event loop since the last call (delay-probe.mjs). */
  const delay = async () => {
    rmSync(delayFile, { force: true });
    child.kill("SIGUSR2");
    await until(async () => existsSync(delayFile) && readFileSync(delayFile, "utf8") !== "", "the delay probe");
    return JSON.parse(readFileSync(delayFile, "utf8"));
  };
  try {
    await until(async () => (await get({ socketPath, path: "/healthz" })) === 200, "the daemon");
  } catch (err) {
    await stop();
    throw new Error(`${err.message}: ${readFileSync(join(folder, "log"), "utf8")}`, { cause: err });
  }
  return { pid: child.pid, socketPath, delay, stop };
}

function memoryMb(pid, field) {
  return (
    Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1000
  );
}
