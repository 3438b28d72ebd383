/**
 * Plugins that are installed in a folder: found, checked, started, and ended with the daemon.
 *
 * As NRI has it: a plugin is an executable `NN-name`. Descriptor 3 is its connection, and its environment has
 * nothing but that number, its name and its index. One that ends is not started again. Plugins run as the
 * daemon does, so nobody else may be able to change what is started. Knows nothing of what they say.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { lstat, readdir, realpath } from "node:fs/promises";
import type { Socket } from "node:net";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";
import type { Logger } from "../base/log.js";

/** What the plugin is called, whatever it calls itself. */
export interface PluginIdentity {
  /** Two digits. */
  readonly index: string;
  readonly name: string;
}

export interface InstalledPlugin extends PluginIdentity {
  readonly path: string;
}

export interface StartedPlugin {
  readonly socket: Socket;
  /** Resolves when its process is gone. */
  end(): Promise<void>;
}

const CONNECTION_FD = 3;
const END_MS = 2_000;
const MAX_SAID = 1024;
/** NRI's own rule, api.ParsePluginName and api.CheckPluginName. */
const FILE_NAME = /^(\d{2})-([A-Za-z0-9_.+-]{1,128})$/;
const WRITABLE_BY_OTHERS = 0o022;
const STICKY = 0o1000;
const EXECUTABLE = 0o111;

/**
 * The plugins of a folder, by their index. Of a folder that is not there: none.
 *
 * @throws RuntimeError `failed-precondition` NRI_PLUGIN_DIR_UNSAFE where somebody else could change one
 */
export async function findInstalled(dir: string, log: Logger): Promise<InstalledPlugin[]> {
  try {
    if (!(await isSafeFolder(dir))) {
      log.warn({ dir }, "there is no folder of NRI plugins, starting none");
      return [];
    }
    const found: InstalledPlugin[] = [];
    for (const file of (await readdir(dir)).toSorted()) {
      const path = join(dir, file);
      const { mode, isDirectory } = await kindOf(path);
      const [, index, name] = FILE_NAME.exec(file) ?? [];
      if (isDirectory || (mode & EXECUTABLE) === 0) continue;
      if (index === undefined || name === undefined) {
        log.warn({ path }, "no name of an NRI plugin, which is as 10-name: ignoring it");
        continue;
      }
      await checkProgram(path);
      found.push({ index, name, path });
    }
    return found;
  } catch (err) {
    throw withContext(err, `NRI plugins of "${dir}"`);
  }
}

async function kindOf(path: string): Promise<{ readonly mode: number; readonly isDirectory: boolean }> {
  const entry = await lstat(path);
  return { mode: entry.mode, isDirectory: entry.isDirectory() };
}

/** False where there is none. */
async function isSafeFolder(dir: string): Promise<boolean> {
  const entry = await lstat(dir).catch((err: unknown) => {
    if (hasErrno(err, "ENOENT")) return undefined;
    throw err;
  });
  if (!entry) return false;
  if (!entry.isDirectory()) throw unsafe(dir, entry.isSymbolicLink() ? "is a symbolic link" : "is no folder");
  let above = await realpath(dir);
  for (let isTop = false; !isTop; above = dirname(above)) {
    // Who may write to a folder may put another one in the place of this one, unless it is sticky.
    const { uid, mode } = await lstat(above);
    checkOwner(above, uid);
    const isSticky = above !== dir && (mode & STICKY) !== 0;
    if ((mode & WRITABLE_BY_OTHERS) !== 0 && !isSticky) throw unsafe(above, "can be written by others than its owner");
    isTop = above === "/";
  }
  return true;
}

async function checkProgram(path: string): Promise<void> {
  const entry = await lstat(path);
  if (entry.isSymbolicLink()) throw unsafe(path, "is a symbolic link");
  if (!entry.isFile()) throw unsafe(path, "is no file");
  checkOwner(path, entry.uid);
  if ((entry.mode & WRITABLE_BY_OTHERS) !== 0) throw unsafe(path, "can be written by others than its owner");
}

function checkOwner(path: string, uid: number): void {
  const ours = process.geteuid?.() ?? 0;
  if (uid !== 0 && uid !== ours) throw unsafe(path, `belongs to user ${uid}`);
}

function unsafe(path: string, why: string): RuntimeError {
  return new RuntimeError(`"${path}" ${why}`, { kind: "failed-precondition", code: "NRI_PLUGIN_DIR_UNSAFE" });
}

/** Starts a plugin; `undefined` where it could not be, which is logged. One whose connection ends is ended. */
export async function startInstalled(
  { index, name, path }: InstalledPlugin,
  log: Logger,
): Promise<StartedPlugin | undefined> {
  const plugin = `${index}-${name}`;
  const child = spawn(path, [], {
    cwd: "/",
    // A session of its own: what a terminal sends to the daemon is not meant for it.
    detached: true,
    stdio: ["ignore", "ignore", "pipe", "pipe"],
    env: { NRI_PLUGIN_NAME: name, NRI_PLUGIN_IDX: index, NRI_PLUGIN_SOCKET: String(CONNECTION_FD) },
  });
  const socket = child.stdio[CONNECTION_FD] as Socket;
  socket.on("error", () => undefined);
  try {
    await once(child, "spawn");
  } catch (err) {
    log.warn({ plugin, err: String(err) }, "could not start an installed NRI plugin, going on without it");
    return undefined;
  }
  const said = lastWords(child.stderr as Readable);
  let isAskedTo = false;
  const ended = once(child, "exit").then(async ([exitCode, signal]: unknown[]) => {
    // What it said last may still be on its way.
    await Promise.race([child.stderr && once(child.stderr, "close"), sleep(200, undefined, { ref: false })]);
    child.stderr?.destroy();
    if (isAskedTo) return;
    log.warn({ plugin, exitCode, signal, said: said() }, "an installed NRI plugin ended, not starting it again");
  });
  const kill = () => endProcess(child, ended);
  socket.once("close", () => void kill());
  return {
    socket,
    end: async () => {
      isAskedTo = true;
      socket.destroy();
      await kill();
    },
  };
}

async function endProcess(child: ChildProcess, ended: Promise<void>): Promise<void> {
  signalGroup(child, "SIGTERM");
  const timer = setTimeout(() => signalGroup(child, "SIGKILL"), END_MS);
  await ended;
  clearTimeout(timer);
}

function signalGroup(child: ChildProcess, signal: "SIGTERM" | "SIGKILL"): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, signal);
  } catch (err) {
    if (!hasErrno(err, "ESRCH")) throw err;
  }
}

/** The end of what it writes, which is read whether somebody wants it or not. */
function lastWords(stream: Readable): () => string {
  let text = "";
  stream.setEncoding("utf8");
  stream.on("data", (chunk: string) => (text = (text + chunk).slice(-MAX_SAID)));
  return () => text.trim();
}
