/** The two folders of the daemon that a command or the library talks to: as given, of the environment, or the machine's own. */
import { resolve } from "node:path";
import { RuntimeError } from "../base/errors.js";

export const DEFAULT_ROOT = "/var/lib/minke";
export const DEFAULT_RUN = "/run/minke";

/** @throws RuntimeError `invalid-argument` INVALID_REQUEST: it is empty, which would be the working directory */
export function rootFolder(given: string | undefined): string {
  return folder(given, "MINKE_ROOT", DEFAULT_ROOT);
}

/** @throws RuntimeError as `rootFolder` */
export function runFolder(given: string | undefined): string {
  return folder(given, "MINKE_RUN", DEFAULT_RUN);
}

function folder(given: string | undefined, variable: "MINKE_ROOT" | "MINKE_RUN", otherwise: string): string {
  const path = given ?? process.env[variable] ?? otherwise;
  if (path !== "") return resolve(path);
  const option = variable.replace("MINKE_", "--").toLowerCase();
  throw new RuntimeError(
    `${given === undefined ? `environment variable ${variable}` : `option ${option}`}: it is empty`,
    {
      kind: "invalid-argument",
      code: "INVALID_REQUEST",
    },
  );
}
