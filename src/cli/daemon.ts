/**
 * `minke daemon`, `minke daemon stop` and `minke doctor`.
 */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { hasErrno, RuntimeError, toRuntimeError } from "../base/errors.js";
import { hasEnded, parseProcessStat } from "../base/process-stat.js";
import { startSparingly } from "../base/start-memory.js";
import { rootFolder, runFolder } from "../client/folders.js";
import { connectTo, EXIT, type GlobalOptions, note, print } from "./context.js";
import { table } from "./table.js";

const STOP_POLL_MS = 20;
const STOP_DEADLINE_MS = 60_000;

export async function runDaemonHere(options: GlobalOptions & { cri?: string; config?: string }): Promise<void> {
  startSparingly();
  const { runDaemon } = await import("../main.js");
  // A daemon that a command starts has no options of its own: it inherits the command's environment.
  const config = options.config ?? process.env.MINKE_CONFIG;
  await runDaemon({
    root: rootFolder(options.root),
    run: runFolder(options.run),
    ...(options.api !== undefined && { api: resolve(options.api) }),
    ...(options.cri !== undefined && { cri: resolve(options.cri) }),
    ...(config !== undefined && { config: resolve(config) }),
  });
}

export async function stopDaemon(options: GlobalOptions & { pods?: boolean }): Promise<void> {
  // Pods are running and no daemon is: one is needed to delete them.
  const client = await connectTo(options, { startDaemon: options.pods ?? false });
  const { pid } = await client.stopDaemon({ pods: options.pods });
  const deadline = performance.now() + STOP_DEADLINE_MS;
  while (isAlive(pid)) {
    if (performance.now() > deadline) {
      throw new RuntimeError(`the daemon, process ${pid}, has not ended after ${STOP_DEADLINE_MS / 1000} s`, {
        kind: "deadline-exceeded",
        code: "DAEMON_UNREACHABLE",
      });
    }
    await sleep(STOP_POLL_MS);
  }
  print(options.pods ? "daemon stopped, pods deleted" : "daemon stopped; pods go on running");
}

/** Not a zombie: its parent may never reap it, as a pid 1 that is no init. */
function isAlive(pid: number): boolean {
  try {
    return !hasEnded(parseProcessStat(readFileSync(`/proc/${pid}/stat`, "utf8")));
  } catch (err) {
    if (hasErrno(err, "ENOENT") || hasErrno(err, "ESRCH")) return false;
    throw err;
  }
}

interface Check {
  readonly name: string;
  readonly status: string;
  readonly found: string;
  readonly costs: string;
}

/** Asks the daemon where one runs; looks itself where none does, since that may be why. Fails where something essential is missing. */
export async function doctor(options: GlobalOptions & { output?: string }): Promise<void> {
  const { checks } = (await findings(options)) as { checks: readonly Check[] };
  if (options.output === "json") print(JSON.stringify({ checks }, null, 4));
  else {
    const rows = checks.map(({ status, name, found, costs }) => [name, status, found, costs]);
    print(table(["CHECK", "STATUS", "FOUND", "WHAT IT COSTS"], rows));
  }
  if (checks.some(({ status }) => status === "missing")) process.exitCode = EXIT.failed;
}

async function findings(options: GlobalOptions): Promise<object> {
  try {
    return await (await connectTo(options, { startDaemon: false })).doctor();
  } catch (err) {
    if (toRuntimeError(err).code !== "DAEMON_UNREACHABLE") throw err;
    note("no daemon is running; looking from here");
    const { runDoctor } = await import("../doctor/doctor.js");
    return runDoctor();
  }
}
