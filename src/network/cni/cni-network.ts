/**
 * The network made by CNI plugins: what was asked of them is written down before they are asked,
 * durably, because what they keep (addresses in files, for one) survives a reboot as well.
 *
 *   record -> pin the namespace -> ADD -> record the result      DEL -> unpin -> remove the record
 *
 * So whatever a crash leaves has a record, and `recover` brings DEL to an end by it. A record
 * carries the configuration that it was made with: that of today may be another one.
 */
import { withContext, toRuntimeError, RuntimeError } from "../../base/errors.js";
import { failpoint } from "../../base/failpoints.js";
import { type SandboxId, shortId } from "../../base/ids.js";
import type { Logger } from "../../base/log.js";
import type { Fd } from "../../native/index.js";
import type { SandboxConfig, SandboxNetwork } from "../../state/sandbox.js";
import type { RecordStore } from "../../state/store.js";
import * as rt from "../netlink/rtnetlink.js";
import { NetlinkSocket } from "../netlink/socket.js";
import { capabilityArguments, cniArgs, unusedArguments } from "./arguments.js";
import { addToNetwork, askStatus, type Attachment, checkNetwork, collectGarbage, deleteFromNetwork } from "./chain.js";
import { describeConfig, type NetworkConfig } from "./config.js";
import type { NetnsPins } from "./netns-pins.js";
import { endOrphanedPlugins } from "./orphans.js";
import { findPlugin, type PluginSettings } from "./plugin.js";
import { toCniResult, toSandboxNetwork } from "./result.js";

const INTERFACE = "eth0";
/** Plugins at once where many attachments are looked at. */
const AT_ONCE = 4;
/** A kubelet asks for the status every few seconds. */
const STATUS_AGE_MS = 5_000;
const STATUS_TIMEOUT_MS = 10_000;

/** Durable; keyed by sandbox id. */
export interface AttachmentRecord extends Attachment {
  readonly sandboxId: SandboxId;
}

/** A sandbox that goes on, as its own record has it. */
export interface LiveSandbox {
  readonly id: SandboxId;
  readonly config: SandboxConfig;
  readonly network?: SandboxNetwork | undefined;
}

export interface CniRequest {
  /** Borrowed: the sandbox's network namespace, and a NETLINK_ROUTE socket inside it. */
  readonly netns: Fd;
  readonly netlink: Fd;
  readonly config: SandboxConfig;
}

interface Parts {
  readonly settings: PluginSettings;
  readonly store: RecordStore<AttachmentRecord>;
  readonly pins: NetnsPins;
  readonly log: Logger;
}

