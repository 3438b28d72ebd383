/**
 * The daemon's log: constant text plus fields, one JSON line each, to standard error.
 *
 * Only edges log (cri, api, pod, main). Never a whole config, never an environment value.
 */
import { type Logger, pino } from "pino";

export type { Logger };

/** @param level pino's level names, or `silent` */
export function createLog(level: string): Logger {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime, redact: ["auth", "env", "password", "token"] },
    pino.destination({ dest: 2, sync: true }),
  );
}
