/**
 * Plugins that a daemon was waiting for when it was killed: they go on, and would change the
 * network while it is being taken down. Found by what their environment says.
 */
import { readdir, readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { hasErrno } from "../../base/errors.js";

const ROUNDS = 50;
const ROUND_MS = 20;

/** Kills every process that works for one of these attachments, and waits until it has ended. */
export async function endOrphanedPlugins(containerIds: ReadonlySet<string>): Promise<number> {
  if (containerIds.size === 0) return 0;
  let count = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const pids = await pluginsOf(containerIds);
    if (round === 0) count = pids.length;
    if (pids.length === 0) break;
    for (const pid of pids) kill(pid);
    await sleep(ROUND_MS);
  }
  return count;
}

async function pluginsOf(containerIds: ReadonlySet<string>): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => ((await isPlugin(pid, containerIds)) ? Number(pid) : undefined)),
  );
  return found.filter((pid) => pid !== undefined);
}

/** The environment of a zombie, and of a kernel thread, is empty. */
async function isPlugin(pid: string, containerIds: ReadonlySet<string>): Promise<boolean> {
  if (Number(pid) === process.pid) return false;
  let environment: string;
  try {
    environment = await readFile(`/proc/${pid}/environ`, "latin1");
  } catch {
    return false; // It has ended.
  }
  const words = environment.split("\0");
  const id = words.find((word) => word.startsWith("CNI_CONTAINERID="))?.slice("CNI_CONTAINERID=".length);
  return id !== undefined && containerIds.has(id) && words.some((word) => word.startsWith("CNI_COMMAND="));
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (err) {
    if (!hasErrno(err, "ESRCH")) throw err;
  }
}
