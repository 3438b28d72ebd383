/**
 * What is wrong with a value of the settings file, in the words of the file's format, TOML: what it must
 * be and what it is. For the rules that say nothing of their own; pure, called by settings.ts alone.
 */
import type { z } from "zod";

/** What a type of zod is called in TOML. */
const TYPE_WORDS: Readonly<Record<string, string>> = {
  array: "a list",
  boolean: "true or false",
  int: "a whole number",
  number: "a number",
  object: "a table",
  record: "a table",
  string: "a string",
};
/** Of a value that is shown. */
const MAX_CHARACTERS = 60;

type RawIssue = Parameters<z.core.$ZodErrorMap>[0];

/** `undefined` leaves the words to zod. */
export function wrongValue(issue: RawIssue): string | undefined {
  if (issue.code === "invalid_key") return issue.issues.map(({ message }) => message).join(", ");
  const must = requirement(issue);
  if (must === undefined) return undefined;
  return issue.input === undefined ? `is missing, ${must}` : `${must}${shown(issue.input)}`;
}

function requirement(issue: RawIssue): string | undefined {
  switch (issue.code) {
    case "invalid_type":
      return `must be ${TYPE_WORDS[issue.expected] ?? issue.expected}`;
    case "invalid_value":
      return `must be ${listed(issue.values.map((value) => JSON.stringify(value)))}`;
    case "invalid_union":
      return "must be an absolute path or a list of them";
    case "too_small":
      return limit(issue.origin, issue.minimum, "least");
    case "too_big":
      return limit(issue.origin, issue.maximum, "most");
    default:
      return undefined;
  }
}

function limit(origin: string, bound: number | bigint, word: "least" | "most"): string {
  if (origin !== "number" && word === "least" && Number(bound) === 1) return "must not be empty";
  const unit = { array: " entries", string: " characters" }[origin];
  return unit === undefined ? `must be at ${word} ${bound}` : `must have at ${word} ${bound}${unit}`;
}

function listed(words: readonly string[]): string {
  const last = words.at(-1) ?? "";
  return words.length < 2 ? last : `${words.slice(0, -1).join(", ")} or ${last}`;
}

/** Only what fits into a line: a table or a list is told by its type above. */
function shown(value: unknown): string {
  if (typeof value !== "string" && typeof value !== "number" && typeof value !== "boolean") return "";
  const text = typeof value === "number" ? String(value) : JSON.stringify(value);
  return text.length > MAX_CHARACTERS ? "" : `, not ${text}`;
}
