/**
 * `minke exec` and `minke attach`: this terminal and these pipes, connected with a container.
 */
import { pipeline } from "node:stream/promises";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { RemoteStreams } from "../client/index.js";
import { connectTo, type GlobalOptions, note, reportError } from "./context.js";
import { chooseContainer, defaultContainer } from "./default-container.js";

export interface StreamOptions extends GlobalOptions {
  readonly container?: string;
  readonly stdin?: boolean;
  readonly tty?: boolean;
}

export async function execInPod(pod: string, command: readonly string[], options: StreamOptions): Promise<void> {
  const words = command[0] === "--" ? command.slice(1) : command;
  if (words.length === 0)
    throw new RuntimeError("a command is required: minke exec POD -- COMMAND", {
      kind: "invalid-argument",
      code: "INVALID_REQUEST",
    });
  const client = await connectTo(options);
  const tty = wantsTerminal(options);
  const { columns, rows } = process.stdout;
  const size = tty && columns && rows ? { columns, rows } : undefined;
  let streams: RemoteStreams;
  try {
    const container = await chooseContainer(client, options.namespace, podName(pod), options.container);
    const request = { command: words, container, stdin: options.stdin, tty, size };
    streams = await client.exec(options.namespace, podName(pod), request);
  } catch (err) {
    reportError(err);
    process.exitCode = SHELL_EXIT[toRuntimeError(err).code] ?? process.exitCode;
    return;
  }
  await connectHere(streams, { stdin: options.stdin ?? false, tty });
}

/** What a shell's exit code is for a command that it could not run (POSIX sh, "Exit Status for Commands"). */
const SHELL_EXIT: Readonly<Record<string, number>> = { COMMAND_NOT_FOUND: 127, COMMAND_NOT_EXECUTABLE: 126 };

export async function attachToPod(pod: string, options: StreamOptions): Promise<void> {
  const client = await connectTo(options);
  const tty = wantsTerminal(options);
  const found = await client.getPod(options.namespace, podName(pod));
  const container = options.container ?? defaultContainer(found);
  const spec = [...found.spec.containers, ...(found.spec.initContainers ?? [])].find(({ name }) => name === container);
  if (options.stdin && spec && !spec.stdin)
    note(`warning: container "${container}" reads no standard input; its manifest needs stdin: true`);
  const streams = await client.attach(options.namespace, podName(pod), {
    container,
    stdin: options.stdin,
    tty,
  });
  await connectHere(streams, { stdin: options.stdin ?? false, tty });
}

const podName = (word: string): string => word.replace(/^pods?\//, "");

function wantsTerminal(options: StreamOptions): boolean {
  if (!options.tty) return false;
  if (options.stdin && !process.stdin.isTTY) {
    note("warning: standard input is not a terminal, going on without one");
    return false;
  }
  return true;
}

/** The command's exit code becomes ours. The terminal is given back whatever happens. */
async function connectHere(streams: RemoteStreams, { stdin, tty }: { stdin: boolean; tty: boolean }): Promise<void> {
  const isRaw = tty && stdin && process.stdin.isTTY;
  const resize = () => streams.resize(process.stdout.columns, process.stdout.rows);
  if (isRaw) process.stdin.setRawMode(true);
  if (tty && process.stdout.isTTY) {
    process.stdout.on("resize", resize);
    resize();
  }
  if (stdin) {
    process.stdin.on("data", (chunk: Buffer) => {
      if (streams.stdin.write(chunk)) return;
      process.stdin.pause();
      streams.stdin.once("drain", () => process.stdin.resume());
    });
    process.stdin.on("end", () => streams.stdin.end());
  } else {
    streams.stdin.end();
  }
  try {
    const outputs = [
      pipeline(streams.stdout, process.stdout, { end: false }),
      pipeline(streams.stderr, process.stderr, { end: false }),
    ];
    process.exitCode = await streams.exited;
    streams.close();
    await Promise.all(outputs);
  } finally {
    process.stdout.off("resize", resize);
    if (isRaw) process.stdin.setRawMode(false);
    // A reader of standard input that is still open would keep the process alive.
    process.stdin.destroy();
    streams.close();
  }
}
