/**
 * What every command shares: its global options, the connection, and how it ends.
 */
import type { MinkeClient } from "../client/index.js";
import { type RuntimeError, toRuntimeError, withContext } from "../base/errors.js";

export interface GlobalOptions {
  readonly root?: string;
  readonly run?: string;
  readonly api?: string;
  readonly namespace: string;
}

/** Part of the command's contract: scripts rely on these. */
export const EXIT = { ok: 0, failed: 1, badInput: 2, notFound: 3, unreachable: 4 } as const;

export function exitCodeOf(error: RuntimeError): number {
  if (error.code === "DAEMON_UNREACHABLE" || error.code === "DAEMON_START_FAILED") return EXIT.unreachable;
  if (error.kind === "invalid-argument") return EXIT.badInput;
  if (error.kind === "not-found") return EXIT.notFound;
  return EXIT.failed;
}

/** Connects, and says so where a daemon has to be started for it. */
export async function connectTo(
  options: GlobalOptions,
  behaviour: { startDaemon: boolean } = { startDaemon: true },
): Promise<MinkeClient> {
  const { connect } = await import("../client/index.js");
  return connect({
    root: options.root,
    run: options.run,
    api: options.api,
    startDaemon: behaviour.startDaemon,
    onStart: ({ root, logPath, config }) =>
      note(`no daemon is running, starting one (root ${root}, log ${logPath}${config ? `, settings ${config}` : ""})`),
  });
}

/** For people: to standard error, so that standard output stays the result. */
export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

export function print(text: string): void {
  process.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
}

/** Says what went wrong and sets the exit code; ManifestErrors one problem a line. */
export function reportError(err: unknown): void {
  const error = toRuntimeError(err);
  const lines = error.code === "INVALID_MANIFEST" ? error.message.split("; ") : [error.message];
  const [first = "", ...more] = lines;
  note(`error: ${first}`);
  for (const line of more) note(`       ${line}`);
  process.exitCode = exitCodeOf(error);
}

/** Of standard output: a reader that went away (`minke logs | head`) is a normal end, any other failure is none. */
export function onBrokenOutput(err: NodeJS.ErrnoException): void {
  if (err.code === "EPIPE") process.exit(EXIT.ok);
  reportError(withContext(err, "write to standard output"));
  process.exit();
}
