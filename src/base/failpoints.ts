/**
 * Named points where a test makes a step fail or the whole daemon die, as `kill -9` would.
 *
 * `MINKE_FAILPOINTS` holds `name=action` pairs, separated by commas, or `@PATH`: a file that holds
 * them and is read at every point, so that a test changes them while the daemon runs. Every
 * timeline step is a point, `after <step>` is one too. Without the variable a point costs one look
 * at an empty map.
 *
 *   network=error          every pass of the point fails
 *   network=once           the first pass fails, later ones do not
 *   after network=kill     the daemon dies there
 *   *=trace                the name of every point that is passed goes to standard error
 */
import { readFileSync, writeSync } from "node:fs";
import { RuntimeError } from "./errors.js";

type Action = "error" | "once" | "kill" | "trace";
type Points = ReadonlyMap<string, Action>;

const ACTIONS: readonly string[] = ["error", "once", "kill", "trace"] satisfies Action[];
const EVERY_POINT = "*";

const setting = process.env["MINKE_FAILPOINTS"] ?? "";
const file = setting.startsWith("@") ? setting.slice(1) : undefined;
/** Of the text that was read last, and those of its `once` points that have failed. */
let known: { readonly text: string; readonly points: Points; readonly spent: Set<string> } = read(
  file === undefined ? setting : "",
);

function read(text: string): typeof known {
  return { text, points: parse(text), spent: new Set() };
}

function parse(text: string): Points {
  const entries = text
    .trim()
    .split(",")
    .filter(Boolean)
    .map((pair): [string, Action] => {
      const separator = pair.lastIndexOf("=");
      const action = pair.slice(separator + 1);
      if (separator < 1 || !isAction(action)) {
        throw new RuntimeError(`MINKE_FAILPOINTS: "${pair}" is not name=${ACTIONS.join("|")}`, {
          kind: "invalid-argument",
          code: "INVALID_FAILPOINT",
        });
      }
      return [pair.slice(0, separator), action];
    });
  return new Map(entries);
}

function isAction(text: string): text is Action {
  return ACTIONS.includes(text);
}

/** @throws RuntimeError `internal` FAILPOINT where a test asked for it */
export function failpoint(name: string): void {
  if (file !== undefined) {
    const text = readFileSync(file, "utf8");
    if (text !== known.text) known = read(text);
  }
  if (known.points.size === 0) return;
  if (known.points.get(EVERY_POINT) === "trace") writeSync(2, `failpoint ${name}\n`);
  const action = known.points.get(name);
  if (action === undefined || action === "trace" || known.spent.has(name)) return;
  if (action === "kill") process.kill(process.pid, "SIGKILL");
  if (action === "once") known.spent.add(name);
  throw new RuntimeError(`failpoint "${name}"`, { kind: "internal", code: "FAILPOINT" });
}
