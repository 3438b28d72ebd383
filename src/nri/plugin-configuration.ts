/**
 * The text that a plugin is configured with: `<index>-<name>.conf`, or `<name>.conf`, as NRI has them.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";

const MAX_CHARACTERS = 1024 * 1024;

/** Empty where there is no file. */
export async function readConfiguration(dir: string, index: string, name: string): Promise<string> {
  for (const file of [`${index}-${name}.conf`, `${name}.conf`]) {
    try {
      const text = await readFile(join(dir, file), "utf8");
      if (text.length <= MAX_CHARACTERS) return text;
      throw new RuntimeError(`"${file}" has more than ${MAX_CHARACTERS} characters`, {
        kind: "failed-precondition",
        code: "SETTINGS_INVALID",
      });
    } catch (err) {
      if (!hasErrno(err, "ENOENT")) throw withContext(err, `configuration of NRI plugin "${name}"`);
    }
  }
  return "";
}
