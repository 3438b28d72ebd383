/**
 * `npm start` and `npm stop` after the build: a daemon with defaults, examples/web.yaml on
 * it, its page fetched in every way; and the undoing of all that.
 *
 * Talks to the daemon through the minke command alone, as a user would.
 */
import { spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { DAEMON_ENV, DAEMON_NODE_FLAGS } from "../dist/client/node-flags.js";

const MINKE = "dist/cli/main.js";
const ROOT = "/var/lib/minke";
const RUN = "/run/minke";
const POD = "web";
const MANIFEST = "examples/web.yaml";
const LAYOUT = ".cache/fixtures/layout";
/** What the demonstration made, so that stop removes that and nothing else. */
const STATE = ".cache/demo";
const LOG = `${STATE}/daemon.log`;
const CONFIG = `${STATE}/config.toml`;

const say = (text) => console.log(text);

/** Runs the command and gives what it prints; a failure ends the demonstration with its words. */
function minke(...args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MINKE, ...args], { encoding: "utf8" });
  if (status !== 0) fail(`minke ${args.join(" ")} ended with ${status}:\n${stderr}${stdout}`);
  return stdout;
}

function succeeds(...args) {
  return spawnSync(process.execPath, [MINKE, ...args], { stdio: "ignore" }).status === 0;
}

function fail(text) {
  console.error(`\n${text.trim()}`);
  if (existsSync(LOG)) {
    const tail = readFileSync(LOG, "utf8").trim().split("\n").slice(-15).join("\n");
    if (tail) console.error(`\nthe end of ${LOG}:\n${tail}`);
  }
  process.exit(1);
}

function cgroup2() {
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const [before, after] = line.split(" - ");
    if (after?.startsWith("cgroup2 ")) return before.split(" ")[4];
  }
  return undefined;
}

/** Settings only where the defaults would refuse the pod, and never in silence. */
function settingsArguments() {
  const mount = cgroup2();
  const controllers = mount ? readFileSync(`${mount}/cgroup.controllers`, "utf8").trim().split(/\s+/) : [];
  const missing = ["cpu", "memory", "pids"].filter((name) => !controllers.includes(name));
  // The page is fetched by every way of the built-in network, whatever CNI this machine has for others.
  const network = '[network]\nmode = "builtin"\n';
  writeFileSync(CONFIG, network);
  if (missing.length === 0) return ["--config", CONFIG];
  say(`WARNING  cgroup v2 at ${mount} has no ${missing.join(", ")} controller (a hybrid host: v1 holds them).`);
  say("         Limits of these kinds are not enforced here; tolerate-missing-controllers is switched on.");
  writeFileSync(CONFIG, `tolerate-missing-controllers = true\n${network}`);
  return ["--config", CONFIG];
}

async function startDaemon() {
  if (succeeds("version")) return say("the daemon runs already");
  for (const path of [ROOT, RUN]) {
    if (!existsSync(path)) writeFileSync(`${STATE}/made`, `${path}\n`, { flag: "a" });
  }
  const log = openSync(LOG, "a", 0o600);
  const daemon = spawn(process.execPath, [...DAEMON_NODE_FLAGS, MINKE, "daemon", ...settingsArguments()], {
    detached: true,
    env: { ...process.env, ...DAEMON_ENV },
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  let exit;
  daemon.once("exit", (code, signal) => (exit = signal ?? `exit code ${code}`));
  daemon.unref();
  for (let waitedMs = 0; !succeeds("version"); waitedMs += 200) {
    if (exit !== undefined || waitedMs > 20_000) fail(`the daemon did not start: ${exit ?? "no answer in 20 s"}`);
    await sleep(100);
  }
  say(`the daemon runs, pid ${daemon.pid}; it writes to ${LOG}`);
}

async function fetchPage(url) {
  let last;
  for (let attempt = 0; attempt < 50; attempt++) {
    try {
      const response = await fetch(url, { signal: AbortSignal.timeout(2000) });
      const body = (await response.text()).trim();
      if (response.ok) return body;
      last = `${response.status} ${response.statusText}`;
    } catch (err) {
      last = err.cause?.code ?? err.message;
    }
    await sleep(100);
  }
  return fail(`fetch ${url}: ${last}`);
}

async function start() {
  if (process.getuid() !== 0) fail("minke needs root: namespaces, mounts and cgroups are made by it");
  mkdirSync(STATE, { recursive: true, mode: 0o700 });
  await startDaemon();

  say(`\nloading the fixture images from ${LAYOUT}`);
  minke("load", LAYOUT);
  if (succeeds("get", "pod", POD)) minke("delete", "pod", POD);
  say(`minke run -f ${MANIFEST} --wait`);
  minke("run", "-f", MANIFEST, "--wait");

  const pods = JSON.parse(minke("get", "pods", "-o", "json"));
  const pod = pods.items.find((item) => item.metadata.name === POD);
  if (pod?.status?.phase !== "Running") fail(`pod ${POD} is ${pod?.status?.phase ?? "not there"}`);
  const ips = pod.status.podIPs.map(({ ip }) => ip);
  const hostPort = pod.spec.containers.flatMap(({ ports = [] }) => ports).find((port) => port.hostPort)?.hostPort;
  const urls = [
    ["pod IPv4", `http://${ips.find((ip) => !ip.includes(":"))}/`],
    ["pod IPv6", `http://[${ips.find((ip) => ip.includes(":"))}]/`],
    ["host port", `http://127.0.0.1:${hostPort}/`],
  ];
  say("");
  let page;
  for (const [name, url] of urls) {
    page = await fetchPage(url);
    say(`${name.padEnd(10)} ${url.padEnd(34)} ${page.split("\n").at(-1)}`);
  }
  let next = page;
  for (let i = 0; i < 100 && next === page; i++) {
    await sleep(100);
    next = await fetchPage(urls[2][1]);
  }
  if (next === page) fail("the sidecar did not refresh the page within 10 s");
  say(`${"refreshed".padEnd(10)} ${urls[2][1].padEnd(34)} ${next.split("\n").at(-1)}`);

  say(`\n${minke("describe", "pod", POD).trimEnd()}`);
  say(`
The daemon and the pod go on running. What to try next:
  npx minke get pods -o wide
  npx minke logs -f ${POD} -c refresh
  npx minke exec -it ${POD} -c server -- sh
  npx minke doctor
  npm stop`);
}

async function stop() {
  if (process.getuid() !== 0) fail("minke needs root");
  const made = existsSync(`${STATE}/made`) ? readFileSync(`${STATE}/made`, "utf8").trim().split("\n") : [];
  if (made.length === 0 && !succeeds("version")) return say("stop: nothing was started");
  // A daemon that was killed left its pods running: only a daemon can take them down.
  if (!succeeds("version") && existsSync(`${ROOT}/state`)) await startDaemon();
  if (succeeds("version")) {
    minke("daemon", "stop", "--pods");
    say("stopped the daemon and its pods");
  }
  for (const path of new Set(made)) {
    rmSync(path, { recursive: true, force: true });
    say(`removed ${path}`);
  }
  removeEmptyCgroups(`${cgroup2()}/minke`);
  rmSync(STATE, { recursive: true, force: true });
}

/** Only folders without processes can be removed; one that stays is named. */
function removeEmptyCgroups(path) {
  if (!existsSync(path)) return;
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    if (entry.isDirectory()) removeEmptyCgroups(`${path}/${entry.name}`);
  }
  try {
    rmdirSync(path);
  } catch (err) {
    say(`left over: cgroup ${path} (${err.code})`);
    process.exitCode = 1;
  }
}

await (process.argv[2] === "stop" ? stop() : start());
