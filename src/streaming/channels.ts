/**
 * Kubernetes' stream channels over WebSocket, `v5.channel.k8s.io` and `v4.channel.k8s.io`: each
 * binary message is one byte of channel and the payload; in v5 channel 255 closes another one
 * (KEP-4006). Used by the API server here and, for the numbers, by the client.
 *
 * Back-pressure goes both ways: output is read only as fast as the socket takes it, and the
 * socket is paused while a process does not read its stdin.
 */
import type { Readable, Writable } from "node:stream";
import type { WebSocket } from "ws";
import { parseTerminalSize } from "./terminal-size.js";

export const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, status: 3, resize: 4, close: 255 } as const;

/** In order of preference. */
export const STREAM_PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"] as const;

/** A client's message may be this large; kubectl sends 32 KiB. */
export const MAX_MESSAGE_BYTES = 1024 * 1024;

/** What a stream is connected to: an exec, or an attachment. */
export interface ChannelSession {
  readonly stdin: Writable | undefined;
  readonly stdout: Readable;
  readonly stderr: Readable | undefined;
  resize(columns: number, rows: number): void;
  readonly exited: Promise<{ readonly exitCode: number }>;
  close(): void;
}

/** Which channels the client asked for. */
export interface ChannelSelection {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

export function channelFrame(channel: number, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(payload.length + 1);
  frame[0] = channel;
  frame.set(payload, 1);
  return frame;
}

/** Kubernetes' answer for an exit code on the status channel. */
export function exitStatus(exitCode: number): object {
  if (exitCode === 0) return { kind: "Status", apiVersion: "v1", metadata: {}, status: "Success" };
  return {
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Failure",
    message: `command terminated with exit code ${exitCode}`,
    reason: "NonZeroExitCode",
    details: { causes: [{ reason: "ExitCode", message: String(exitCode) }] },
  };
}

/** Connects a socket with a session until one of them ends. Never rejects. */
export async function serveChannels(
  socket: WebSocket,
  session: ChannelSession,
  selection: ChannelSelection,
  failure: (err: unknown) => object,
): Promise<void> {
  socket.on("close", () => session.close());
  socket.on("error", () => session.close());
  socket.on("message", (message: Buffer, isBinary: boolean) => {
    const bytes = isBinary ? message : Buffer.from(message);
    receive(socket, session, selection, bytes);
  });
  // A process that ends with input unread breaks its pipe; the exit code says what matters.
  session.stdin?.on("error", () => undefined);
  if (!selection.stdin) session.stdin?.end();
  try {
    await Promise.all([
      copyOut(socket, session.stdout, selection.stdout ? CHANNEL.stdout : undefined),
      session.stderr && copyOut(socket, session.stderr, selection.stderr ? CHANNEL.stderr : undefined),
    ]);
    const { exitCode } = await session.exited;
    await send(socket, CHANNEL.status, Buffer.from(JSON.stringify(exitStatus(exitCode))));
  } catch (err) {
    await send(socket, CHANNEL.status, Buffer.from(JSON.stringify(failure(err))));
  }
  socket.close(1000);
}

function receive(socket: WebSocket, session: ChannelSession, selection: ChannelSelection, message: Buffer): void {
  const channel = message[0];
  const payload = message.subarray(1);
  if (channel === CHANNEL.stdin && selection.stdin && session.stdin?.writable) {
    if (session.stdin.write(payload)) return;
    socket.pause();
    session.stdin.once("drain", () => socket.resume());
    session.stdin.once("close", () => socket.resume());
  } else if (channel === CHANNEL.resize) {
    const size = parseTerminalSize(payload.toString("utf8"));
    if (size) session.resize(size.columns, size.rows);
  } else if (channel === CHANNEL.close && payload[0] === CHANNEL.stdin) {
    session.stdin?.end();
  }
}

/** Reads to the end, also where nobody wants the output: a full pipe would hold up the process. */
async function copyOut(socket: WebSocket, source: Readable, channel: number | undefined): Promise<void> {
  for await (const chunk of source) {
    if (channel === undefined) continue;
    await send(socket, channel, chunk as Buffer);
  }
}

/** Resolves when the socket has taken the bytes, or is closed. */
function send(socket: WebSocket, channel: number, payload: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    if (socket.readyState !== socket.OPEN) return resolve();
    socket.send(channelFrame(channel, payload), () => resolve());
  });
}
