/**
 * The CRI socket: a gRPC server with the runtime and the image service.
 *
 * Owns the socket file. Called by main; the verbs come from it.
 */
import { chmod, unlink } from "node:fs/promises";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { RuntimeError, withContext } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { type Observe, toImplementation } from "./dispatch.js";
import { ImageServiceService, RuntimeServiceService } from "./generated/runtime/v1/api.js";
import { openBindable, removeStaleSocket } from "./socket-file.js";
import type { Verbs } from "./verbs.js";
import { readStrictly } from "./wire.js";

/** What the kubelet's CRI client sends at most (cri-client, "maxMsgSize"). */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

/** Idle connections of short-lived clients are dropped, or each would stay in memory. */
const MAX_IDLE_MS = 10 * 60_000;

export interface CriServerOptions {
  /** Of any length; in a folder that exists and that only root may enter. */
  readonly socketPath: string;
  readonly verbs: Verbs;
  readonly log: Logger;
  readonly observe?: Observe | undefined;
}

export interface CriServer {
  /**
   * Takes no more requests, lets those under way end, removes the socket file.
   *
   * @param graceMs after which calls still under way are cut off: streams never end by themselves
   */
  close(graceMs?: number): Promise<void>;
}

/**
 * Serves CRI v1 on a unix socket, mode 0660.
 *
 * @throws RuntimeError `failed-precondition` SOCKET_IN_USE, SOCKET_UNUSABLE
 */
export async function createCriServer({ socketPath, verbs, log, observe }: CriServerOptions): Promise<CriServer> {
  await removeStaleSocket(socketPath);
  const server = new Server({
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_connection_idle_ms": MAX_IDLE_MS,
  });
  for (const service of [RuntimeServiceService, ImageServiceService])
    server.addService(readStrictly(service), toImplementation(service, verbs, log, observe));

  const bindable = await openBindable(socketPath);
  try {
    await bind(server, `unix:${bindable.path}`);
    // grpc-js makes it 0755; the folder is what keeps others out until here.
    await chmod(socketPath, 0o660);
  } catch (err) {
    server.forceShutdown();
    await bindable.close();
    throw withContext(err, `serve CRI on "${socketPath}"`);
  }
  return {
    async close(graceMs = 1000) {
      await shutDown(server, graceMs);
      await unlink(socketPath).catch(() => undefined);
      await bindable.close();
    },
  };
}

function bind(server: Server, address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (err) => {
      if (!err) resolve();
      // grpc-js words it itself and keeps no errno.
      else reject(new RuntimeError(err.message, { kind: "failed-precondition", code: "SOCKET_UNUSABLE", cause: err }));
    });
  });
}

function shutDown(server: Server, graceMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => server.forceShutdown(), graceMs);
    server.tryShutdown(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}
