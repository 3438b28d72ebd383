/**
 * The daemon: reads the settings, takes the lock, recovers what runs, and serves its sockets.
 *
 * The only place that knows every part. Stops on SIGTERM, SIGINT or by request; sandboxes and
 * containers go on without it unless the request says otherwise.
 */
import { mkdir, rm, rmdir } from "node:fs/promises";
import type { Server } from "node:http";
import { createApiServer } from "./api/server.js";
import { RuntimeError, withContext } from "./base/errors.js";
import { createLog, type Logger } from "./base/log.js";
import { createCriServer, type CriServer } from "./cri/server.js";
import { runDoctor } from "./doctor/doctor.js";
import { ImageStore } from "./image/image-store.js";
import { type Fd, isMountPoint, lockFile, mountTmpfs, unmount } from "./native/index.js";
import { PodNetwork } from "./network/pod-network.js";
import { PodEngine } from "./pod/engine.js";
import { readHost } from "./runtime/host.js";
import { type OpenedRuntime, openRuntime } from "./runtime/open-runtime.js";
import { Paths } from "./settings/paths.js";
import { loadSettings } from "./settings/settings.js";
import { VERSION } from "./settings/version.js";
import { FileStore } from "./state/store.js";

export interface DaemonOptions {
  readonly root: string;
  readonly run: string;
  /** Replaces `<run>/api.sock`. */
  readonly api?: string | undefined;
  /** Replaces `<run>/cri.sock`. */
  readonly cri?: string | undefined;
  /** A settings file that must exist; without it the default one, which may be missing. */
  readonly config?: string | undefined;
}

/**
 * Runs until it is stopped, then returns.
 * @throws RuntimeError where it cannot start: `permission-denied` NOT_ROOT, `failed-precondition` ALREADY_RUNNING, …
 */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  if (process.geteuid?.() !== 0) {
    throw new RuntimeError("start the daemon: minke must run as root", { kind: "permission-denied", code: "NOT_ROOT" });
  }
  process.umask(0o022);
  const settings = await loadSettings(options.config);
  const log = createLog(settings.logLevel);
  const paths = new Paths(options.root, options.run);
  for (const dir of [paths.root, paths.run, paths.tmp, paths.tmpfs]) await mkdir(dir, { recursive: true, mode: 0o700 });
  const lock = await takeLock(paths);
  try {
    await serve(options, settings, paths, log);
  } finally {
    lock.close();
  }
}
