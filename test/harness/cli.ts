/**
 * Runs the minke command as a user does: a process of its own, with its exit code and output.
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { SLOWNESS } from "./slowness.js";

/** The repository. */
export const PROJECT = fileURLToPath(new URL("../..", import.meta.url));

export const MINKE = `${PROJECT}dist/cli/main.js`;

export interface CommandResult {
  /** `-1` where a signal ended it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Written to standard input, which is then closed; `undefined`: no input. */
  readonly input?: string | undefined;
  /** After which the process is killed and the call throws. Default: 60 s. */
  readonly timeoutMs?: number;
}

/** Runs a program to its end; a code other than 0 is a result, not an error. */
export function runCommand(
  program: string,
  args: readonly string[],
  { env = {}, input, timeoutMs = 60_000 * SLOWNESS }: CommandOptions = {},
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      env: { ...process.env, ...env },
      cwd: PROJECT,
      stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    });
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    child.stdout?.on("data", (chunk: Buffer) => stdout.push(chunk));
    child.stderr?.on("data", (chunk: Buffer) => stderr.push(chunk));
    const output = () => ({ stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() });
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      reject(new Error(`${program} ${args.join(" ")}: no end within ${timeoutMs} ms\n${JSON.stringify(output())}`));
    }, timeoutMs);
    child.once("error", reject);
    child.once("close", (code) => {
      clearTimeout(timer);
      resolve({ code: code ?? -1, ...output() });
    });
    child.stdin?.end(input);
  });
}
