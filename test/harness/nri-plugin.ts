/**
 * An NRI plugin for tests: the other end of what src/nri speaks, with a function for each method.
 */
import { writeFileSync } from "node:fs";
import { createConnection, type Socket } from "node:net";
import { join } from "node:path";
import {
  ConfigureResponse,
  CreateContainerRequest,
  CreateContainerResponse,
  PostCreateContainerRequest,
  RegisterPluginRequest,
  StateChangeEvent,
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
} from "../../src/nri/generated/nri/v1alpha1/nri.js";
import { Multiplex } from "../../src/nri/multiplex.js";
import { TtrpcClient, type TtrpcMethod, TtrpcServer } from "../../src/nri/ttrpc.js";

interface Codec {
  readonly request: { decode(bytes: Buffer): object };
  readonly response?: { fromPartial(part: object): object; encode(message: never): { finish(): Uint8Array } };
}

const SUBJECT = { request: PostCreateContainerRequest } as const;
const METHODS = {
  Synchronize: { request: SynchronizeRequest, response: SynchronizeResponse },
  Shutdown: SUBJECT,
  RunPodSandbox: SUBJECT,
  UpdatePodSandbox: { request: UpdatePodSandboxRequest },
  PostUpdatePodSandbox: SUBJECT,
  StopPodSandbox: SUBJECT,
  RemovePodSandbox: SUBJECT,
  CreateContainer: { request: CreateContainerRequest, response: CreateContainerResponse },
  PostCreateContainer: SUBJECT,
  StartContainer: SUBJECT,
  PostStartContainer: SUBJECT,
  UpdateContainer: { request: UpdateContainerRequest, response: UpdateContainerResponse },
  PostUpdateContainer: SUBJECT,
  StopContainer: { request: PostCreateContainerRequest, response: StopContainerResponse },
  RemoveContainer: SUBJECT,
  StateChange: { request: StateChangeEvent },
  ValidateContainerAdjustment: {
    request: ValidateContainerAdjustmentRequest,
    response: ValidateContainerAdjustmentResponse,
  },
} as const satisfies Record<string, Codec>;

export type NriMethod = keyof typeof METHODS;

/** What a test reads of any request; fields that a method does not have are `undefined`. */
export type NriRequest = Partial<
  CreateContainerRequest & SynchronizeRequest & UpdateContainerRequest & ValidateContainerAdjustmentRequest
> & { readonly event?: number };

export interface NriPluginOptions {
  readonly index?: string;
  readonly name?: string;
  /** 0: all but validation. */
  readonly events?: number;
  readonly failRequest?: boolean;
  readonly keepConnected?: boolean;
  /** What a method answers; what it throws is a refusal. Methods that are not here answer with nothing. */
  readonly methods?: {
    readonly [M in NriMethod]?: (request: NriRequest) => object | Promise<object | undefined> | undefined | void;
  };
  /** Methods that this plugin does not have. */
  readonly without?: readonly NriMethod[];
}

const VALIDATE_BIT = 1 << 13;

export class NriPlugin {
  /** What it was called for, in order. */
  readonly calls: { readonly method: NriMethod; readonly request: NriRequest }[] = [];
  readonly socket: Socket;
  readonly #runtime: TtrpcClient;
  readonly closed: Promise<void>;

  private constructor(socketPath: string, options: NriPluginOptions) {
    this.socket = createConnection(socketPath);
    let onClosed: () => void = () => undefined;
    this.closed = new Promise((resolve) => {
      onClosed = resolve;
    });
    const multiplex = new Multiplex(this.socket, {
      onPayload: (connection, payload) => (connection === 1 ? server.take(payload) : this.#runtime.take(payload)),
      onClose: () => onClosed(),
    });
    const server = new TtrpcServer("nri.pkg.api.v1alpha1.Plugin", this.#methods(options), (message) =>
      multiplex.send(1, message),
    );
    this.#runtime = new TtrpcClient("nri.pkg.api.v1alpha1.Runtime", (message) => multiplex.send(2, message));
  }

  /** One that has registered and been synchronized. */
  static async connect(socketPath: string, options: NriPluginOptions = {}): Promise<NriPlugin> {
    const plugin = new NriPlugin(socketPath, options);
    const request = RegisterPluginRequest.fromPartial({
      pluginName: options.name ?? "test",
      pluginIdx: options.index ?? "10",
    });
    await plugin.#runtime.call("RegisterPlugin", RegisterPluginRequest.encode(request).finish(), 10_000);
    while (!plugin.calls.some(({ method }) => method === "Synchronize")) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      if (plugin.socket.destroyed) throw new Error("the runtime closed the connection");
    }
    return plugin;
  }

  /** Names of the methods it was called for, but Synchronize. */
  get heard(): NriMethod[] {
    return this.calls.map(({ method }) => method).filter((method) => method !== "Synchronize");
  }

  async updateContainers(part: Parameters<typeof UpdateContainersRequest.fromPartial>[0]) {
    const request = UpdateContainersRequest.encode(UpdateContainersRequest.fromPartial(part)).finish();
    return UpdateContainersResponse.decode(await this.#runtime.call("UpdateContainers", request, 10_000));
  }

  close(): void {
    this.socket.destroy();
  }

  #methods(options: NriPluginOptions): Record<string, TtrpcMethod> {
    const methods: Record<string, TtrpcMethod> = {
      Configure: async () =>
        ConfigureResponse.encode({
          events: options.events ?? (1 << 14) - 1 - VALIDATE_BIT,
          failurePolicy: {
            failRequest: options.failRequest ?? false,
            keepConnected: options.keepConnected ?? false,
          },
        }).finish(),
    };
    for (const [name, codec] of Object.entries(METHODS) as [NriMethod, Codec][]) {
      if (options.without?.includes(name)) continue;
      methods[name] = async (payload) => {
        const request = codec.request.decode(payload) as NriRequest;
        this.calls.push({ method: name, request });
        const answer = await options.methods?.[name]?.(request);
        if (!codec.response) return new Uint8Array();
        return codec.response.encode(codec.response.fromPartial({ more: request.more, ...answer }) as never).finish();
      };
    }
    return methods;
  }
}

/** A file in a folder of `cdi.spec-dirs`: the device `minke.test/thing=one`, for plugins to ask for. */
export function writeCdiSpec(cdiDir: string): void {
  writeFileSync(
    join(cdiDir, "test.json"),
    JSON.stringify({
      cdiVersion: "0.6.0",
      kind: "minke.test/thing",
      devices: [{ name: "one", containerEdits: { env: ["CDI=injected"] } }],
    }),
  );
}
