/**
 * What a daemon that was killed has left of pods that nobody desires any more.
 */
import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { toRuntimeError } from "../base/errors.js";
import type { PodUid } from "../base/ids.js";
import type { Logger } from "../base/log.js";
import { removeTree } from "../native/index.js";
import type { Runtime } from "../runtime/runtime.js";
import type { Paths } from "../settings/paths.js";
import type { Volumes } from "../volume/volumes.js";

/**
 * Removes sandboxes, volumes and logs of other pods than these. What cannot be removed is logged and left to the next start.
 *
 * @param desired UIDs of the pods that there are
 */
export async function removeUnknown(
  desired: ReadonlySet<string>,
  runtime: Runtime,
  volumes: Volumes,
  paths: Paths,
  log: Logger,
): Promise<void> {
  const attempt = async (what: string, work: () => Promise<void>) => {
    try {
      await work();
    } catch (err) {
      const { kind, code, message } = toRuntimeError(err);
      log.warn({ kind, code, message, what }, "left-over of a pod could not be removed, ignoring until the next start");
    }
  };
  for (const { id, config } of runtime.listSandboxes("pod")) {
    if (!desired.has(config.metadata.uid)) await attempt("sandbox", () => runtime.removeSandbox(id));
  }
  for (const uid of await volumes.list()) {
    if (!desired.has(uid)) await attempt("volumes", () => volumes.remove(uid as PodUid));
  }
  const logs = dirname(paths.podLogs("x", "x", "x" as PodUid));
  await attempt("logs", async () => {
    // `<namespace>_<name>_<uid>`: none of the three may hold an underscore.
    for (const name of await readdir(logs).catch(() => [])) {
      const [, , uid] = name.split("_");
      if (uid === undefined || !desired.has(uid)) await removeTree(join(logs, name));
    }
  });
}
