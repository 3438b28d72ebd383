/**
 * Which settings file the last daemon of a run directory was started with, so that one that a command
 * starts after a crash goes on with it. Gone with the run directory: at a stop with `--pods`, at a boot.
 */
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { hasErrno } from "../base/errors.js";
import type { Paths } from "./paths.js";

/** @param config absolute; `undefined`: the daemon has the default file */
export async function rememberSettingsFile(paths: Paths, config: string | undefined): Promise<void> {
  if (config === undefined) return rm(paths.lastSettingsFile, { force: true });
  if ((await lastSettingsFile(paths)) === config) return;
  const half = `${paths.lastSettingsFile}.tmp`;
  try {
    await writeFile(half, config, { mode: 0o600 });
    await rename(half, paths.lastSettingsFile);
  } catch (err) {
    await rm(half, { force: true });
    throw err;
  }
}

/** @returns absolute; `undefined` where the last daemon had the default file, or none has run since the boot */
export async function lastSettingsFile(paths: Paths): Promise<string | undefined> {
  try {
    return await readFile(paths.lastSettingsFile, "utf8");
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return undefined;
    throw err;
  }
}
