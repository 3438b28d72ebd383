/**
 * The network of sandboxes, whoever makes it: the built-in one, or CNI plugins where they are
 * configured. Decided anew for each sandbox, which then stays with what it was made by; so a
 * configuration may come and go while the daemon runs.
 */
import { RuntimeError } from "../base/errors.js";
import type { SandboxId } from "../base/ids.js";
import type { Logger } from "../base/log.js";
import type { SandboxConfig, SandboxNetwork } from "../state/sandbox.js";
import type { RecordStore } from "../state/store.js";
import type { NetworkSettings } from "./bridge.js";
import { type AttachmentRecord, CniNetwork, type CniRequest, type LiveSandbox } from "./cni/cni-network.js";
import type { NetworkConfig } from "./cni/config.js";
import { ConfigSource } from "./cni/config-source.js";
import { NetnsPins } from "./cni/netns-pins.js";
import type { PodNamespaces } from "./pod-links.js";
import type { Reserved } from "./planned-link.js";
import { type NetworkRecord, PodNetwork } from "./pod-network.js";

export type { PlannedLink, Reserved } from "./planned-link.js";

export interface CniSettings {
  readonly configDir: string;
  /** Instead of the directory: the one configuration. */
  readonly configFile?: string | undefined;
  readonly pluginDirs: readonly string[];
  readonly timeoutMs: number;
  /** Where namespaces are bound for plugins. */
  readonly netnsDir: string;
}

export interface NetworksOptions {
  /** `auto`: CNI where a configuration is there, else built in. */
  readonly mode: "auto" | "builtin" | "cni";
  readonly builtin: NetworkSettings;
  readonly cni: CniSettings;
  readonly leases: RecordStore<NetworkRecord>;
  readonly attachments: RecordStore<AttachmentRecord>;
  readonly log: Logger;
}

/** As CRI's condition NetworkReady has it. */
export interface NetworkReadiness {
  readonly holds: boolean;
  /** One word; empty where it holds. */
  readonly reason: string;
  readonly message: string;
}

const READY: NetworkReadiness = { holds: true, reason: "", message: "" };
/** A kubelet's word for it. */
const NOT_READY = "NetworkPluginNotReady";

export class Networks {
  readonly #options: NetworksOptions;
  readonly #source: ConfigSource | undefined;
  readonly #cni: CniNetwork;
  /** Opened where it is needed: with CNI there is no bridge, and forwarding stays as it is. */
  #builtin: PodNetwork | undefined;
  #opening: Promise<PodNetwork> | undefined;

  private constructor(options: NetworksOptions) {
    const { mode, cni, attachments, log } = options;
    this.#options = options;
    this.#source =
      mode === "builtin"
        ? undefined
        : new ConfigSource({ dir: cni.configDir, file: cni.configFile, skipsPodman: mode === "auto", log });
    this.#cni = new CniNetwork({ settings: cni, store: attachments, pins: new NetnsPins(cni.netnsDir), log });
  }

  /** @throws RuntimeError as `PodNetwork.open`, where the built-in network is needed now */
  static async open(options: NetworksOptions): Promise<Networks> {
    const networks = new Networks(options);
    await networks.#cni.endOrphans();
    const chosen = await networks.#choose();
    // Former leases and the former bridge are looked after, whoever makes the network now.
    if (chosen.by === "builtin" || options.leases.list().length > 0) await networks.#openBuiltin();
    return networks;
  }

  /**
   * Gives a sandbox what its network needs of the host, ahead of its namespaces: addresses, host ports and
   * the link of the built-in one, `undefined` with CNI. Where it fails, `teardown` takes back what is left.
   *
   * @throws RuntimeError `failed-precondition` CNI_NOT_CONFIGURED, and what the built-in network refuses
   */
  async reserve(
    sandboxId: SandboxId,
    { portMappings }: Pick<SandboxConfig, "portMappings">,
  ): Promise<Reserved | undefined> {
    const { by, refusal } = await this.#choose();
    if (refusal) throw refusal;
    if (by === "cni") return undefined;
    const builtin = this.#builtin ?? (await this.#openBuiltin());
    return builtin.reserve(sandboxId, portMappings);
  }

