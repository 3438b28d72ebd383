/**
 * What a container runs: the image's entrypoint, cmd and env merged with the request, by
 * Kubernetes' rules (docs "Define a Command and Arguments for a Container").
 */
import { RuntimeError } from "../base/errors.js";
import type { ContainerConfig } from "./container-config.js";

/** What an image config says about its containers (image-spec, config.md). */
export interface ImageDefaults {
  readonly user: string;
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly workingDir: string;
  readonly stopSignal?: string | undefined;
}

const DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * The argument vector: command replaces the entrypoint and drops the image's cmd; args replace the cmd.
 * @throws RuntimeError `invalid-argument` NO_COMMAND where neither side names anything to run
 */
export function containerArgs(config: Pick<ContainerConfig, "command" | "args">, image: ImageDefaults): string[] {
  const hasCommand = config.command !== undefined && config.command.length > 0;
  const hasArgs = config.args !== undefined && config.args.length > 0;
  const head = hasCommand ? config.command : image.entrypoint;
  const tail = hasArgs ? config.args : hasCommand ? [] : image.cmd;
  const args = [...head, ...tail];
  if (args.length === 0 || args[0] === "") {
    throw new RuntimeError("the image names no command and the container gives none; set `command`", {
      kind: "invalid-argument",
      code: "NO_COMMAND",
    });
  }
  return args;
}

/**
 * `NAME=value` strings: defaults, then the image's, then the request's; a later name replaces an earlier one in place.
 *
 * @throws RuntimeError `invalid-argument` INVALID_ENV for a name that is empty or holds `=` or NUL, or a value with NUL
 */
export function containerEnv(
  requested: ContainerConfig["env"],
  image: ImageDefaults,
  extra: { readonly home: string; readonly hostname: string; readonly tty: boolean },
): string[] {
  const env = new Map<string, string>();
  const set = (entry: string) => {
    const separator = entry.indexOf("=");
    if (separator > 0) env.set(entry.slice(0, separator), entry.slice(separator + 1));
  };
  set(DEFAULT_PATH);
  if (extra.hostname !== "") set(`HOSTNAME=${extra.hostname}`);
  if (extra.tty) set("TERM=xterm");
  for (const entry of image.env) set(entry);
  for (const { name, value } of requested) {
    if (name === "" || /[=\0]/.test(name) || value.includes("\0")) {
      throw new RuntimeError(
        `environment variable "${name}": an empty name, "=" in a name, or a NUL byte cannot be passed on`,
        {
          kind: "invalid-argument",
          code: "INVALID_ENV",
        },
      );
    }
    env.set(name, value);
  }
  if (!env.has("HOME")) env.set("HOME", extra.home);
  return Array.from(env, ([name, value]) => `${name}=${value}`);
}
