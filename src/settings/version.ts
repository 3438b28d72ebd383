/**
 * The version of this minke, as package.json has it.
 */
import { readFileSync } from "node:fs";

interface PackageFile {
  readonly version: string;
}

// Once, at load: two folders up both in src and in dist.
const file = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as PackageFile;

export const VERSION = file.version;