  /** Begins to write down what was reserved: see `PodNetwork.record`. */
  record(sandboxId: SandboxId): void {
    this.#builtin?.record(sandboxId);
  }

  /**
   * Gives a sandbox its network, after `reserve`. Where it fails, `teardown` takes back what is left.
   *
   * @throws RuntimeError what the built-in network and plugins refuse
   */
  async setup(sandboxId: SandboxId, request: CniRequest & PodNamespaces): Promise<SandboxNetwork> {
    if (this.#builtin?.has(sandboxId)) return this.#builtin.setup(sandboxId, request);
    const { by, config, refusal } = await this.#choose();
    if (refusal) throw refusal;
    if (by === "cni" && config) return this.#cni.setup(sandboxId, config, request);
    // The configuration went meanwhile.
    const builtin = this.#builtin ?? (await this.#openBuiltin());
    await builtin.reserve(sandboxId, request.config.portMappings);
    return builtin.setup(sandboxId, request);
  }

  /** Cuts a sandbox off. An unknown or finished id succeeds; what fails is to be tried again. */
  async teardown(sandboxId: SandboxId): Promise<void> {
    if (this.#cni.has(sandboxId)) await this.#cni.teardown(sandboxId);
    await this.#builtin?.teardown(sandboxId);
  }

  /** Settles when nothing of the sandbox's network is left in the kernel. */
  async gone(sandboxId: SandboxId): Promise<void> {
    await this.#builtin?.gone(sandboxId);
  }

  /** Compares what is remembered with the sandboxes that live, and removes what belongs to none. */
  async recover(live: readonly LiveSandbox[]): Promise<void> {
    const { config } = await this.#choose();
    try {
      await this.#cni.recover(live, config);
    } finally {
      await this.#builtin?.recover(live.map(({ id }) => id).filter((id) => !this.#cni.has(id)));
    }
    // Takes a process for each plugin of each pod: nobody waits for it.
    void this.#cni.checkAll();
  }

  /** Whether new pods can have a network now; asked at every Status of CRI. */
  async readiness(): Promise<NetworkReadiness> {
    try {
      const { by, config, refusal } = await this.#choose();
      if (refusal) throw refusal;
      if (by === "cni" && config) await this.#cni.assertReady(config);
      return READY;
    } catch (err) {
      return { holds: false, reason: NOT_READY, message: err instanceof Error ? err.message : String(err) };
    }
  }

  /** Pods keep their network, unless all is to be removed. */
  async close(options: { removeAll: boolean }): Promise<void> {
    this.#source?.close();
    this.#cni.close();
    try {
      if (options.removeAll) await this.#cni.removeAll();
    } finally {
      await this.#builtin?.close(options);
    }
  }

  async #choose() {
    return this.#decide(await this.#source?.current());
  }

  #decide(lookup: { config: NetworkConfig | undefined; problem: RuntimeError | undefined } | undefined) {
    const { mode, cni } = this.#options;
    if (!lookup) return { by: "builtin" as const, config: undefined, refusal: undefined };
    if (lookup.config) return { by: "cni" as const, config: lookup.config, refusal: undefined };
    if (mode === "auto" && !lookup.problem) return { by: "builtin" as const, config: undefined, refusal: undefined };
    const where = cni.configFile ?? cni.configDir;
    const refusal =
      lookup.problem ??
      new RuntimeError(`find a CNI configuration: none in "${where}" (settings: network.cni)`, {
        kind: "failed-precondition",
        code: "CNI_NOT_CONFIGURED",
      });
    return { by: "cni" as const, config: undefined, refusal };
  }

  #openBuiltin(): Promise<PodNetwork> {
    const { builtin, leases, log } = this.#options;
    this.#opening ??= PodNetwork.open(builtin, leases, log).then(
      (opened) => {
        this.#builtin = opened;
        return opened;
      },
      (err: unknown) => {
        this.#opening = undefined;
        throw err;
      },
    );
    return this.#opening;
  }
}
