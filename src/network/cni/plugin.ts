/**
 * One run of a CNI plugin: found, fed, waited for, and ended with its children where it takes too
 * long. CNI spec, section 2, "Execution protocol".
 *
 * A plugin leads a process group of its own: a time-out ends whatever it has started. What a
 * plugin says on failure is shown whole, with its name.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { join } from "node:path";
import { type ErrorKind, hasErrno, RuntimeError } from "../../base/errors.js";
import { isObject } from "./config.js";

export type CniCommand = "ADD" | "CHECK" | "DEL" | "GC" | "STATUS";

export interface PluginRun {
  readonly command: CniCommand;
  readonly type: string;
  /** Of the network, for messages. */
  readonly network: string;
  /** CNI_…, without CNI_COMMAND and CNI_PATH. */
  readonly env: Readonly<Record<string, string>>;
  /** What it reads on standard input. */
  readonly config: object;
}

export interface PluginSettings {
  /** Searched in this order; absolute. */
  readonly pluginDirs: readonly string[];
  /** Of one plugin, not of the chain. */
  readonly timeoutMs: number;
}

/** A result is a few kilobytes. */
const MAX_STDOUT_BYTES = 1024 * 1024;
const MAX_STDERR_BYTES = 64 * 1024;
/** How long a descendant that left the group may keep the pipes open once the plugin has ended. */
const PIPE_GRACE_MS = 1_000;
/** Of what messages show. */
const MAX_SHOWN = 4096;

/** CNI spec, section 5, "Error": what a caller can do about the well-known codes. */
const KIND_BY_CNI_CODE: Readonly<Record<number, ErrorKind>> = {
  1: "failed-precondition", // incompatible version
  2: "failed-precondition", // unsupported field
  3: "not-found", // container unknown
  4: "invalid-argument", // environment
  7: "failed-precondition", // configuration
  11: "unavailable", // try again later
  50: "unavailable", // STATUS: cannot take ADD
  51: "unavailable", // STATUS: and what is there may be limited
};

interface Outcome {
  readonly stdout: string;
  readonly stderr: string;
  /** Exit code, or the signal's name. */
  readonly end: number | string;
  readonly isTimedOut: boolean;
  readonly isTooLong: boolean;
}

/**
 * @returns the object on standard output; undefined where it printed nothing
 * @throws RuntimeError `failed-precondition` CNI_PLUGIN_MISSING, `deadline-exceeded` CNI_PLUGIN_TIMEOUT,
 *   CNI_PLUGIN_FAILED of the kind that its code means, `internal` CNI_BAD_OUTPUT
 */
export async function runPlugin(
  run: PluginRun,
  settings: PluginSettings,
): Promise<Record<string, unknown> | undefined> {
  const clause = `CNI plugin "${run.type}" of network "${run.network}": ${run.command}`;
  const file = await findPlugin(run.type, run.network, settings.pluginDirs);
  const { stdout, stderr, end, isTimedOut, isTooLong } = await execute(file, run, settings);
  const said = stderr.trim() === "" ? "" : `; it wrote: ${printable(stderr)}`;
  if (isTimedOut) {
    throw new RuntimeError(`${clause}: no end within ${settings.timeoutMs} ms, killed it and its children${said}`, {
      kind: "deadline-exceeded",
      code: "CNI_PLUGIN_TIMEOUT",
    });
  }
  const badOutput = (what: string): RuntimeError =>
    new RuntimeError(`${clause}: ${what}${said}`, { kind: "internal", code: "CNI_BAD_OUTPUT" });
  if (isTooLong) throw badOutput(`more than ${MAX_STDOUT_BYTES} bytes on standard output`);
  const answer = parseObject(stdout);
  if (end !== 0) throw failure(clause, end, answer, stdout, said);
  if (answer === undefined && stdout.trim() !== "")
    throw badOutput(`standard output is not a JSON object: ${printable(stdout)}`);
  return answer;
}

