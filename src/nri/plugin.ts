/**
 * One plugin: its connection, its registration, and calls to it under its time-out and failure policy.
 *
 *   connected --RegisterPlugin--> registered --Configure--> configured --Synchronize--> called --close--> gone
 *
 * Connection 1 of the multiplex carries our calls, connection 2 the plugin's. Knows no container.
 */
import type { Socket } from "node:net";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import {
  ConfigureRequest,
  ConfigureResponse,
  Event,
  type FailurePolicy,
  RegisterPluginRequest,
} from "./generated/nri/v1alpha1/nri.js";
import type { PluginIdentity } from "./installed-plugins.js";
import { Multiplex, protocolError } from "./multiplex.js";
import { CallRefused, decoded, STATUS, TtrpcClient, type TtrpcMethod, TtrpcServer } from "./ttrpc.js";

const CONNECTION = { plugin: 1, runtime: 2 } as const;
const SERVICE = { plugin: "nri.pkg.api.v1alpha1.Plugin", runtime: "nri.pkg.api.v1alpha1.Runtime" } as const;
/** The NRI whose messages ours are. */
const NRI_VERSION = "v0.12.5";
const ALL_EVENTS = (1 << (Event.LAST - 1)) - 1;

/** What plugins are called for. `StateChange` is how plugins older than a method hear of its event. */
export const METHODS = {
  RunPodSandbox: { event: Event.RUN_POD_SANDBOX, wasStateChange: true },
  UpdatePodSandbox: { event: Event.UPDATE_POD_SANDBOX, wasStateChange: false },
  PostUpdatePodSandbox: { event: Event.POST_UPDATE_POD_SANDBOX, wasStateChange: true },
  StopPodSandbox: { event: Event.STOP_POD_SANDBOX, wasStateChange: true },
  RemovePodSandbox: { event: Event.REMOVE_POD_SANDBOX, wasStateChange: true },
  CreateContainer: { event: Event.CREATE_CONTAINER, wasStateChange: false },
  PostCreateContainer: { event: Event.POST_CREATE_CONTAINER, wasStateChange: true },
  StartContainer: { event: Event.START_CONTAINER, wasStateChange: true },
  PostStartContainer: { event: Event.POST_START_CONTAINER, wasStateChange: true },
  UpdateContainer: { event: Event.UPDATE_CONTAINER, wasStateChange: false },
  PostUpdateContainer: { event: Event.POST_UPDATE_CONTAINER, wasStateChange: true },
  StopContainer: { event: Event.STOP_CONTAINER, wasStateChange: false },
  RemoveContainer: { event: Event.REMOVE_CONTAINER, wasStateChange: true },
  ValidateContainerAdjustment: { event: Event.VALIDATE_CONTAINER_ADJUSTMENT, wasStateChange: false },
} as const;

export type PluginMethod = keyof typeof METHODS;

export interface PluginOptions {
  readonly registrationTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly runtimeVersion: string;
  /** Of one that was started here; others say it themselves. */
  readonly identity?: PluginIdentity;
  /** Text that the plugin is configured with. */
  configuration(index: string, name: string): Promise<string>;
  /** Answers the plugin's UpdateContainers. */
  updateContainers(plugin: Plugin, payload: Buffer): Promise<Uint8Array>;
  readonly log: Logger;
}

export class Plugin {
  readonly #options: PluginOptions;
  readonly #multiplex: Multiplex;
  readonly #client: TtrpcClient;
  readonly #server: TtrpcServer;
  #name = "";
  #index = "";
  #events = 0;
  #policy: FailurePolicy = { failRequest: false, keepConnected: false };
  #registered: { readonly resolve: () => void; readonly reject: (err: Error) => void } | undefined;
  #onClose: () => void = () => undefined;

  constructor(socket: Socket, options: PluginOptions) {
    this.#options = options;
    if (options.identity) ({ name: this.#name, index: this.#index } = options.identity);
    this.#multiplex = new Multiplex(socket, {
      onPayload: (connection, payload) => this.#take(connection, payload),
      onClose: (reason) => this.#closed(reason),
    });
    const sendOn = (connection: number) => (message: Buffer) => this.#multiplex.send(connection, message);
    this.#client = new TtrpcClient(SERVICE.plugin, sendOn(CONNECTION.plugin));
    const methods: Record<string, TtrpcMethod> = {
      RegisterPlugin: async (payload) => this.#register(payload),
      UpdateContainers: (payload) => options.updateContainers(this, payload),
    };
    this.#server = new TtrpcServer(SERVICE.runtime, methods, sendOn(CONNECTION.runtime));
  }

  /** `10-name`: how messages and other plugins name it. */
  get name(): string {
    return `${this.#index}-${this.#name}`;
  }

  get baseName(): string {
    return this.#name;
  }

  get index(): string {
    return this.#index;
  }

  get isClosed(): boolean {
    return this.#multiplex.isClosed;
  }

  /** @param callback called once, when the plugin is gone */
  onClose(callback: () => void): void {
    this.#onClose = callback;
  }

  close(): void {
    this.#multiplex.close();
  }

