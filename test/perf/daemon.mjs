/** A daemon of a benchmark's own, with the fixture images loaded, and its API socket. */
import { spawn, spawnSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { DAEMON_ENV, DAEMON_NODE_FLAGS } from "../../dist/client/node-flags.js";

const project = fileURLToPath(new URL("../..", import.meta.url));
const minke = join(project, "dist/cli/main.js");
const START_DEADLINE_MS = 30_000;

/**
 * @param {string} folder that the caller removes
 * @param {string} cgroupRoot name of its own
 * @param {(() => Promise<void>)[]} undo gets what ends it, pods and all
 * @param {{ nodeArgs?: readonly string[], env?: Record<string, string> }} [options]
 */
export async function startDaemon(folder, cgroupRoot, undo, { nodeArgs = [], env = {} } = {}) {
  const run = join(folder, "run");
  const apiSocket = join(run, "api.sock");
  const config = join(folder, "config.toml");
  writeFileSync(
    config,
    `log-level = "warn"
cgroup-root = "${cgroupRoot}"
tolerate-missing-controllers = true
[network]
bridge = "mkb${process.pid.toString(36)}"
mode = "builtin"
subnet-ipv4 = "10.208.${(process.pid % 64) * 4}.0/22"
subnet-ipv6 = "fd6d:696e:6b65:${process.pid.toString(16).slice(-4)}::/64"
`,
  );
  for (const path of ["root", "run"]) mkdirSync(join(folder, path), { mode: 0o700 });
  const log = openSync(join(folder, "daemon.log"), "a");
  const args = [
    ...DAEMON_NODE_FLAGS,
    ...nodeArgs,
    minke,
    "daemon",
    "--root",
    join(folder, "root"),
    "--run",
    run,
    "--config",
    config,
  ];
  const child = spawn(process.execPath, args, {
    stdio: ["ignore", log, log],
    env: { ...process.env, ...DAEMON_ENV, ...env },
    detached: true,
  });
  closeSync(log);
  const clientEnv = { ...process.env, MINKE_ROOT: join(folder, "root"), MINKE_RUN: run };
  undo.push(async () => {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    if (child.exitCode !== null) return;
    // Not spawnSync: the command waits for the daemon to be gone, and it is ours to reap.
    spawn(process.execPath, [minke, "daemon", "stop", "--pods"], { env: clientEnv, stdio: "ignore" });
    await ended;
  });
  /** A request to the API socket: its status and the body as text. */
  const ask = (method, path, body) =>
    new Promise((resolve, reject) => {
      const headers = body ? { "content-type": "application/json" } : {};
      const call = request({ socketPath: apiSocket, method, path, headers }, (response) => {
        const chunks = [];
        response.on("data", (chunk) => chunks.push(chunk));
        response.once("end", () => resolve({ status: response.statusCode, text: Buffer.concat(chunks).toString() }));
      });
      call.once("error", reject);
      call.end(body ? JSON.stringify(body) : undefined);
    });
  for (let waitedMs = 0; ; waitedMs += 20) {
    const answer = await ask("GET", "/healthz").catch(() => undefined);
    if (answer?.status === 200) break;
    if (child.exitCode !== null || waitedMs > START_DEADLINE_MS) {
      throw new Error(`the daemon did not start:\n${readFileSync(join(folder, "daemon.log"), "utf8")}`);
    }
    await sleep(20);
  }
  /** Runs a minke command to its end; throws with what it said where it fails. */
  const command = (...words) => {
    const { status, stderr } = spawnSync(process.execPath, [minke, ...words], { encoding: "utf8", env: clientEnv });
    if (status !== 0) throw new Error(`minke ${words.join(" ")} ended with ${status}: ${stderr}`);
  };
  command("load", join(project, ".cache/fixtures/layout"));
  return { pid: child.pid, apiSocket, criSocket: join(run, "cri.sock"), ask, command };
}
