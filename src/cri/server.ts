/**
 * The CRI socket: a gRPC server with the runtime and the image service.
 *
 * Owns the socket file. Called by main; the verbs come from it.
 */
import { chmod, unlink } from "node:fs/promises";
import { withContext } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { type Observe, toOnCall } from "./dispatch.js";
import { type GrpcServer, serveGrpc } from "./grpc-server.js";
import { openBindable, removeStaleSocket } from "./socket-file.js";
import type { Verbs } from "./verbs.js";

/** What the kubelet's CRI client sends at most (cri-client, "maxMsgSize"). */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

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
  const bindable = await openBindable(socketPath);
  let server: GrpcServer | undefined;
  try {
    server = await serveGrpc(bindable.path, MAX_MESSAGE_BYTES, toOnCall(verbs, log, observe));
    // Bound as the umask has it; the folder is what keeps others out until here.
    await chmod(socketPath, 0o660);
  } catch (err) {
    await server?.close(0);
    await bindable.close();
    throw withContext(err, `serve CRI on "${socketPath}"`);
  }
  return {
    async close(graceMs = 1000) {
      await server.close(graceMs);
      await unlink(socketPath).catch(() => undefined);
      await bindable.close();
    },
  };
}
