/**
 * Exec and attach over SPDY/3.1: the remotecommand protocols v2 to v5 of Kubernetes.
 *
 * The client opens a stream for each of stdin, stdout, stderr, resize and error, told apart by the
 * header `streamType`. The status goes over the error stream when everything else has been
 * sent: as JSON since v4, as text for a failure before. Knows no container.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Readable } from "node:stream";
import { type ChannelSelection, type ChannelSession, exitStatus } from "./channels.js";
import { copy, finish } from "./copy.js";
import type { SpdyConnection, SpdyStream } from "./spdy/connection.js";
import { parseTerminalSize } from "./terminal-size.js";

/** In order of preference. */
export const REMOTE_COMMAND_PROTOCOLS = [
  "v5.channel.k8s.io",
  "v4.channel.k8s.io",
  "v3.channel.k8s.io",
  "v2.channel.k8s.io",
] as const;
export type RemoteCommandProtocol = (typeof REMOTE_COMMAND_PROTOCOLS)[number];

/** How long a client may take to open its streams. */
const STREAM_CREATION_MS = 30_000;
const MAX_SIZE_LINE_CHARACTERS = 256;

export interface RemoteCommand {
  readonly protocol: RemoteCommandProtocol;
  readonly selection: ChannelSelection;
  readonly tty: boolean;
  /** Starts the command or attaches; called once the client's streams are there. */
  open(): Promise<ChannelSession>;
  /** A failure as a Kubernetes `Status` object. */
  failure(err: unknown): { readonly message?: string };
}

/** Collects the streams of one session as the client opens them; pass `take` as the connection's `onStream`. */
export class RemoteCommandStreams {
  readonly #streams = new Map<string, SpdyStream>();
  readonly #wanted: ReadonlySet<string>;
  readonly complete: Promise<void>;
  #resolve: () => void = () => undefined;

  constructor({ selection, tty, protocol }: Pick<RemoteCommand, "selection" | "tty" | "protocol">) {
    const hasResize = tty && protocol !== "v2.channel.k8s.io";
    this.#wanted = new Set([
      "error",
      ...(selection.stdin ? ["stdin"] : []),
      ...(selection.stdout ? ["stdout"] : []),
      // A terminal has one output; clients open no stderr with it.
      ...(selection.stderr && !tty ? ["stderr"] : []),
      ...(hasResize ? ["resize"] : []),
    ]);
    this.complete = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** @throws for a stream that is not wanted, or twice */
  take(stream: SpdyStream): void {
    const type = stream.headers.get("streamtype") ?? "";
    if (!this.#wanted.has(type) || this.#streams.has(type)) throw new Error(`a stream of type "${type}"`);
    this.#streams.set(type, stream);
    if (this.#streams.size === this.#wanted.size) this.#resolve();
  }

  get(type: "error" | "stdin" | "stdout" | "stderr" | "resize"): SpdyStream | undefined {
    return this.#streams.get(type);
  }
}

/** Serves one session until it ends or the client is gone. Never rejects. */
export async function serveRemoteCommand(
  connection: SpdyConnection,
  streams: RemoteCommandStreams,
  command: RemoteCommand,
): Promise<void> {
  const abort = new AbortController();
  const tooLate = sleep(STREAM_CREATION_MS, false, { signal: abort.signal }).catch(() => false);
  const gone = connection.closed.then(() => false);
  const hasStreams = await Promise.race([streams.complete.then(() => true), tooLate, gone]);
  abort.abort();
  if (!hasStreams) return connection.destroy();
  const status = await runSession(connection, streams, command);
  const error = streams.get("error");
  if (error) await finish(error, toStatusBytes(command.protocol, status));
  connection.close();
}

async function runSession(
  connection: SpdyConnection,
  streams: RemoteCommandStreams,
  command: RemoteCommand,
): Promise<object> {
  try {
    const session = await command.open();
    void connection.closed.then(() => session.close());
    return await connect(streams, session);
  } catch (err) {
    return command.failure(err);
  } finally {
    for (const type of ["stdout", "stderr"] as const) streams.get(type)?.end();
  }
}

async function connect(streams: RemoteCommandStreams, session: ChannelSession): Promise<object> {
  // A process that ends with input unread breaks its pipe; the exit code says what matters.
  session.stdin?.on("error", () => undefined);
  const stdin = streams.get("stdin");
  if (stdin && session.stdin) {
    const { stdin: target } = session;
    void copy(stdin, target).then(
      () => target.end(),
      () => undefined,
    );
  } else {
    session.stdin?.end();
    stdin?.resume();
  }
  const resize = streams.get("resize");
  if (resize) void followSizes(resize, session).catch(() => undefined);
  const stdout = streams.get("stdout");
  const stderr = streams.get("stderr");
  await Promise.all([
    copy(session.stdout, stdout).then(() => stdout && finish(stdout)),
    session.stderr && copy(session.stderr, stderr).then(() => stderr && finish(stderr)),
  ]);
  const { exitCode } = await session.exited;
  return exitStatus(exitCode);
}

/** One JSON object a line. */
async function followSizes(source: Readable, session: ChannelSession): Promise<void> {
  let pending = "";
  for await (const chunk of source) {
    const lines = (pending + String(chunk)).split("\n");
    pending = (lines.pop() ?? "").slice(-MAX_SIZE_LINE_CHARACTERS);
    for (const line of lines) {
      const size = parseTerminalSize(line);
      if (size) session.resize(size.columns, size.rows);
    }
  }
}

function toStatusBytes(
  protocol: RemoteCommandProtocol,
  status: { readonly status?: string; readonly message?: string },
): Buffer | undefined {
  if (protocol === "v5.channel.k8s.io" || protocol === "v4.channel.k8s.io") return Buffer.from(JSON.stringify(status));
  return status.status === "Success" ? undefined : Buffer.from(status.message ?? "");
}
