/**
 * The client of `npm run bench -- cri` in Node, with the project's own messages: for a machine without Go, and to see
 * what a client costs. cri-client/main.go does the same as a kubelet does it.
 */
import { createRequire } from "node:module";
import { credentials } from "@grpc/grpc-js";
import {
  ContainerConfig,
  ImageServiceDefinition,
  PodSandboxConfig,
  RuntimeServiceDefinition,
} from "../../dist/cri/generated/runtime/v1/api.js";
import { clientOf } from "../harness/grpc-client.mjs";

const RuntimeServiceClient = clientOf(RuntimeServiceDefinition);
const ImageServiceClient = clientOf(ImageServiceDefinition);

const { version } = createRequire(import.meta.url)("@grpc/grpc-js/package.json");

/** CRI over a socket: every unary verb as a promise. @param {string} socketPath */
function connect(socketPath) {
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

/** @returns as startGoClient of cri-go-client.mjs */
export function startNodeClient() {
  const connections = new Map();
  const of = (socket) => {
    if (!connections.has(socket)) connections.set(socket, { ...connect(socket), pods: [] });
    return connections.get(socket);
  };
  return {
    name: `grpc-js ${version} on Node ${process.version}`,
    life: ({ socket, image }, name) => life(of(socket), image, name),
    start: ({ socket, image }, { pods, workers, name }) => start(of(socket), image, pods, workers, name),
    list: ({ socket }, times) => list(of(socket), times),
    stop: ({ socket }, workers) => stop(of(socket), workers),
    close: async () => connections.forEach(({ close }) => close()),
  };
}

/** @returns {Promise<Record<string, number>>} milliseconds of each verb */
async function life({ call }, image, name) {
  const times = {};
  const timed = async (verb, fields) => {
    const startedAt = performance.now();
    const answer = await call(verb, fields);
    times[verb] = performance.now() - startedAt;
    return answer;
  };
  const config = sandboxConfig(name);
  const { podSandboxId } = await timed("runPodSandbox", { config });
  const container = { podSandboxId, sandboxConfig: config, config: containerConfig(image) };
  const { containerId } = await timed("createContainer", container);
  await timed("startContainer", { containerId });
  const { exitCode } = await timed("execSync", { containerId, cmd: ["true"], timeout: 10n });
  if (exitCode !== 0) throw new Error(`true ended with ${exitCode}`);
  await timed("stopContainer", { containerId, timeout: 0n });
  await timed("removeContainer", { containerId });
  await timed("stopPodSandbox", { podSandboxId });
  await timed("removePodSandbox", { podSandboxId });
  return times;
}

/** As a kubelet asks for it: network and IPC of the pod, a PID namespace for each container. */
function sandboxConfig(name) {
  const namespaceOptions = { network: 0, pid: 1, ipc: 0, targetId: "" };
  return {
    metadata: { name, uid: name, namespace: "bench", attempt: 0 },
    linux: { securityContext: { namespaceOptions } },
  };
}

function containerConfig(image) {
  return { metadata: { name: "main", attempt: 0 }, image: { image }, command: ["sleep", "1000"] };
}

function start(connection, image, pods, workers, name) {
  const { call } = connection;
  return inParallel(pods, workers, async (i) => {
    const config = sandboxConfig(`${name}-${i}`);
    const { podSandboxId } = await call("runPodSandbox", { config });
    connection.pods.push(podSandboxId);
    const container = { podSandboxId, sandboxConfig: config, config: containerConfig(image) };
    const { containerId } = await call("createContainer", container);
    await call("startContainer", { containerId });
  });
}

function stop(connection, workers) {
  const ids = connection.pods.splice(0);
  return inParallel(ids.length, workers, async (i) => {
    await connection.call("stopPodSandbox", { podSandboxId: ids[i] });
    await connection.call("removePodSandbox", { podSandboxId: ids[i] });
  });
}

/** @returns {Promise<Record<"sandboxes" | "containers", number[]>>} milliseconds */
async function list({ call }, times) {
  const answer = { sandboxes: [], containers: [] };
  for (let i = 0; i < times; i++) {
    const startedAt = performance.now();
    await call("listPodSandbox");
    const betweenAt = performance.now();
    await call("listContainers");
    answer.sandboxes.push(betweenAt - startedAt);
    answer.containers.push(performance.now() - betweenAt);
  }
  return answer;
}

/** Does `work` for each pod by as many workers as asked for. */
async function inParallel(count, workers, work) {
  let next = 0;
  const startedAt = performance.now();
  const worker = async () => {
    for (let i = next++; i < count; i = next++) await work(i);
  };
  await Promise.all(Array.from({ length: workers }, worker));
  return { seconds: (performance.now() - startedAt) / 1000 };
}
