/**
 * Reading fields of CRI messages: refusals that name the field, numbers that fit.
 */
import { RuntimeError } from "../../base/errors.js";

/** A value that the field cannot have. @param field as the proto spells it: `config.linux.sysctls` */
export function invalidField(field: string, why: string): RuntimeError {
  return new RuntimeError(`${field}: ${why}`, { kind: "invalid-argument", code: "INVALID_FIELD" });
}

/** An int64 as a number. @throws RuntimeError `invalid-argument` INVALID_FIELD beyond 2^53 or out of range */
export function toNumber(
  value: bigint,
  field: string,
  min = Number.MIN_SAFE_INTEGER,
  max = Number.MAX_SAFE_INTEGER,
): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number) || number < min || number > max)
    throw invalidField(field, `${value} is not between ${min} and ${max}`);
  return number;
}

/** The highest id is no id to the kernel but "no change" (setresuid(2)). */
const MAX_ID = 0xffff_fffe;

/** A uid or gid. */
export function toId(value: bigint, field: string): number {
  return toNumber(value, field, 0, MAX_ID);
}

/** A line or a C string ends at these. */
function hasControl(text: string): boolean {
  return Array.from(text).some((character) => character < " " || character === "\u007f");
}

/** Text that ends up in a file name, a line or a C string. */
export function plainText(text: string, field: string): string {
  if (hasControl(text)) throw invalidField(field, "has control characters");
  return text;
}

/** What becomes an argument of a program. */
export function cString(text: string, field: string): string {
  if (text.includes("\0")) throw invalidField(field, "has a NUL byte");
  return text;
}

/** Of an exec. */
export function checkCommand(cmd: readonly string[]): void {
  if (cmd.length === 0) throw invalidField("cmd", "is empty");
  for (const [i, word] of cmd.entries()) cString(word, `cmd[${i}]`);
}

/** An absolute path without NUL and without a way up. */
export function absolutePath(path: string, field: string): string {
  if (!path.startsWith("/")) throw invalidField(field, `"${path}" is not absolute`);
  if (path.includes("\0")) throw invalidField(field, "has a NUL byte");
  return path;
}
