/**
 * Starts a daemon for a command that found none, and waits until it answers.
 */
import { spawn } from "node:child_process";
import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { RuntimeError } from "../base/errors.js";
import { DAEMON_ENV, DAEMON_NODE_FLAGS } from "./node-flags.js";
import { send } from "./transport.js";

const POLL_MS = 20;
const DEADLINE_MS = 30_000;
/** When ours gave up, another one may just have taken the lock and be on its way up. */
const AFTER_EXIT_MS = 3_000;
const LOG_TAIL_BYTES = 2_000;

export interface DaemonPlace {
  readonly root: string;
  readonly run: string;
  readonly socketPath: string;
  /** Absolute; `undefined`: MINKE_CONFIG's, or the default one. */
  readonly config: string | undefined;
}

/** True where a daemon answers on the socket. */
export async function isDaemonUp(socketPath: string): Promise<boolean> {
  try {
    (await send(socketPath, "/healthz")).resume();
    return true;
  } catch (err) {
    if (err instanceof RuntimeError && err.code === "DAEMON_UNREACHABLE") return false;
    throw err;
  }
}

/**
 * Spawns `minke daemon` in a session of its own; its output goes to `<root>/daemon.log`.
 *
 * @throws RuntimeError `permission-denied` PERMISSION_DENIED: not root; `unavailable` DAEMON_START_FAILED
 */
export async function startDaemon({ root, run, socketPath, config }: DaemonPlace): Promise<void> {
  if (process.geteuid?.() !== 0) {
    throw new RuntimeError("start the daemon: minke runs containers as root; try again with sudo", {
      kind: "permission-denied",
      code: "PERMISSION_DENIED",
    });
  }
  await mkdir(root, { recursive: true, mode: 0o700 });
  const logPath = join(root, "daemon.log");
  const log = await open(logPath, "a", 0o600);
  const begin = (await log.stat()).size;
  try {
    const entry = fileURLToPath(new URL("../cli/main.js", import.meta.url));
    const args = [...DAEMON_NODE_FLAGS, entry, "--root", root, "--run", run, "--api", socketPath, "daemon"];
    if (config !== undefined) args.push("--config", config);
    const child = spawn(process.execPath, args, {
      cwd: "/",
      env: { ...process.env, ...DAEMON_ENV },
      detached: true,
      stdio: ["ignore", log.fd, log.fd],
    });
    let endedAt: number | undefined;
    let failure: Error | undefined;
    child.once("exit", () => (endedAt = performance.now()));
    child.once("error", (err) => {
      failure = err;
      endedAt = performance.now();
    });
    child.unref();
    const deadline = performance.now() + DEADLINE_MS;
    while (performance.now() < deadline) {
      if (await isDaemonUp(socketPath)) return;
      if (endedAt !== undefined && performance.now() - endedAt > AFTER_EXIT_MS) break;
      // A daemon that ended at once will not come up; only wait on where another may.
      await sleep(POLL_MS);
    }
    throw new RuntimeError(
      `start the daemon: ${failure?.message ?? (endedAt === undefined ? `no answer within ${DEADLINE_MS / 1000} s` : "it ended")}; "${logPath}" says:\n${await tailOf(logPath, begin)}`,
      {
        kind: "unavailable",
        code: "DAEMON_START_FAILED",
        cause: failure,
      },
    );
  } finally {
    await log.close();
  }
}

async function tailOf(path: string, begin: number): Promise<string> {
  const handle = await open(path, "r");
  try {
    const { size } = await handle.stat();
    const from = Math.max(begin, size - LOG_TAIL_BYTES);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(Math.max(size - from, 0)), 0, size - from, from);
    return buffer.toString("utf8", 0, bytesRead).trim() || "(nothing)";
  } finally {
    await handle.close();
  }
}
