/**
 * What a machine wrote to its disk, write by write with the flushes between, as QEMU's
 * `blklogwrites` records it (the format of Linux' dm-log-writes), and the disks that a power
 * cut after any of these writes leaves.
 */
import { closeSync, openSync, readSync, statSync, writeSync } from "node:fs";

const BLOCK = 512;
const MAGIC = 0x6a736677736872n;
const FLUSH = 1;
const FUA = 2;
const DISCARD = 4;

export interface BlockWrite {
  /** On the disk, in bytes. */
  readonly offset: number;
  readonly length: number;
  /** Of the data in the log. */
  readonly logOffset: number;
  /** All before it is durable. */
  readonly isFlush: boolean;
  /** It is durable itself. */
  readonly isDurable: boolean;
}

/** Every write of a log, also of one whose machine was killed: it ends with the last whole entry. */
export function readBlockLog(file: string): BlockWrite[] {
  const { size } = statSync(file);
  const fd = openSync(file, "r");
  const header = Buffer.alloc(32);
  try {
    readSync(fd, header, 0, 32, 0);
    if (size > 0 && header.readBigUInt64LE(0) !== MAGIC) throw new Error(`${file} is no log of block writes`);
    const writes: BlockWrite[] = [];
    for (let at = BLOCK; at + BLOCK <= size; ) {
      readSync(fd, header, 0, 32, at);
      const [sector, count, flags] = [0, 8, 16].map((offset) => Number(header.readBigUInt64LE(offset)));
      if (sector === undefined || count === undefined || flags === undefined) throw new Error("a header has 32 bytes");
      if (sector === 0 && count === 0 && flags === 0) break;
      if (flags & DISCARD) throw new Error("the disk was told to discard, which the machine's settings forbid");
      const length = count * BLOCK;
      if (at + BLOCK + length > size) break;
      const isFlush = (flags & FLUSH) !== 0;
      writes.push({ offset: sector * BLOCK, length, logOffset: at + BLOCK, isFlush, isDurable: (flags & FUA) !== 0 });
      at += BLOCK + length;
    }
    return writes;
  } finally {
    closeSync(fd);
  }
}

/** Applies writes of a log to a disk. */
export function applyWrites(disk: string, log: string, writes: Iterable<BlockWrite>): void {
  const from = openSync(log, "r");
  const to = openSync(disk, "r+");
  try {
    for (const { offset, length, logOffset } of writes) {
      const data = Buffer.alloc(length);
      readSync(from, data, 0, length, logOffset);
      writeSync(to, data, 0, length, offset);
    }
  } finally {
    closeSync(from);
    closeSync(to);
  }
}

/**
 * The writes that a disk which loses its cache still has after a cut: all up to the last flush,
 * and any of the others.
 *
 * @param random from 0 to below 1
 */
export function survivors(writes: readonly BlockWrite[], random: () => number): BlockWrite[] {
  const flushed = writes.findLastIndex(({ isFlush }) => isFlush);
  return writes.filter(({ isDurable }, index) => index <= flushed || isDurable || random() < 0.5);
}
