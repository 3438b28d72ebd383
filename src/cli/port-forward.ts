/**
 * `minke port-forward POD [LOCAL:]PORT…`: ports of this machine's localhost that lead into a pod.
 */
import { createServer, type Server, type Socket } from "node:net";
import { pipeline } from "node:stream/promises";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { MinkeClient } from "../client/index.js";
import { connectTo, type GlobalOptions, note, print } from "./context.js";

export interface PortForwardOptions extends GlobalOptions {
  readonly address: string;
}

interface Forward {
  /** 0: any that is free. */
  readonly local: number;
  readonly remote: number;
}

/** Goes on until it is interrupted, or the pod is gone. */
export async function forwardPorts(pod: string, ports: readonly string[], options: PortForwardOptions): Promise<void> {
  const name = pod.replace(/^pods?\//, "");
  const forwards = ports.map(parseForward);
  const client = await connectTo(options);
  const { uid } = (await client.getPod(options.namespace, name)).metadata;
  const servers: Server[] = [];
  try {
    for (const forward of forwards) servers.push(await listen(client, name, forward, options));
    const interrupted = new Promise<void>((resolve) => {
      for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => resolve());
    });
    await Promise.race([interrupted, client.waitGone(options.namespace, name, uid)]);
  } finally {
    for (const server of servers) server.close();
  }
  // Connections under way, and the watch, would keep the process.
  process.exit(process.exitCode);
}

/** `8080:80`, `80`, and `:80` for any free local port. */
export function parseForward(text: string): Forward {
  const [, local, remote] = /^(?:(\d{0,5}):)?(\d{1,5})$/.exec(text) ?? [];
  const forward = { local: local === undefined ? Number(remote) : Number(local), remote: Number(remote) };
  if (remote === undefined || forward.remote < 1 || forward.remote > 65_535 || forward.local > 65_535) {
    throw new RuntimeError(`"${text}" is not [LOCAL:]PORT`, { kind: "invalid-argument", code: "INVALID_REQUEST" });
  }
  return forward;
}

async function listen(
  client: MinkeClient,
  pod: string,
  { local, remote }: Forward,
  options: PortForwardOptions,
): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (connection) => {
    connection.on("error", () => connection.destroy());
    void carry(client, pod, remote, connection, options);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause: NodeJS.ErrnoException) =>
      reject(
        new RuntimeError(`listen on ${options.address}:${local}: ${cause.code ?? cause.message}`, {
          kind: "failed-precondition",
          code: "HOST_PORT_IN_USE",
          cause,
        }),
      ),
    );
    server.listen(local, options.address, () => resolve());
  });
  const address = server.address();
  const port = typeof address === "object" && address ? address.port : local;
  print(`Forwarding from ${options.address}:${port} -> ${remote}`);
  return server;
}

async function carry(
  client: MinkeClient,
  pod: string,
  remote: number,
  connection: Socket,
  options: PortForwardOptions,
): Promise<void> {
  try {
    const stream = await client.forwardPort(options.namespace, pod, remote);
    // The protocol has no half-close: what the client has ended is only over with the pod's answer.
    connection.on("data", (chunk: Buffer) => {
      if (stream.write(chunk)) return;
      connection.pause();
      stream.once("drain", () => connection.resume());
    });
    connection.on("close", () => stream.destroy());
    await pipeline(stream, connection);
  } catch (err) {
    const { message, code } = toRuntimeError(err);
    // A client that hangs up early is its own business.
    if (!connection.destroyed || code === "PORT_NOT_REACHABLE") note(`warning: ${message}`);
    connection.destroy();
  }
}