export class CniNetwork {
  readonly #parts: Parts;
  /** Tail of what goes on for a sandbox: CNI wants one operation at a time of a container (spec, section 3). */
  readonly #turns = new Map<SandboxId, Promise<unknown>>();
  #isClosed = false;
  #status: { readonly key: string; readonly atMs: number; readonly answer: Promise<void> } | undefined;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  has(sandboxId: SandboxId): boolean {
    return this.#parts.store.get(sandboxId) !== undefined;
  }

  /** On failure the record stays: `teardown` takes back what was made. */
  setup(sandboxId: SandboxId, network: NetworkConfig, request: CniRequest): Promise<SandboxNetwork> {
    return this.#inTurn(sandboxId, async () => {
      try {
        return await this.#add(sandboxId, network, request);
      } catch (err) {
        throw withContext(err, `set up the network of sandbox ${shortId(sandboxId)}`);
      }
    });
  }

  /** DEL of every plugin. An unknown or finished id succeeds; what fails is to be tried again. */
  teardown(sandboxId: SandboxId): Promise<void> {
    return this.#inTurn(sandboxId, async () => {
      const record = this.#parts.store.get(sandboxId);
      if (!record) return;
      try {
        await this.#delete(record);
      } catch (err) {
        throw withContext(err, `tear down the network of sandbox ${shortId(sandboxId)}`);
      }
    });
  }

  /** @throws RuntimeError where the network cannot take pods now: a plugin is missing, or says so itself */
  async assertReady(config: NetworkConfig): Promise<void> {
    const key = JSON.stringify(config);
    if (this.#status?.key !== key || Date.now() - this.#status.atMs > STATUS_AGE_MS) {
      const { settings } = this.#parts;
      const limited = { ...settings, timeoutMs: Math.min(settings.timeoutMs, STATUS_TIMEOUT_MS) };
      const answer = (async () => {
        await this.#assertInstalled(config);
        await askStatus(config, limited);
      })();
      this.#status = { key, atMs: Date.now(), answer };
    }
    await this.#status.answer;
  }

  /** Before anything is taken down: a plugin that a former daemon waited for would add while another one deletes. */
  async endOrphans(): Promise<void> {
    const { store, log } = this.#parts;
    const killed = await endOrphanedPlugins(new Set(store.list().map(({ body }) => body.containerId)));
    if (killed > 0) log.warn({ killed }, "killed CNI plugins that a former daemon had started");
  }

  /**
   * Ends what a crash has left: attachments of sandboxes that do not live, pins of nobody, and by
   * GC what plugins keep for attachments that are not in our records. A sandbox that lives and has
   * a pin but no record, which was damaged then, gets one again: GC would end it, and no DEL ever.
   *
   * @param current the configuration of today
   * @returns the sandboxes whose attachments are gone now
   */
  async recover(live: readonly LiveSandbox[], current: NetworkConfig | undefined): Promise<SandboxId[]> {
    const { store, pins, log } = this.#parts;
    const ids = new Set(live.map(({ id }) => id));
    for (const sandbox of live) await this.#rebuildRecord(sandbox, current);
    const records = store.list().map(({ body }) => body);
    const dead = records.filter(({ sandboxId }) => !ids.has(sandboxId));
    const removed: SandboxId[] = [];
    await eachOf(dead, async ({ sandboxId }) => {
      try {
        await this.teardown(sandboxId);
        removed.push(sandboxId);
      } catch (err) {
        const { kind, code, message } = toRuntimeError(err);
        log.error(
          { sandboxId, kind, code, reason: message },
          "could not take a pod off its CNI network, leaving it to RemovePodSandbox and the next start",
        );
      }
    });
    for (const id of await pins.list()) {
      if (!store.get(id) && !ids.has(id as SandboxId)) await pins.unpin(id);
    }
    await this.#collectGarbage(current);
    return removed;
  }

  /** CHECK of every attachment; what is wrong is logged, since a pod that runs is not ours to end for it. */
  async checkAll(): Promise<void> {
    const { store, pins, settings, log } = this.#parts;
    await eachOf(store.list(), async ({ body }) => {
      await this.#inTurn(body.sandboxId, async () => {
        const record = store.get(body.sandboxId);
        if (!record?.result || this.#isClosed) return;
        try {
          await checkNetwork(record, await pins.boundPath(record.sandboxId), settings);
        } catch (err) {
          const { kind, code, message } = toRuntimeError(err);
          log.warn(
            { sandboxId: record.sandboxId, kind, code, reason: message },
            "the network of a running pod is not as CNI made it",
          );
        }
      });
    });
  }

  /** Attachments stay. */
  close(): void {
    this.#isClosed = true;
  }

  async removeAll(): Promise<void> {
    for (const { body } of this.#parts.store.list()) await this.teardown(body.sandboxId);
    await this.#parts.pins.close();
  }

  async #add(sandboxId: SandboxId, network: NetworkConfig, request: CniRequest): Promise<SandboxNetwork> {
    const { store, pins, settings, log } = this.#parts;
    const former = store.get(sandboxId);
    if (former) await this.#delete(former);
    // Ahead of the record: where a plugin is not there none of them runs, and no DEL waits for it.
    await this.#assertInstalled(network);
    const record: AttachmentRecord = {
      sandboxId,
      containerId: sandboxId,
      interfaceName: INTERFACE,
      args: cniArgs(sandboxId, request.config),
      capabilities: capabilityArguments(request.config),
      config: network,
    };
    for (const argument of unusedArguments(network.plugins, record.capabilities)) {
      log.warn(
        { sandboxId, argument, network: network.name },
        "no CNI plugin of the network takes what the pod asks for, going on without",
      );
    }
    await store.put(sandboxId, record);
    failpoint("after record attachment");
    const path = await pins.pin(sandboxId, request.netns);
    failpoint("after pin netns");
    await new NetlinkSocket(request.netlink).run("switch the pod's loopback on", [rt.setLinkUp(rt.LOOPBACK_INDEX)]);
    const result = await addToNetwork(record, path, settings);
    failpoint("after cni add");
    await store.put(sandboxId, { ...record, result }, "remember");
    const made = toSandboxNetwork(result, INTERFACE);
    if (made.ips.length === 0) {
      throw new RuntimeError(`CNI network ${describeConfig(network)}: its result has no address for "${INTERFACE}"`, {
        kind: "internal",
        code: "CNI_BAD_OUTPUT",
      });
    }
    return made;
  }

  /** @throws RuntimeError `failed-precondition` CNI_PLUGIN_MISSING */
  async #assertInstalled({ plugins, name }: NetworkConfig): Promise<void> {
    for (const { type } of plugins) await findPlugin(type, name, this.#parts.settings.pluginDirs);
  }

  /** By today's configuration, the one of its network that is still known; nothing where there is none. */
  async #rebuildRecord({ id, config, network }: LiveSandbox, current: NetworkConfig | undefined): Promise<void> {
    const { store, pins, log } = this.#parts;
    const path = await pins.boundPath(id);
    if (path === "" || store.get(id)) return;
    if (!current || !network) {
      log.error(
        { sandboxId: id },
        "a pod's CNI attachment is not recorded and there is no configuration to make it by",
      );
      return;
    }
    await store.put(id, {
      sandboxId: id,
      containerId: id,
      interfaceName: INTERFACE,
      args: cniArgs(id, config),
      capabilities: capabilityArguments(config),
      config: current,
      result: toCniResult(network, path, current.version),
    });
    log.warn({ sandboxId: id, network: current.name }, "the record of a pod's CNI attachment was lost, made it again");
  }

  async #delete(record: AttachmentRecord): Promise<void> {
    const { store, pins, settings } = this.#parts;
    failpoint("cni del");
    await deleteFromNetwork(record, await pins.boundPath(record.sandboxId), settings);
    failpoint("after cni del");
    await pins.unpin(record.sandboxId);
    failpoint("after unpin netns");
    await store.remove(record.sandboxId);
  }

  /** Of today's network and of every one that pods still are on. */
  async #collectGarbage(current: NetworkConfig | undefined): Promise<void> {
    const { store, settings, log } = this.#parts;
    const records = store.list().map(({ body }) => body);
    const networks = new Map(records.map(({ config }) => [config.name, config]));
    if (current) networks.set(current.name, current);
    for (const config of networks.values()) {
      const valid = records.filter((record) => record.config.name === config.name);
      for (const err of await collectGarbage(config, valid, settings)) {
        const { kind, code, message } = toRuntimeError(err);
        log.warn(
          { network: config.name, kind, code, reason: message },
          "a CNI plugin could not collect its garbage, going on",
        );
      }
    }
  }

  #inTurn<T>(sandboxId: SandboxId, work: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(sandboxId) ?? Promise.resolve();
    const done = before.then(work, work);
    this.#turns.set(sandboxId, done);
    const forget = () => {
      if (this.#turns.get(sandboxId) === done) this.#turns.delete(sandboxId);
    };
    done.then(forget, forget);
    return done;
  }
}

async function eachOf<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const rest = [...items];
  const worker = async (): Promise<void> => {
    for (let item = rest.shift(); item !== undefined; item = rest.shift()) await work(item);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}
