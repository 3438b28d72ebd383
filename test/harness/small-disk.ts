/**
 * A file system of a test's own that can be filled to its last block: an ext4 in a file, mounted by
 * a loop device.
 */
import { spawnSync } from "node:child_process";
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  statfsSync,
  statSync,
  truncateSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export class SmallDisk {
  /** Where it is mounted. */
  readonly path: string;
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
    this.path = join(folder, "mount");
  }

  /** @param whyNot is called with what this machine lacks where there can be none */
  static make(bytes: number, whyNot: (reason: string) => void): SmallDisk | undefined {
    const disk = new SmallDisk(mkdtempSync(join(tmpdir(), "minke-disk-")));
    const image = join(disk.#folder, "image");
    mkdirSync(disk.path);
    closeSync(openSync(image, "w"));
    truncateSync(image, bytes);
    // No blocks kept for root, which is what the daemon is.
    for (const [command, ...args] of [
      ["mkfs.ext4", "-q", "-m", "0", "-b", "1024", "-O", "^has_journal", image],
      ["mount", "-o", "loop", image, disk.path],
    ] as const) {
      const { status, stderr, error } = spawnSync(command, args, { encoding: "utf8" });
      if (status === 0) continue;
      whyNot(`a loop-mounted ext4: ${command}: ${error?.message ?? stderr}`);
      rmSync(disk.#folder, { recursive: true });
      return undefined;
    }
    return disk;
  }

  /** Of 1 KiB, without those that ext4 keeps back for itself. */
  get freeBlocks(): number {
    return statfsSync(this.path).bavail;
  }

  /** Writes until not one block is free. @param leaveBlocks then gives so many back, of 1 KiB */
  fill(leaveBlocks = 0): void {
    const file = openSync(join(this.path, "filler"), "a");
    try {
      for (let size = 1024 * 1024; size >= 512; ) {
        try {
          writeSync(file, Buffer.alloc(size));
          // What ext4 needs to keep track of the blocks is only taken when they are written.
          if (size <= 1024) fsyncSync(file);
        } catch (err) {
          if ((err as NodeJS.ErrnoException).code !== "ENOSPC") throw err;
          size /= 2;
        }
      }
    } finally {
      closeSync(file);
    }
    const filler = join(this.path, "filler");
    if (leaveBlocks > 0) truncateSync(filler, Math.max(0, statSync(filler).size - leaveBlocks * 1024));
    spawnSync("sync", ["-f", this.path]);
  }

  free(): void {
    rmSync(join(this.path, "filler"), { force: true });
  }

  remove(): void {
    const { status, stderr } = spawnSync("umount", [this.path], { encoding: "utf8" });
    if (status !== 0) throw new Error(stderr);
    rmSync(this.#folder, { recursive: true });
  }
}