function failure(
  clause: string,
  end: number | string,
  answer: Record<string, unknown> | undefined,
  stdout: string,
  said: string,
): RuntimeError {
  const how = typeof end === "number" ? `exit code ${end}` : `killed by ${end}`;
  if (answer && typeof answer["code"] === "number") {
    const { msg, details } = answer;
    const words = [msg, details]
      .filter((word) => typeof word === "string" && word !== "")
      .map((word) => printable(String(word)));
    return new RuntimeError(`${clause}: ${words.join("; ") || how} (code ${answer["code"]})${said}`, {
      kind: KIND_BY_CNI_CODE[answer["code"]] ?? "internal",
      code: "CNI_PLUGIN_FAILED",
    });
  }
  const shown = stdout.trim() === "" ? "and no error object" : `and no error object: ${printable(stdout)}`;
  return new RuntimeError(`${clause}: ${how} ${shown}${said}`, { kind: "internal", code: "CNI_PLUGIN_FAILED" });
}

/** @throws RuntimeError `failed-precondition` CNI_PLUGIN_MISSING */
export async function findPlugin(type: string, network: string, dirs: readonly string[]): Promise<string> {
  for (const dir of dirs) {
    const file = join(dir, type);
    if (
      await access(file, constants.X_OK).then(
        () => true,
        () => false,
      )
    )
      return file;
  }
  throw new RuntimeError(
    `CNI plugin "${type}" of network "${network}": not in ${dirs.join(", ")} (settings: network.cni.plugin-dirs)`,
    { kind: "failed-precondition", code: "CNI_PLUGIN_MISSING" },
  );
}

function execute(file: string, run: PluginRun, { pluginDirs, timeoutMs }: PluginSettings): Promise<Outcome> {
  const child = spawn(file, [], {
    cwd: "/",
    detached: true,
    stdio: ["pipe", "pipe", "pipe"],
    env: {
      PATH: process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin",
      ...run.env,
      CNI_COMMAND: run.command,
      CNI_PATH: pluginDirs.join(":"),
    },
  });
  return new Promise((resolve, reject) => {
    const stdout = collector(child.stdout, MAX_STDOUT_BYTES, () => killGroup(child));
    const stderr = collector(child.stderr, MAX_STDERR_BYTES, () => undefined);
    let isTimedOut = false;
    const timer = setTimeout(() => {
      isTimedOut = true;
      killGroup(child);
    }, timeoutMs);
    child.once("error", (err) => {
      clearTimeout(timer);
      reject(startFailure(err, file, run));
    });
    child.once("exit", (code, signal) => {
      clearTimeout(timer);
      const settle = () => {
        clearTimeout(grace);
        for (const pipe of [child.stdin, child.stdout, child.stderr]) pipe?.destroy();
        resolve({
          stdout: stdout.text(),
          stderr: stderr.text(),
          end: signal ?? code ?? 0,
          isTimedOut,
          isTooLong: stdout.isFull(),
        });
      };
      // What it started in its group ends with it, or could change the network later on.
      if (isTimedOut || stdout.isFull()) killGroup(child);
      const grace = setTimeout(settle, PIPE_GRACE_MS);
      child.once("close", settle);
    });
    // A plugin may end without reading: that is its own affair.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(JSON.stringify(run.config));
  });
}

function startFailure(err: Error, file: string, run: PluginRun): RuntimeError {
  const errno = "code" in err ? String(err.code) : "unknown";
  // A script whose interpreter is missing is ENOENT too.
  const hint = hasErrno(err, "ENOENT") ? " (its interpreter is missing)" : "";
  return new RuntimeError(
    `CNI plugin "${run.type}" of network "${run.network}": start "${file}": execve: ${errno}${hint}`,
    {
      kind: "failed-precondition",
      code: "CNI_PLUGIN_MISSING",
      syscall: { name: "execve", errno },
      cause: err,
    },
  );
}

function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // All of it has ended.
  }
}

function collector(stream: NodeJS.ReadableStream | null, limit: number, onFull: () => void) {
  const chunks: Buffer[] = [];
  let size = 0;
  stream?.on("data", (chunk: Buffer) => {
    if (size <= limit) chunks.push(chunk);
    size += chunk.length;
    if (size > limit) onFull();
  });
  return {
    text: () => Buffer.concat(chunks).subarray(0, limit).toString("utf8"),
    isFull: () => size > limit,
  };
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** On one line: what a plugin says goes to logs and to clients of CRI. */
function printable(text: string): string {
  const line = text.trim().replace(/[\p{Cc}\ufffd]+/gu, " ");
  return line.length > MAX_SHOWN ? `${line.slice(0, MAX_SHOWN)}…` : line;
}
