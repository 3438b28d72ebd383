/**
 * `minke logs`: bytes from the daemon to standard output, no faster than that is read.
 */
import { once } from "node:events";
import { RuntimeError } from "../base/errors.js";
import { connectTo, type GlobalOptions } from "./context.js";
import { chooseContainer } from "./default-container.js";

export interface LogsOptions extends GlobalOptions {
  readonly container?: string;
  readonly follow?: boolean;
  readonly previous?: boolean;
  readonly tail?: string;
  readonly since?: string;
  readonly timestamps?: boolean;
}

const SECONDS_BY_UNIT: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 };

export async function printLogs(pod: string, container: string | undefined, options: LogsOptions): Promise<void> {
  const name = pod.replace(/^pods?\//, "");
  const tailLines =
    options.tail === undefined || options.tail === "-1" ? undefined : wholeNumber("--tail", options.tail);
  const client = await connectTo(options);
  const chunks = client.logs(options.namespace, name, {
    container: await chooseContainer(client, options.namespace, name, options.container ?? container),
    follow: options.follow,
    previous: options.previous,
    timestamps: options.timestamps,
    tailLines,
    sinceSeconds: options.since === undefined ? undefined : parseDuration(options.since, "--since"),
  });
  for await (const chunk of chunks) {
    if (!process.stdout.write(chunk)) await once(process.stdout, "drain");
  }
}

function wholeNumber(option: string, text: string): number {
  if (!/^\d{1,9}$/.test(text))
    throw new RuntimeError(`option ${option}: "${text}" is not a whole number`, {
      kind: "invalid-argument",
      code: "INVALID_REQUEST",
    });
  return Number(text);
}

/** Seconds of `90`, `30s`, `5m`, `2h` or `7d`. */
export function parseDuration(text: string, option: string): number {
  const [, amount, unit = "s"] = /^(\d{1,9})([smhd])?$/.exec(text) ?? [];
  if (amount === undefined)
    throw new RuntimeError(`option ${option}: "${text}" is not a duration like 30s, 5m or 2h`, {
      kind: "invalid-argument",
      code: "INVALID_REQUEST",
    });
  return Number(amount) * (SECONDS_BY_UNIT[unit] ?? 1);
}
