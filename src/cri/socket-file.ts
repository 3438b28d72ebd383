/**
 * The file of a listening unix socket: makes room where a dead daemon left one, and lets a
 * path be longer than the 107 bytes that unix(7) has for it.
 */
import { type FileHandle, constants, lstat, open, unlink } from "node:fs/promises";
import { connect } from "node:net";
import { basename, dirname } from "node:path";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";

/**
 * Removes the socket file of a daemon that is gone, so that the path can be bound.
 *
 * @throws RuntimeError `failed-precondition` SOCKET_IN_USE: somebody listens there, or the
 *   file is something else than a socket and is left alone
 */
export async function removeStaleSocket(path: string): Promise<void> {
  try {
    const file = await lstat(path);
    if (!file.isSocket()) throw inUse(`"${path}" exists and is not a socket`);
    if (await isListening(path)) throw inUse(`"${path}" is served by another process`);
    await unlink(path);
  } catch (err) {
    if (!hasErrno(err, "ENOENT")) throw withContext(err, "prepare socket");
  }
}

async function isListening(path: string): Promise<boolean> {
  const bindable = await openBindable(path);
  try {
    return await new Promise((resolve) => {
      const socket = connect(bindable.path);
      socket.once("connect", () => {
        socket.destroy();
        resolve(true);
      });
      // ECONNREFUSED: nobody listens. Anything else would be met again, and reported, by bind.
      socket.once("error", () => resolve(false));
    });
  } finally {
    await bindable.close();
  }
}

/** A name for a socket path that bind(2) and connect(2) take at any length; valid until closed. */
export interface BindablePath {
  readonly path: string;
  close(): Promise<void>;
}

/** Goes through a descriptor of the folder, `/proc/self/fd/N/<name>`, so that only the name counts. */
export async function openBindable(path: string): Promise<BindablePath> {
  let folder: FileHandle;
  try {
    folder = await open(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (err) {
    throw withContext(err, `open folder of socket "${path}"`);
  }
  return { path: `/proc/self/fd/${folder.fd}/${basename(path)}`, close: () => folder.close() };
}

function inUse(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "failed-precondition", code: "SOCKET_IN_USE" });
}
