/**
 * Which CNI configuration counts now: the first of a directory by name, or the one file that the
 * settings name. Configurations appear and disappear while the daemon runs (a kubelet's cluster
 * brings its own late), so the directory, or the nearest one above it that exists, is watched;
 * asking costs nothing until something has changed there.
 */
import { type FSWatcher, watch } from "node:fs";
import { dirname } from "node:path";
import { type RuntimeError, toRuntimeError } from "../../base/errors.js";
import type { Logger } from "../../base/log.js";
import { configFiles, type NetworkConfig, readConfig } from "./config.js";

/** Podman puts the network of its own containers here; it is nobody else's. */
const PODMANS = "podman";

export interface CniLookup {
  readonly config: NetworkConfig | undefined;
  /** Why there is none, where a file is there and cannot be used. */
  readonly problem: RuntimeError | undefined;
}

export interface ConfigSourceOptions {
  readonly dir: string;
  /** Instead of the directory. */
  readonly file: string | undefined;
  /** Leaves the network that podman brings out of account. */
  readonly skipsPodman: boolean;
  readonly log: Logger;
}

export class ConfigSource {
  readonly #options: ConfigSourceOptions;
  #watcher: FSWatcher | undefined;
  #known: CniLookup | undefined;
  #loading: Promise<CniLookup> | undefined;
  /** What was said last, so that it is said once. */
  #said = "";

  constructor(options: ConfigSourceOptions) {
    this.#options = options;
  }

  /** At once where nothing has changed since the last time. */
  current(): CniLookup | Promise<CniLookup> {
    return this.#known ?? this.reload();
  }

  /** As the files are at this moment. */
  reload(): Promise<CniLookup> {
    this.#loading ??= this.#load().finally(() => {
      this.#loading = undefined;
    });
    return this.#loading;
  }

  close(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  async #load(): Promise<CniLookup> {
    // Watched before it is read: what changes meanwhile is seen.
    const isWatched = this.#watch();
    this.#known = undefined;
    const found = await this.#find();
    if (isWatched && this.#watcher) this.#known = found;
    this.#say(found);
    return found;
  }

  async #find(): Promise<CniLookup> {
    const { dir, file, skipsPodman, log } = this.#options;
    let problem: RuntimeError | undefined;
    try {
      for (const candidate of file === undefined ? await configFiles(dir) : [file]) {
        try {
          const config = await readConfig(candidate);
          if (!(skipsPodman && config.name === PODMANS)) return { config, problem: undefined };
        } catch (err) {
          problem ??= toRuntimeError(err);
          log.debug({ file: candidate, reason: toRuntimeError(err).message }, "a CNI configuration cannot be used");
        }
      }
    } catch (err) {
      problem = toRuntimeError(err);
    }
    return { config: undefined, problem };
  }

  #say({ config, problem }: CniLookup): void {
    const text = JSON.stringify([config, problem?.message]);
    if (text === this.#said) return;
    const isFirst = this.#said === "";
    this.#said = text;
    const { log } = this.#options;
    if (config)
      log.info({ network: config.name, file: config.file, version: config.version }, "CNI plugins do the network");
    else if (problem) log.warn({ reason: problem.message }, "no CNI configuration can be used");
    else if (!isFirst) log.info({ dir: this.#options.dir }, "there is no CNI configuration any more");
  }

  /** False where the kernel gives no watch: then the files are read each time. */
  #watch(): boolean {
    if (this.#watcher) return true;
    for (let path = this.#options.file ?? this.#options.dir; ; path = dirname(path)) {
      try {
        const watcher = watch(path, { persistent: false }, () => this.#forget());
        watcher.on("error", () => this.#forget());
        this.#watcher = watcher;
        return true;
      } catch {
        if (path === "/") return false;
      }
    }
  }

  /** The watched directory may have gone, or a nearer one come: all begins anew at the next question. */
  #forget(): void {
    this.close();
    this.#known = undefined;
  }
}