  wants(method: PluginMethod): boolean {
    return (this.#events & (1 << (METHODS[method].event - 1))) !== 0;
  }

  /** Waits for the plugin to register, and configures it. @throws RuntimeError where it does not, or not in time */
  async start(): Promise<void> {
    const { registrationTimeoutMs, requestTimeoutMs, runtimeVersion } = this.#options;
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        this.#registered = { resolve, reject };
        timer = setTimeout(
          () => reject(protocolError(`it did not register within ${registrationTimeoutMs} ms`)),
          registrationTimeoutMs,
        );
      });
    } finally {
      clearTimeout(timer);
      this.#registered = undefined;
    }
    const request = ConfigureRequest.encode({
      config: await this.#options.configuration(this.#index, this.#name),
      runtimeName: "minke",
      runtimeVersion,
      registrationTimeout: BigInt(registrationTimeoutMs),
      requestTimeout: BigInt(requestTimeoutMs),
      NRIVersion: NRI_VERSION,
    }).finish();
    const response = await this.#client.call("Configure", request, requestTimeoutMs);
    const { events, failurePolicy } = decoded(() => ConfigureResponse.decode(response));
    if ((events & ~ALL_EVENTS) !== 0)
      throw protocolError(`it wants events that there are not: 0x${events.toString(16)}`);
    this.#events = events === 0 ? ALL_EVENTS : events;
    if (failurePolicy) this.#policy = failurePolicy;
  }

  /** The last step of a registration, and as long as one may take: a plugin looks at all that there is then. */
  synchronize(payload: Uint8Array): Promise<Buffer> {
    const { registrationTimeoutMs, requestTimeoutMs } = this.#options;
    return this.#client.call("Synchronize", payload, Math.max(registrationTimeoutMs, requestTimeoutMs));
  }

  /**
   * Calls the plugin for an event; `undefined` where it does not want the event, or failed and the request
   * goes on without it: what the plugin's own failure policy says.
   *
   * @param decode what it throws is the plugin's failure
   * @param stateChange the event's StateChange, for plugins without the method
   * @throws RuntimeError `failed-precondition` NRI_PLUGIN_REFUSED, what the plugin answered; `unavailable`
   *   NRI_PLUGIN_FAILED or `deadline-exceeded` NRI_PLUGIN_TIMEOUT where its policy is to fail the request
   */
  async request<T>(
    method: PluginMethod,
    payload: Uint8Array,
    decode: (response: Buffer) => T,
    stateChange?: () => Uint8Array,
  ): Promise<T | undefined> {
    if (!this.wants(method) || this.isClosed) return undefined;
    const timeoutMs = this.#options.requestTimeoutMs;
    try {
      try {
        const response = await this.#client.call(method, payload, timeoutMs);
        return decoded(() => decode(response));
      } catch (err) {
        if (!(err instanceof CallRefused) || err.status !== STATUS.unimplemented) throw err;
        if (METHODS[method].wasStateChange && stateChange) {
          await this.#client.call("StateChange", stateChange(), timeoutMs);
        }
        return undefined;
      }
    } catch (err) {
      return this.#failed(method, err);
    }
  }

  #failed(method: PluginMethod, err: unknown): undefined {
    if (err instanceof CallRefused) {
      throw new RuntimeError(`NRI plugin "${this.name}" refuses ${method}: ${err.message}`, {
        kind: "failed-precondition",
        code: "NRI_PLUGIN_REFUSED",
        cause: err,
      });
    }
    const failure = toRuntimeError(err);
    const isTimeout = failure.code === "NRI_PLUGIN_TIMEOUT";
    if (!isTimeout || !this.#policy.keepConnected) this.#multiplex.close(failure);
    if (this.#policy.failRequest || method === "ValidateContainerAdjustment") {
      throw new RuntimeError(`NRI plugin "${this.name}": ${failure.message}`, {
        kind: failure.kind,
        code: failure.code,
        cause: err,
      });
    }
    this.#options.log.warn(
      { plugin: this.name, method, code: failure.code, err: failure.message },
      "an NRI plugin failed, going on without it",
    );
    return undefined;
  }

  #register(payload: Buffer): Uint8Array {
    const asked = decoded(() => RegisterPluginRequest.decode(payload));
    const { name: pluginName, index: pluginIdx } = this.#options.identity ?? {
      name: asked.pluginName,
      index: asked.pluginIdx,
    };
    const refused = (why: string) => {
      const err = protocolError(why);
      // After the answer, which says why.
      setImmediate(() => this.#registered?.reject(err));
      return err;
    };
    if (!this.#registered) throw protocolError("it is registered already");
    if (!/^[^\s/]{1,128}$/.test(pluginName)) throw refused(`"${pluginName}" is no name of a plugin`);
    if (!/^\d{2}$/.test(pluginIdx)) throw refused(`"${pluginIdx}" is no index of a plugin: two digits`);
    this.#name = pluginName;
    this.#index = pluginIdx;
    const { resolve } = this.#registered;
    setImmediate(resolve);
    return new Uint8Array();
  }

  #take(connection: number, payload: Buffer): void {
    try {
      if (connection === CONNECTION.plugin) this.#client.take(payload);
      else if (connection === CONNECTION.runtime) this.#server.take(payload);
    } catch (err) {
      this.#multiplex.close(toRuntimeError(err));
    }
  }

  #closed(reason: RuntimeError | undefined): void {
    const why = reason ?? protocolError("its connection ended");
    this.#client.close(why);
    this.#registered?.reject(why);
    this.#onClose();
  }
}
