/**
 * YAML text to plain values, by the rules that Kubernetes' reader follows.
 *
 * YAML 1.1 gives `0644` its octal meaning and `yes` its boolean one, as Kubernetes does; its
 * times and dates are left out, since `12:30:00` must stay a string. Duplicate keys and alias
 * bombs are refused by the parser.
 */
import { parseAllDocuments, type Tags } from "yaml";
import { RuntimeError } from "../../base/errors.js";

export const MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024;

/**
 * The documents of one file, empty ones left out.
 *
 * @param source what messages call it: a file name, `<stdin>`
 * @throws RuntimeError `invalid-argument` MANIFEST_TOO_LARGE, INVALID_YAML (with line and column)
 */
export function parseYamlDocuments(text: string, source: string): unknown[] {
  if (Buffer.byteLength(text) > MANIFEST_LIMIT_BYTES) {
    throw new RuntimeError(`read manifest "${source}": larger than ${MANIFEST_LIMIT_BYTES} bytes`, {
      kind: "invalid-argument",
      code: "MANIFEST_TOO_LARGE",
    });
  }
  const documents = parseAllDocuments(text, { version: "1.1", prettyErrors: true, customTags: withoutTimes });
  if (!Array.isArray(documents)) return [];
  const values: unknown[] = [];
  for (const document of documents) {
    const [problem] = document.errors;
    if (problem) {
      const at = problem.linePos?.[0];
      const where = at ? `line ${at.line}, column ${at.col}: ` : "";
      const [summary = problem.message] = problem.message.split("\n", 1);
      throw new RuntimeError(
        `read manifest "${source}": ${where}${summary.replace(/ at line \d+, column \d+:?$/, "")}`,
        { kind: "invalid-argument", code: "INVALID_YAML", cause: problem },
      );
    }
    let value: unknown;
    try {
      value = document.toJS({ maxAliasCount: 100 });
    } catch (err) {
      throw new RuntimeError(`read manifest "${source}": ${err instanceof Error ? err.message : String(err)}`, {
        kind: "invalid-argument",
        code: "INVALID_YAML",
        cause: err,
      });
    }
    if (value !== null && value !== undefined) values.push(value);
  }
  return values;
}

function withoutTimes(tags: Tags): Tags {
  return tags.filter(
    (tag) => typeof tag === "string" || !(tag.tag.includes("timestamp") || ("format" in tag && tag.format === "TIME")),
  );
}
