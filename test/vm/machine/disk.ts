/** A disk image for `bootVm({disk})`: it persists over boots and power cuts. */
import { existsSync, mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { output } from "./host.js";

/** Makes a file with an empty ext4 file system; one that exists is left as it is. */
export function makeDisk(file: string, sizeMiB = 1024): string {
  if (existsSync(file)) return file;
  mkdirSync(dirname(file), { recursive: true });
  output("mke2fs", ["-q", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", file, `${sizeMiB}M`]);
  return file;
}
