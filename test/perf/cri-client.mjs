/** CRI over a socket, for benchmarks: every unary verb as a promise, with the project's own messages. */
import { credentials } from "@grpc/grpc-js";
import {
  ContainerConfig,
  ImageServiceClient,
  PodSandboxConfig,
  RuntimeServiceClient,
} from "../../dist/cri/generated/runtime/v1/api.js";

/** @param {string} socketPath */
export function criClient(socketPath) {
  const runtime = new RuntimeServiceClient(`unix:${socketPath}`, credentials.createInsecure());
  const images = new ImageServiceClient(`unix:${socketPath}`, credentials.createInsecure());
  /** @param {string} verb such as "runPodSandbox" @param {object} fields what is not given has its default */
  const call = (verb, fields = {}) => {
    const client = verb in ImageServiceClient.service ? images : runtime;
    const definition = client.constructor.service[verb];
    const request = { ...definition.requestDeserialize(Buffer.alloc(0)), ...fields };
    if (request.sandboxConfig) request.sandboxConfig = PodSandboxConfig.fromPartial(request.sandboxConfig);
    if (request.config) {
      const message = verb === "createContainer" ? ContainerConfig : PodSandboxConfig;
      request.config = message.fromPartial(request.config);
    }
    return new Promise((resolve, reject) => {
      client[verb](request, (err, answer) => (err ? reject(err) : resolve(answer)));
    });
  };
  const close = () => {
    runtime.close();
    images.close();
  };
  return { call, close };
}
