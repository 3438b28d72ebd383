/**
 * CRI over its socket: every method as a promise, with whatever of the request a test cares for.
 */
import { type CallOptions, type ClientReadableStream, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import {
  ContainerConfig,
  type ContainerStatus,
  ImageServiceDefinition,
  PodSandboxConfig,
  RuntimeServiceDefinition,
} from "../../src/cri/generated/runtime/v1/api.js";
import { type Method, METHODS, type RequestOf, type ResponseOf } from "../../src/cri/verbs.js";
import { type ClientOf, clientOf } from "./grpc-client.mjs";

export const RuntimeServiceClient = clientOf(RuntimeServiceDefinition);
export const ImageServiceClient = clientOf(ImageServiceDefinition);
export type RuntimeServiceClient = ClientOf<typeof RuntimeServiceDefinition>;
export type ImageServiceClient = ClientOf<typeof ImageServiceDefinition>;

export type SandboxFields = Parameters<typeof PodSandboxConfig.fromPartial>[0];
export type ContainerFields = Parameters<typeof ContainerConfig.fromPartial>[0];

/** What a failed call says: gRPC's status and minke's own code. */
export interface CriError {
  readonly status: number;
  readonly code: string;
  readonly message: string;
}

let made = 0;

export class CriClient {
  readonly #runtime: RuntimeServiceClient;
  readonly #images: ImageServiceClient;

  constructor(socketPath: string) {
    const options = {
      // As a kubelet has it (cri-client, "maxMsgSize").
      "grpc.max_receive_message_length": 16 * 1024 * 1024,
      // A daemon that is started again is found at once; by default the wait grows to two minutes.
      "grpc.initial_reconnect_backoff_ms": 50,
      "grpc.max_reconnect_backoff_ms": 500,
    };
    this.#runtime = new RuntimeServiceClient(`unix:${socketPath}`, credentials.createInsecure(), options);
    this.#images = new ImageServiceClient(`unix:${socketPath}`, credentials.createInsecure(), options);
  }

  /** A unary method; what is not given has its proto default. Throws a ServiceError. */
  call<M extends Method>(
    method: M,
    fields: Partial<RequestOf<M>> = {},
    deadlineMs = Number.POSITIVE_INFINITY,
  ): Promise<ResponseOf<M>> {
    const empty = METHODS[method].requestType.decode(Buffer.alloc(0)) as RequestOf<M>;
    const client = (method in ImageServiceClient.service ? this.#images : this.#runtime) as unknown as Record<
      M,
      (
        request: RequestOf<M>,
        metadata: Metadata,
        options: CallOptions,
        done: (err: ServiceError | null, response: ResponseOf<M>) => void,
      ) => unknown
    >;
    return new Promise((resolve, reject) => {
      const options = { deadline: Date.now() + deadlineMs };
      client[method].bind(client)({ ...empty, ...fields }, new Metadata(), options, (err, response) =>
        err ? reject(err) : resolve(response),
      );
    });
  }

  /** What a stream has sent so far, and how to end it. */
  stream<M extends Method>(method: M): { readonly received: ResponseOf<M>[]; readonly cancel: () => void } {
    const request = METHODS[method].requestType.decode(Buffer.alloc(0)) as RequestOf<M>;
    const client = this.#runtime as unknown as Record<
      M,
      (request: RequestOf<M>) => ClientReadableStream<ResponseOf<M>>
    >;
    const call = client[method].bind(client)(request);
    const received: ResponseOf<M>[] = [];
    call.on("data", (response: ResponseOf<M>) => received.push(response));
    call.on("error", () => undefined);
    return { received, cancel: () => call.cancel() };
  }

  /** All that a stream of limited length sends. */
  async all<M extends Method>(method: M, fields: Partial<RequestOf<M>> = {}): Promise<ResponseOf<M>[]> {
    const empty = METHODS[method].requestType.decode(Buffer.alloc(0)) as RequestOf<M>;
    const client = (method in ImageServiceClient.service ? this.#images : this.#runtime) as unknown as Record<
      M,
      (request: RequestOf<M>) => ClientReadableStream<ResponseOf<M>>
    >;
    const received: ResponseOf<M>[] = [];
    for await (const response of client[method].bind(client)({ ...empty, ...fields })) {
      received.push(response as ResponseOf<M>);
    }
    return received;
  }

  /** The error of a call that has to fail. */
  async refusal<M extends Method>(method: M, fields: Partial<RequestOf<M>> = {}): Promise<CriError> {
    try {
      await this.call(method, fields);
    } catch (err) {
      const { code, details, metadata } = err as ServiceError;
      return { status: code, code: String(metadata.get("minke-code")[0] ?? ""), message: details };
    }
    throw new Error(`${method} succeeded`);
  }

  async runSandbox(fields: SandboxFields = {}, runtimeHandler = ""): Promise<string> {
    const name = `cri-${process.pid}-${made++}`;
    const config = PodSandboxConfig.fromPartial({
      metadata: { name, uid: name, namespace: "test", attempt: 0 },
      ...fields,
    });
    return (await this.call("runPodSandbox", { config, runtimeHandler })).podSandboxId;
  }

  /** Creates it from busybox, with a name of its own, and starts it. */
  async startContainer(podSandboxId: string, fields: ContainerFields = {}): Promise<string> {
    const containerId = await this.createContainer(podSandboxId, fields);
    await this.call("startContainer", { containerId });
    return containerId;
  }

  async createContainer(podSandboxId: string, fields: ContainerFields = {}): Promise<string> {
    const config = ContainerConfig.fromPartial({
      metadata: { name: `c-${made++}`, attempt: 0 },
      image: { image: "minke.test/busybox:1" },
      command: ["sleep", "1000"],
      ...fields,
    });
    return (await this.call("createContainer", { podSandboxId, config })).containerId;
  }

  async status(containerId: string): Promise<ContainerStatus> {
    const { status } = await this.call("containerStatus", { containerId });
    if (!status) throw new Error("an answer without a status");
    return status;
  }

  /** Standard output of a command that has to end with 0. */
  async output(containerId: string, ...cmd: string[]): Promise<string> {
    const { exitCode, stdout, stderr } = await this.call("execSync", { containerId, cmd, timeout: 10n });
    if (exitCode !== 0) throw new Error(`${cmd.join(" ")} ended with ${exitCode}: ${stderr.toString()}`);
    return stdout.toString();
  }

  async removeSandbox(podSandboxId: string): Promise<void> {
    await this.call("stopPodSandbox", { podSandboxId });
    await this.call("removePodSandbox", { podSandboxId });
  }

  close(): void {
    this.#runtime.close();
    this.#images.close();
  }
}
