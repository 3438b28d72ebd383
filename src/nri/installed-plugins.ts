/**
 * Plugins that are installed in a folder: found, checked, started, and ended with the daemon.
 *
 * As NRI has it: a plugin is an executable `NN-name`. Descriptor 3 is its connection, and its environment has
 * nothing but that number, its name and its index. One that ends is not started again, and with a plugin
 * ends all that it has started. Plugins run as the daemon does, so nobody else may be able to change what is
 * started. Knows nothing of what they say.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { lstat, mkdir, readdir, realpath, rmdir, writeFile } from "node:fs/promises";
import type { Socket } from "node:net";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { builtFile, removeCgroups, syscallError } from "../native/index.js";

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
/** The keeper's: closed with the daemon, however that ends. */
const LIFE_FD = 4;
/** It gives a plugin two seconds. */
const KEEPER_MS = 5_000;
const CGROUP_ROUND_MS = 20;
const CGROUP_END_MS = 10_000;
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

/**
 * Starts a plugin; `undefined` where it could not be, which is logged. One whose connection ends is ended.
 *
 * @param cgroup of all plugins, absolute: each gets one of its own below it. Without one, children that a
 *   plugin puts into a session of their own are left to themselves.
 */
export async function startInstalled(
  { index, name, path }: InstalledPlugin,
  log: Logger,
  cgroup?: string,
): Promise<StartedPlugin | undefined> {
  const plugin = `${index}-${name}`;
  const own = cgroup === undefined ? "" : join(cgroup, plugin);
  if (own !== "") await mkdir(own, { recursive: true });
  // native/monitor/plugin_keeper.h: it stands between, and outlives a daemon that is killed by what it has to do then.
  const keeper = spawn(builtFile("minke-oci"), [own, path], {
    argv0: "minke-plugin",
    cwd: "/",
    // A session of its own: what a terminal sends to the daemon is not meant for it.
    detached: true,
    stdio: ["ignore", "ignore", "pipe", "pipe", "pipe"],
    env: { NRI_PLUGIN_NAME: name, NRI_PLUGIN_IDX: index, NRI_PLUGIN_SOCKET: String(CONNECTION_FD) },
  });
  const [socket, life] = [keeper.stdio[CONNECTION_FD], keeper.stdio[LIFE_FD]] as [Socket, Socket];
  for (const each of [socket, life]) each.on("error", () => undefined);
  const said = lastWords(keeper.stderr as Readable);
  const exited = once(keeper, "exit");
  const endRest = () =>
    endCgroup(own).catch((err: unknown) => {
      log.warn({ plugin, err: String(err) }, "could not end all of an NRI plugin, leaving it to the next start");
    });
  // Heard where it is waited for.
  exited.catch(() => undefined);
  try {
    await once(keeper, "spawn");
    await begun(life);
  } catch (err) {
    log.warn({ plugin, err: String(err) }, "could not start an installed NRI plugin, going on without it");
    if (keeper.pid !== undefined) await exited;
    await endRest();
    return undefined;
  }
  let isAskedTo = false;
  const ended = exited.then(async ([exitCode, signal]: unknown[]) => {
    // Also where it was the keeper that was killed.
    await endRest();
    // What it said last may still be on its way.
    await Promise.race([keeper.stderr && once(keeper.stderr, "close"), sleep(200, undefined, { ref: false })]);
    keeper.stderr?.destroy();
    if (isAskedTo) return;
    log.warn({ plugin, exitCode, signal, said: said() }, "an installed NRI plugin ended, not starting it again");
  });
  const end = async () => {
    life.destroy();
    const timer = setTimeout(() => keeper.kill("SIGKILL"), KEEPER_MS);
    await ended;
    clearTimeout(timer);
  };
  socket.once("close", () => void end());
  return {
    socket,
    end: async () => {
      isAskedTo = true;
      socket.destroy();
      await end();
    },
  };
}

/** @throws RuntimeError with the errno of what kept the plugin from starting */
async function begun(life: Socket): Promise<void> {
  const answer = await new Promise<Buffer | undefined>((resolve) => {
    life.once("data", resolve);
    life.once("close", () => resolve(undefined));
  });
  const errno = answer?.readInt32LE(0) ?? constants.errno.EPIPE;
  if (errno !== 0) throw syscallError("start plugin", "execve", errno);
}

/**
 * Ends what is left of the plugins of an earlier daemon: their keepers end them with it, unless they were
 * killed themselves. No second copy runs beside one.
 *
 * @param cgroup that of all plugins; one that is not there has none
 */
export async function endFormerPlugins(cgroup: string): Promise<void> {
  await endCgroup(cgroup);
  // Also other daemons' may be below.
  await rmdir(dirname(cgroup)).catch(() => undefined);
}

/** Kills all that runs in it, and removes it. @throws RuntimeError `deadline-exceeded` CGROUP_BUSY */
async function endCgroup(cgroup: string): Promise<void> {
  if (cgroup === "") return;
  const giveUpAt = performance.now() + CGROUP_END_MS;
  while (!(await removeCgroups(cgroup))) {
    if (performance.now() > giveUpAt) {
      throw new RuntimeError(`end what runs in "${cgroup}": it outlives SIGKILL`, {
        kind: "deadline-exceeded",
        code: "CGROUP_BUSY",
      });
    }
    await writeFile(join(cgroup, "cgroup.kill"), "1").catch((err: unknown) => {
      if (!hasErrno(err, "ENOENT") && !hasErrno(err, "ENODEV")) throw err;
    });
    await sleep(CGROUP_ROUND_MS);
  }
}

/** The end of what it writes, which is read whether somebody wants it or not. */
function lastWords(stream: Readable): () => string {
  let text = "";
  stream.setEncoding("utf8");
  stream.on("data", (chunk: string) => (text = (text + chunk).slice(-MAX_SAID)));
  return () => text.trim();
}
