/**
 * Unix sockets by path, also by paths that are longer than an address takes.
 *
 * sockaddr_un has room for 107 bytes (unix(7)); a longer path is reached through a descriptor of
 * its directory, `/proc/self/fd/N/<name>`.
 */
import { constants } from "node:fs";
import { chmod, type FileHandle, lstat, mkdir, open, unlink } from "node:fs/promises";
import { Server as HttpServer } from "node:http";
import { createConnection, type Server } from "node:net";
import { basename, dirname } from "node:path";
import { hasErrno, RuntimeError } from "../base/errors.js";

const ADDRESS_LIMIT_BYTES = 107;
/** Watches and followed logs never end by themselves. */
const CLOSE_GRACE_MS = 200;

/** An address for a socket path. Close it once the socket is bound or connected. */
export async function socketAddress(path: string): Promise<{ readonly address: string; close(): Promise<void> }> {
  if (Buffer.byteLength(path) <= ADDRESS_LIMIT_BYTES) return { address: path, close: async () => undefined };
  const directory: FileHandle = await open(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
  return { address: `/proc/self/fd/${directory.fd}/${basename(path)}`, close: () => directory.close() };
}

/**
 * Listens on a socket of mode 0600 in a directory of mode 0700. A socket that an earlier daemon
 * left behind is replaced; one that answers is not.
 *
 * @throws RuntimeError `failed-precondition` SOCKET_IN_USE
 */
export async function listenOnSocket(server: Server, path: string): Promise<{ close(): Promise<void> }> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await removeStaleSocket(path);
  const target = await socketAddress(path);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(target.address, () => {
        server.off("error", reject);
        resolve();
      });
    });
    await chmod(path, 0o600);
  } finally {
    await target.close();
  }
  return { close: () => closeServer(server, path) };
}

/** Refuses new connections, ends those that are open, and takes the socket away. */
async function closeServer(server: Server, path: string): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  if (server instanceof HttpServer) server.closeIdleConnections();
  const timer = setTimeout(() => {
    if (server instanceof HttpServer) server.closeAllConnections();
  }, CLOSE_GRACE_MS);
  await closed;
  clearTimeout(timer);
  await unlink(path).catch((err: unknown) => {
    if (!hasErrno(err, "ENOENT")) throw err;
  });
}

async function removeStaleSocket(path: string): Promise<void> {
  const found = await lstat(path).catch((err: unknown) => {
    if (hasErrno(err, "ENOENT")) return undefined;
    throw err;
  });
  if (!found) return;
  if (!found.isSocket() || (await isAnswering(path))) {
    throw new RuntimeError(
      `listen on "${path}": ${found.isSocket() ? "another daemon answers there" : "it is not a socket"}`,
      { kind: "failed-precondition", code: "SOCKET_IN_USE" },
    );
  }
  await unlink(path);
}

/** True where somebody accepts connections on the socket. */
export async function isAnswering(path: string): Promise<boolean> {
  let target: Awaited<ReturnType<typeof socketAddress>>;
  try {
    target = await socketAddress(path);
  } catch {
    return false;
  }
  try {
    return await new Promise<boolean>((resolve) => {
      const connection = createConnection(target.address);
      connection.once("connect", () => {
        connection.destroy();
        resolve(true);
      });
      connection.once("error", () => resolve(false));
    });
  } finally {
    await target.close();
  }
}
