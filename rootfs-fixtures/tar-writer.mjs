// @ts-check
/**
 * Writes tar archives whose bytes depend on their entries alone: sorted, mtime 0, ustar
 * with pax records only where ustar cannot say it (long or non-ASCII names, xattrs).
 *
 * Not a general writer: it serves the fixture images, which must have the same digest on
 * every machine. Knows no OCI.
 */

/**
 * @typedef {{
 *   path: string,
 *   type: "file" | "dir" | "symlink" | "hardlink" | "char" | "block" | "fifo",
 *   mode?: number,
 *   uid?: number,
 *   gid?: number,
 *   mtimeS?: number,
 *   content?: Buffer,
 *   target?: string,
 *   major?: number,
 *   minor?: number,
 *   pax?: Record<string, string | Buffer>,
 * }} TarEntry `path` without a leading slash; `target` of links as it shall stand in the header
 */

const BLOCK_BYTES = 512;
const TYPE_FLAGS = { file: "0", hardlink: "1", symlink: "2", char: "3", block: "4", dir: "5", fifo: "6" };
const DEFAULT_MODES = { file: 0o644, hardlink: 0o644, symlink: 0o777, char: 0o600, block: 0o600, dir: 0o755, fifo: 0o644 };

/**
 * Sorted by path bytes, hard links after all others, since a link needs its target first.
 *
 * @param {readonly TarEntry[]} entries
 * @returns {TarEntry[]}
 */
export function sortedEntries(entries) {
  const order = (/** @type {TarEntry} */ e) => (e.type === "hardlink" ? 1 : 0);
  return [...entries].sort((a, b) => order(a) - order(b) || Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
}

/**
 * One archive of the entries in the order given, with the two closing blocks.
 *
 * @param {readonly TarEntry[]} entries
 * @returns {Buffer}
 */
export function tarArchive(entries) {
  const parts = entries.flatMap(entryBlocks);
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK_BYTES)]);
}

/** @param {TarEntry} entry */
function entryBlocks(entry) {
  const name = entry.type === "dir" ? `${entry.path}/` : entry.path;
  const content = entry.content ?? Buffer.alloc(0);
  /** @type {Record<string, string | Buffer>} */
  const pax = { ...entry.pax };
  if (!fitsUstar(name)) pax["path"] = name;
  if (entry.target !== undefined && !fitsUstar(entry.target)) pax["linkpath"] = entry.target;
  const blocks = [];
  if (Object.keys(pax).length > 0) {
    const records = Buffer.concat(Object.keys(pax).sort().map((key) => paxRecord(key, pax[key] ?? "")));
    blocks.push(header({ path: "pax", type: "file", mode: 0o644 }, "pax", "x", records.length), padded(records));
  }
  blocks.push(header(entry, name, TYPE_FLAGS[entry.type], content.length), padded(content));
  return blocks;
}

/** @param {string} text */
function fitsUstar(text) {
  return Buffer.byteLength(text) <= 100 && /^[\x20-\x7e]*$/.test(text);
}

/** `<length> <key>=<value>\n`, where length counts itself (POSIX pax interchange format). */
function paxRecord(/** @type {string} */ key, /** @type {string | Buffer} */ value) {
  const body = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value), Buffer.from("\n")]);
  let length = body.length + 1;
  while (String(length).length + body.length !== length) length = String(length).length + body.length;
  return Buffer.concat([Buffer.from(String(length)), body]);
}

/** @param {Buffer} content */
function padded(content) {
  const rest = content.length % BLOCK_BYTES;
  return rest === 0 ? content : Buffer.concat([content, Buffer.alloc(BLOCK_BYTES - rest)]);
}

/**
 * @param {TarEntry} entry
 * @param {string} name
 * @param {string} flag
 * @param {number} sizeBytes
 */
function header(entry, name, flag, sizeBytes) {
  const block = Buffer.alloc(BLOCK_BYTES);
  const octal = (/** @type {number} */ value, /** @type {number} */ at, /** @type {number} */ length) =>
    block.write(value.toString(8).padStart(length - 1, "0"), at, length - 1, "latin1");
  Buffer.from(name).copy(block, 0, 0, 100);
  octal(entry.mode ?? DEFAULT_MODES[entry.type], 100, 8);
  octal(entry.uid ?? 0, 108, 8);
  octal(entry.gid ?? 0, 116, 8);
  octal(sizeBytes, 124, 12);
  octal(entry.mtimeS ?? 0, 136, 12);
  block.write(flag, 156, 1, "latin1");
  if (entry.target !== undefined) Buffer.from(entry.target).copy(block, 157, 0, 100);
  block.write("ustar\x0000", 257, 8, "latin1");
  if (entry.type === "char" || entry.type === "block") {
    octal(entry.major ?? 0, 329, 8);
    octal(entry.minor ?? 0, 337, 8);
  }
  block.fill(0x20, 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, 8, "latin1");
  return block;
}
