/**
 * Signal names of images and manifests -> numbers of this machine (signal(7)).
 */
import { constants } from "node:os";
import { RuntimeError } from "../base/errors.js";

const REALTIME_MIN = 34;
const REALTIME_MAX = 64;

/**
 * `SIGTERM`, `TERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-2`.
 * @throws RuntimeError `invalid-argument` UNKNOWN_SIGNAL
 */
export function signalNumber(text: string): number {
  const name = text.trim().toUpperCase().replace(/^SIG/, "");
  const number = /^\d{1,2}$/.test(name) ? Number(name) : (realtimeSignal(name) ?? standardSignal(name));
  if (number !== undefined && number >= 1 && number <= REALTIME_MAX) return number;
  throw new RuntimeError(`signal "${text}" is unknown; names are those of signal(7), such as SIGTERM`, {
    kind: "invalid-argument",
    code: "UNKNOWN_SIGNAL",
  });
}

function standardSignal(name: string): number | undefined {
  const signals: Readonly<Record<string, number>> = constants.signals;
  return signals[`SIG${name}`];
}

function realtimeSignal(name: string): number | undefined {
  const match = /^RTM(IN|AX)(?:([+-])(\d{1,2}))?$/.exec(name);
  if (!match) return undefined;
  const offset = Number(match[3] ?? 0) * (match[2] === "-" ? -1 : 1);
  const number = (match[1] === "IN" ? REALTIME_MIN : REALTIME_MAX) + offset;
  return number >= REALTIME_MIN && number <= REALTIME_MAX ? number : undefined;
}
