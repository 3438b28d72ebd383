/**
 * The plugins that take part, and what each event makes of them.
 *
 * Guards their list and the order of events: one event at a time, plugins by their index, so that each
 * sees what those before it did. Loaded with the first plugin; the rest of the daemon knows `Nri`.
 */
import type { Socket } from "node:net";
import { RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import type { ContainerResources } from "../spec/container-config.js";
import type { SandboxRecord } from "../state/sandbox.js";
import { applyAdjustment } from "./adjust.js";
import { mergeAdjustments, type NriContainer, toContainer, toPodSandbox } from "./convert.js";
import type { Draft } from "./draft.js";
import {
  ContainerAdjustment,
  type ContainerEviction,
  CreateContainerRequest,
  CreateContainerResponse,
  PostCreateContainerRequest,
  RunPodSandboxRequest,
  StateChangeEvent,
  StopContainerRequest,
  StopContainerResponse,
  SynchronizeRequest,
  SynchronizeResponse,
  UpdateContainerRequest,
  UpdateContainerResponse,
  UpdateContainersRequest,
  UpdateContainersResponse,
  UpdatePodSandboxRequest,
  ValidateContainerAdjustmentRequest,
  ValidateContainerAdjustmentResponse,
} from "./generated/nri/v1alpha1/nri.js";
import type { PluginIdentity } from "./installed-plugins.js";
import { Owners } from "./owners.js";
import type { ContainerEvent, NriHost, NriOptions, SandboxEvent } from "./nri.js";
import { METHODS, Plugin } from "./plugin.js";
import { readConfiguration } from "./plugin-configuration.js";
import { toNriResources } from "./resources.js";
import { synchronizeRequests } from "./synchronize-requests.js";
import { decoded } from "./ttrpc.js";
import { Updates, type WantedUpdate } from "./updates.js";

const MAX_PLUGINS = 64;

export class Plugins {
  readonly #options: NriOptions;
  readonly #connected = new Set<Plugin>();
  #plugins: readonly Plugin[] = [];
  #synchronizing = 0;
  readonly #host: NriHost;
  #turn: Promise<unknown> = Promise.resolve();
  /** What plugins have been told of and no store has yet. */
  readonly #sandboxesInFlight = new Map<string, SandboxRecord>();
  readonly #containersInFlight = new Map<string, NriContainer>();

  constructor(options: NriOptions, host: NriHost) {
    this.#options = options;
    this.#host = host;
  }

  /** False: no event has to be made up. */
  get hasPlugins(): boolean {
    return this.#plugins.length > 0 || this.#synchronizing > 0;
  }

  /** Names of the plugins that are called, in the order in which they are. */
  get plugins(): readonly string[] {
    return this.#plugins.map(({ name }) => name);
  }

  /** Takes a plugin's connection over; what goes wrong with it is logged. */
  async accept(socket: Socket, identity?: PluginIdentity): Promise<void> {
    const { log } = this.#options;
    if (this.#connected.size >= MAX_PLUGINS) {
      log.warn({ connected: this.#connected.size }, "too many NRI plugins, refusing another one");
      socket.destroy();
      return;
    }
    const plugin = new Plugin(socket, {
      ...this.#options,
      ...(identity && { identity }),
      configuration: (index, name) => readConfiguration(this.#options.configDir, index, name),
      updateContainers: (from, payload) => this.#unsolicited(from, payload),
    });
    this.#connected.add(plugin);
    plugin.onClose(() => {
      this.#connected.delete(plugin);
      if (!this.#plugins.includes(plugin)) return;
      this.#plugins = this.#plugins.filter((other) => other !== plugin);
      log.info({ plugin: plugin.name }, "an NRI plugin is gone");
    });
    try {
      await plugin.start();
      await this.#introduce(plugin);
      log.info({ plugin: plugin.name }, "an NRI plugin takes part");
    } catch (err) {
      const { code, message } = toRuntimeError(err);
      log.warn({ plugin: plugin.name, code, err: message }, "an NRI plugin could not be taken in, disconnecting it");
      plugin.close();
    }
  }

  close(): void {
    for (const plugin of this.#connected) plugin.close();
  }

  /** @throws RuntimeError what a plugin refuses of RunPodSandbox; the others have happened already */
  async sandboxEvent(method: SandboxEvent, sandbox: SandboxRecord): Promise<void> {
    if (!this.hasPlugins) return;
    await this.#inTurn(async () => {
      const pod = toPodSandbox(sandbox);
      // All four requests have the same one field.
      const payload = RunPodSandboxRequest.encode({ pod }).finish();
      const { event } = METHODS[method];
      const change = () => StateChangeEvent.encode({ event, pod, container: undefined }).finish();
      const tell = (plugin: Plugin) => plugin.request(method, payload, () => ({}), change);
      await (method === "RunPodSandbox" ? this.#each(tell) : this.#tellAll(tell));
      if (method === "RunPodSandbox") this.#sandboxesInFlight.set(sandbox.id, sandbox);
    });
  }

  /** The sandbox is where `NriHost.list` finds it, or gone. */
  sandboxSettled(id: string): void {
    this.#sandboxesInFlight.delete(id);
  }

  /** @throws RuntimeError what a plugin refuses */
  async updateSandbox(sandbox: SandboxRecord, overhead: ContainerResources, sum: ContainerResources): Promise<void> {
    if (!this.hasPlugins) return;
    const request = {
      pod: toPodSandbox(sandbox),
      overheadLinuxResources: toNriResources(overhead),
      linuxResources: toNriResources(sum),
    };
    const payload = UpdatePodSandboxRequest.encode(request).finish();
    await this.#inTurn(() => this.#each((plugin) => plugin.request("UpdatePodSandbox", payload, () => ({}))));
  }

  /** @throws RuntimeError what a plugin refuses of StartContainer; the others have happened already */
  async containerEvent(method: ContainerEvent, container: NriContainer): Promise<void> {
    if (!this.hasPlugins) return;
    await this.#inTurn(async () => {
      const subject = { pod: toPodSandbox(container.sandbox), container: toContainer(container) };
      // All five requests have the same two fields.
      const payload = PostCreateContainerRequest.encode(subject).finish();
      const change = () => StateChangeEvent.encode({ event: METHODS[method].event, ...subject }).finish();
      const tell = (plugin: Plugin) => plugin.request(method, payload, () => ({}), change);
      await (method === "StartContainer" ? this.#each(tell) : this.#tellAll(tell));
    });
  }

  /** The container is where `NriHost.list` finds it, or gone. */
  containerSettled(id: string): void {
    this.#containersInFlight.delete(id);
  }

  /**
   * What the plugins make of a container before it exists; the updates of others are in force then.
   *
   * @throws RuntimeError `failed-precondition` NRI_PLUGIN_REFUSED, NRI_ADJUSTMENT_INVALID, `aborted`
   *   NRI_CONFLICT, and what fails where a plugin's policy is to fail the request
   */
  async createContainer(container: NriContainer, draft: Draft): Promise<void> {
    if (!this.hasPlugins) return;
    const { id } = container.container;
    await this.#inTurn(async () => {
      const owners = new Owners();
      const updates = new Updates(owners, id);
      const pod = toPodSandbox(container.sandbox);
      const pristine = toContainer(container);
      let adjust = ContainerAdjustment.fromPartial({});
      const evictions: ContainerEviction[] = [];
      await this.#each(async (plugin) => {
        const payload = CreateContainerRequest.encode({ pod, container: toContainer(drafted(container, draft)) });
        const response = await plugin.request("CreateContainer", payload.finish(), (bytes) =>
          CreateContainerResponse.decode(bytes),
        );
        if (response?.adjust) {
          applyAdjustment(draft, response.adjust, { owners, containerId: id, plugin: plugin.name });
          adjust = mergeAdjustments(adjust, response.adjust);
        }
        updates.collect(plugin.name, response?.update ?? []);
        evictions.push(...(response?.evict ?? []));
      });
      await this.#validate({
        pod,
        container: pristine,
        adjust,
        update: updates.all.map(toMessage),
        owners: owners.toMessage(),
        plugins: this.#plugins.map(({ baseName, index }) => ({ name: baseName, index })),
      });
      await this.#apply(updates.all, "required");
      this.#evict(evictions);
      this.#containersInFlight.set(id, drafted(container, draft));
    });
  }

  /** What the plugins make of an update; those of other containers are in force then. */
  async updateContainer(container: NriContainer, changes: ContainerResources): Promise<ContainerResources> {
    if (!this.hasPlugins) return changes;
    const { id } = container.container;
    return this.#inTurn(async () => {
      const updates = new Updates(new Owners());
      const subject = { pod: toPodSandbox(container.sandbox), container: toContainer(container) };
      let current = changes;
      await this.#each(async (plugin) => {
        const request = { ...subject, linuxResources: toNriResources(current) };
        const response = await plugin.request(
          "UpdateContainer",
          UpdateContainerRequest.encode(request).finish(),
          (bytes) => UpdateContainerResponse.decode(bytes),
        );
        updates.collect(plugin.name, response?.update ?? []);
        const own = updates.all.find(({ containerId }) => containerId === id);
        const unified = { ...current.unified, ...own?.changes.unified };
        current = { ...current, ...own?.changes, ...(Object.keys(unified).length > 0 && { unified }) };
        this.#evict(response?.evict ?? []);
      });
      updates.takeOf(id);
      await this.#apply(updates.all, "required");
      return current;
    });
  }

  /** Tells of a container's end; what plugins want changed of others is in force then, as far as it could be. */
  async stopContainer(container: NriContainer): Promise<void> {
    if (!this.hasPlugins) return;
    await this.#inTurn(async () => {
      const updates = new Updates(new Owners());
      const subject = { pod: toPodSandbox(container.sandbox), container: toContainer(container) };
      const payload = StopContainerRequest.encode(subject).finish();
      await this.#tellAll(async (plugin) => {
        const response = await plugin.request("StopContainer", payload, (bytes) => StopContainerResponse.decode(bytes));
        updates.collect(plugin.name, response?.update ?? []);
      });
      await this.#apply(updates.all, "wished");
    });
  }

  /** Plugins that want to have the last word on an adjustment. */
  async #validate(request: ValidateContainerAdjustmentRequest): Promise<void> {
    const payload = ValidateContainerAdjustmentRequest.encode(request).finish();
    await this.#each(async (plugin) => {
      const response = await plugin.request("ValidateContainerAdjustment", payload, (bytes) =>
        ValidateContainerAdjustmentResponse.decode(bytes),
      );
      if (!response?.reject) return;
      const reason = response.reason || "it gives no reason";
      throw new RuntimeError(`NRI plugin "${plugin.name}" rejects what plugins made of the container: ${reason}`, {
        kind: "failed-precondition",
        code: "NRI_PLUGIN_REFUSED",
      });
    });
  }

  async #introduce(plugin: Plugin): Promise<void> {
    this.#synchronizing++;
    try {
      const updates = await this.#inTurn(async () => {
        const wanted = await this.#synchronize(plugin);
        if (!plugin.isClosed) {
          this.#plugins = [...this.#plugins, plugin].toSorted((a, b) => a.index.localeCompare(b.index));
        }
        return wanted;
      });
      await this.#apply(updates, "wished");
    } finally {
      this.#synchronizing--;
    }
  }

  /** In as many messages as it takes; the answer to the last one is what the plugin wants changed. */
  async #synchronize(plugin: Plugin): Promise<readonly WantedUpdate[]> {
    const known = await this.#host.list();
    const sandboxes = new Map([...known.sandboxes.map((s) => [s.id, s] as const), ...this.#sandboxesInFlight]);
    const containers = new Map([
      ...known.containers.map((c) => [c.container.id as string, c] as const),
      ...this.#containersInFlight,
    ]);
    const pods = [...sandboxes.values()].map(toPodSandbox);
    const chunks = synchronizeRequests(pods, [...containers.values()].map(toContainer));
    const updates = new Updates(new Owners());
    for (const chunk of chunks) {
      const response = await plugin.synchronize(SynchronizeRequest.encode(chunk).finish());
      const { update, more } = decoded(() => SynchronizeResponse.decode(response));
      if (chunk.more && (!more || update.length > 0)) {
        throw new RuntimeError("there is more to synchronize than one message takes, and the plugin takes one only", {
          kind: "resource-exhausted",
          code: "NRI_PLUGIN_FAILED",
        });
      }
      updates.collect(plugin.name, update);
    }
    return updates.all;
  }

  async #unsolicited(plugin: Plugin, payload: Buffer): Promise<Uint8Array> {
    if (!this.#plugins.includes(plugin)) {
      throw new RuntimeError("a plugin updates containers once it has been synchronized", {
        kind: "failed-precondition",
        code: "NRI_ADJUSTMENT_INVALID",
      });
    }
    const { update, evict } = decoded(() => UpdateContainersRequest.decode(payload));
    const updates = new Updates(new Owners());
    updates.collect(plugin.name, update);
    const failed = await this.#apply(updates.all, "wished");
    this.#evict(evict);
    const ids = new Set(failed.map(({ containerId }) => containerId));
    return UpdateContainersResponse.encode({
      failed: update.filter(({ containerId, ignoreFailure }) => ids.has(containerId) && !ignoreFailure),
    }).finish();
  }

  /** Those that failed, where all are only wished. */
  async #apply(updates: readonly WantedUpdate[], need: "required" | "wished"): Promise<readonly WantedUpdate[]> {
    const failed: WantedUpdate[] = [];
    for (const update of updates) {
      try {
        await this.#host.update(update.containerId, update.changes);
      } catch (err) {
        if (need === "required" && !update.ignoreFailure) throw withContext(err, "an NRI plugin's update");
        failed.push(update);
        const { code, message } = toRuntimeError(err);
        this.#options.log.warn(
          { containerId: update.containerId, code, err: message },
          "could not update a container as an NRI plugin wants, going on",
        );
      }
    }
    return failed;
  }

  /** Nobody waits for it: a stop takes its grace period, and tells the plugins when it is done. */
  #evict(evictions: readonly ContainerEviction[]): void {
    for (const { containerId, reason } of evictions) {
      this.#options.log.info({ containerId, reason }, "an NRI plugin evicts a container, stopping it");
      this.#host.evict(containerId).catch((err: unknown) => {
        const { code, message } = toRuntimeError(err);
        this.#options.log.warn({ containerId, code, err: message }, "could not stop a container that was evicted");
      });
    }
  }

  async #each(call: (plugin: Plugin) => Promise<unknown>): Promise<void> {
    for (const plugin of this.#plugins) if (!plugin.isClosed) await call(plugin);
  }

  /** Of what cannot be refused any more: each plugin hears of it, whatever the one before it says. */
  async #tellAll(call: (plugin: Plugin) => Promise<unknown>): Promise<void> {
    await this.#each(async (plugin) => {
      try {
        await call(plugin);
      } catch (err) {
        const { code, message } = toRuntimeError(err);
        this.#options.log.warn({ plugin: plugin.name, code, err: message }, "an NRI plugin complains, going on");
      }
    });
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => undefined);
    return done;
  }
}

function drafted(container: NriContainer, draft: Draft): NriContainer {
  const { container: record } = container;
  const config = { ...record.config, resources: draft.resources };
  return { ...container, spec: draft.spec, container: { ...record, config, cgroupPath: draft.cgroupPath } };
}

function toMessage({ containerId, changes, ignoreFailure }: WantedUpdate) {
  return { containerId, linux: { resources: toNriResources(changes) }, ignoreFailure };
}
