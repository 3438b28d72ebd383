/**
 * A file that is whole or not there, also after a power cut: temporary, fsync, rename, fsync of
 * the directory. For blobs, whose name is their digest; records go through state/store.ts.
 */
import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { syncDirectory } from "../state/store.js";

let counter = 0;

/** Replaces what is there. The directory must exist. */
export async function writeDurableFile(path: string, bytes: Buffer): Promise<void> {
  const temporary = `${path}.${process.pid}-${counter++}.tmp`;
  try {
    const handle = await open(temporary, "wx", 0o600);
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (err) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw err;
  }
  await syncDirectory(dirname(path));
}
