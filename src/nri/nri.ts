/**
 * The Node Resource Interface: plugins that see what happens to sandboxes and containers, and that adjust
 * containers as they are made.
 *
 * What the verbs of the runtime talk to. Until the first plugin connects, nothing of the protocol is
 * loaded, and each event is one look at nothing. Knows no verb but through `NriHost`.
 */
import { access } from "node:fs/promises";
import type { Socket } from "node:net";
import type { Logger } from "../base/log.js";
import type { ContainerResources } from "../spec/container-config.js";
import type { SandboxRecord } from "../state/sandbox.js";
import type { NriContainer } from "./convert.js";
import type { Draft } from "./draft.js";
import type { PluginIdentity, StartedPlugin } from "./installed-plugins.js";
import type { Plugins } from "./plugins.js";

/** What of the runtime plugins may see and do. */
export interface NriHost {
  list(): Promise<{ readonly sandboxes: readonly SandboxRecord[]; readonly containers: readonly NriContainer[] }>;
  /** What is `undefined` stays as it is. */
  update(containerId: string, changes: ContainerResources): Promise<void>;
  evict(containerId: string): Promise<void>;
}

export interface NriOptions {
  /** `<index>-<name>.conf` or `<name>.conf` in it is a plugin's configuration; absolute. */
  readonly configDir: string;
  readonly registrationTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly runtimeVersion: string;
  /** Of the plugins that are started here, absolute; nobody else uses it. */
  readonly pluginCgroup?: string | undefined;
  readonly log: Logger;
}

/** Events of a sandbox, and of a container, whose answers are empty. */
export type SandboxEvent = "RunPodSandbox" | "StopPodSandbox" | "RemovePodSandbox" | "PostUpdatePodSandbox";
export type ContainerEvent =
  | "PostCreateContainer"
  | "StartContainer"
  | "PostStartContainer"
  | "PostUpdateContainer"
  | "RemoveContainer";

export class Nri {
  readonly #options: NriOptions;
  #host: NriHost | undefined;
  #plugins: Plugins | undefined;
  readonly #started: StartedPlugin[] = [];
  #hasSurvivors = false;

  constructor(options: NriOptions) {
    this.#options = options;
  }

  /** Before the first plugin connects. */
  attach(host: NriHost): void {
    this.#host = host;
  }

  /** False: no event has to be made up. */
  get hasPlugins(): boolean {
    return this.#plugins?.hasPlugins ?? false;
  }

  /** Names of the plugins that are called, in the order in which they are. */
  get plugins(): readonly string[] {
    return this.#plugins?.plugins ?? [];
  }

  /**
   * Starts the plugins that are installed in a folder, and waits until each takes part; what goes wrong with
   * one is logged.
   *
   * @throws RuntimeError `failed-precondition` NRI_PLUGIN_DIR_UNSAFE
   */
  async startInstalled(dir: string): Promise<void> {
    const { log } = this.#options;
    if (this.#hasSurvivors) return;
    const { findInstalled, startInstalled } = await import("./installed-plugins.js");
    const found = await findInstalled(dir, log);
    // What they register with, before their time to do so begins.
    if (found.length > 0) await this.#loaded();
    await Promise.all(
      found.map(async (installed) => {
        const started = await startInstalled(installed, log, this.#options.pluginCgroup);
        if (!started) return;
        this.#started.push(started);
        await this.accept(started.socket, installed);
      }),
    );
  }

  /** Ends what an earlier daemon's plugins have left. Where that cannot be ended, no second copy is started. */
  async endFormer(): Promise<void> {
    const { pluginCgroup, log } = this.#options;
    if (pluginCgroup === undefined || !(await isThere(pluginCgroup))) return;
    const { endFormerPlugins } = await import("./installed-plugins.js");
    try {
      await endFormerPlugins(pluginCgroup);
    } catch (err) {
      this.#hasSurvivors = true;
      log.error({ err: String(err) }, "could not end the NRI plugins of an earlier daemon, starting none");
    }
  }

  /** Takes a plugin's connection over; what goes wrong with it is logged. */
  async accept(socket: Socket, identity?: PluginIdentity): Promise<void> {
    // What it sends meanwhile waits: nobody reads yet.
    socket.on("error", () => undefined);
    await (await this.#loaded()).accept(socket, identity);
  }

  async #loaded(): Promise<Plugins> {
    const { Plugins: Loaded } = await import("./plugins.js");
    if (!this.#host) throw new Error("a plugin connected before the runtime was open");
    return (this.#plugins ??= new Loaded(this.#options, this.#host));
  }

  /** Resolves when the plugins that were started here are gone. */
  async close(): Promise<void> {
    this.#plugins?.close();
    const started = this.#started.splice(0);
    await Promise.all(started.map((plugin) => plugin.end()));
    if (started.length > 0) await this.endFormer();
  }

  /** @throws RuntimeError what a plugin refuses of RunPodSandbox; the others have happened already */
  async sandboxEvent(method: SandboxEvent, sandbox: SandboxRecord): Promise<void> {
    await this.#plugins?.sandboxEvent(method, sandbox);
  }

  /** The sandbox is where `NriHost.list` finds it, or gone. */
  sandboxSettled(id: string): void {
    this.#plugins?.sandboxSettled(id);
  }

  /** @throws RuntimeError what a plugin refuses */
  async updateSandbox(sandbox: SandboxRecord, overhead: ContainerResources, sum: ContainerResources): Promise<void> {
    await this.#plugins?.updateSandbox(sandbox, overhead, sum);
  }

  /** @throws RuntimeError what a plugin refuses of StartContainer; the others have happened already */
  async containerEvent(method: ContainerEvent, container: NriContainer): Promise<void> {
    await this.#plugins?.containerEvent(method, container);
  }

  /** The container is where `NriHost.list` finds it, or gone. */
  containerSettled(id: string): void {
    this.#plugins?.containerSettled(id);
  }

  /**
   * What the plugins make of a container before it exists; the updates of others are in force then.
   *
   * @throws RuntimeError `failed-precondition` NRI_PLUGIN_REFUSED, NRI_ADJUSTMENT_INVALID, `aborted`
   *   NRI_CONFLICT, and what fails where a plugin's policy is to fail the request
   */
  async createContainer(container: NriContainer, draft: Draft): Promise<void> {
    await this.#plugins?.createContainer(container, draft);
  }

  /** What the plugins make of an update; those of other containers are in force then. */
  async updateContainer(container: NriContainer, changes: ContainerResources): Promise<ContainerResources> {
    return this.#plugins ? this.#plugins.updateContainer(container, changes) : changes;
  }

  /** Tells of a container's end; what plugins want changed of others is in force then, as far as it could be. */
  async stopContainer(container: NriContainer): Promise<void> {
    await this.#plugins?.stopContainer(container);
  }
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
