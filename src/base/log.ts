/**
 * The daemon's log: constant text plus fields, one JSON line each, to standard error.
 *
 * Only edges log (cri, api, pod, main). Never a whole config, never an environment value.
 */
import { writeSync } from "node:fs";
import { type Logger, pino } from "pino";

export type { Logger };

/** @param level pino's level names, or `silent` */
export function createLog(level: string): Logger {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime, redact: ["auth", "env", "password", "token"] },
    standardError,
  );
}

let lostLines = 0;

/** Whoever takes our log may be unable to, as a file on a full disk: lines are lost then, and nothing else. */
const standardError = {
  write(line: string): void {
    try {
      if (lostLines > 0)
        writeSync(2, `${JSON.stringify({ level: 40, lostLines, msg: "log lines could not be written" })}\n`);
      lostLines = 0;
      writeSync(2, line);
    } catch {
      lostLines++;
    }
  },
};
