/**
 * Named points where a test makes a step fail or the whole daemon die, as `kill -9` would.
 *
 * `MINKE_FAILPOINTS` holds `name=action` pairs, separated by commas: `network=error` fails
 * before the step "network", `after network=kill` dies after it. Every timeline step is such a
 * point. Without the variable a point costs one look at an empty map.
 */
import { RuntimeError } from "./errors.js";

type Action = "error" | "kill";

const points = parse(process.env["MINKE_FAILPOINTS"] ?? "");

function parse(text: string): ReadonlyMap<string, Action> {
  const entries = text
    .split(",")
    .filter(Boolean)
    .map((pair): [string, Action] => {
      const separator = pair.lastIndexOf("=");
      const action = pair.slice(separator + 1);
      if (separator < 1 || (action !== "error" && action !== "kill")) {
        throw new RuntimeError(`MINKE_FAILPOINTS: "${pair}" is not name=error or name=kill`, {
          kind: "invalid-argument",
          code: "INVALID_FAILPOINT",
        });
      }
      return [pair.slice(0, separator), action];
    });
  return new Map(entries);
}

/** @throws RuntimeError `internal` FAILPOINT where a test asked for it */
export function failpoint(name: string): void {
  const action = points.get(name);
  if (action === undefined) return;
  if (action === "kill") process.kill(process.pid, "SIGKILL");
  throw new RuntimeError(`failpoint "${name}"`, { kind: "internal", code: "FAILPOINT" });
}
