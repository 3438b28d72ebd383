/**
 * Client side of exec and attach: one WebSocket, streams in and out, the exit code at the end.
 */
import { createConnection } from "node:net";
import { PassThrough, Writable } from "node:stream";
import { WebSocket } from "ws";
import { socketAddress } from "../api/unix-socket.js";
import { RuntimeError } from "../base/errors.js";
import { CHANNEL, channelFrame, STREAM_PROTOCOLS } from "../streaming/channels.js";
import { errorOfStatus, readText } from "./transport.js";

export interface RemoteStreams {
  readonly stdin: Writable;
  readonly stdout: PassThrough;
  readonly stderr: PassThrough;
  resize(columns: number, rows: number): void;
  /** The process's exit code. Rejects where the connection broke before it was known. */
  readonly exited: Promise<number>;
  close(): void;
}

interface StatusMessage {
  status?: string;
  message?: string;
  reason?: string;
  details?: { causes?: { reason?: string; message?: string }[] };
}

/** @param path with its query, of a pod's `exec` or `attach` */
export async function openStreams(socketPath: string, path: string): Promise<RemoteStreams> {
  const target = await socketAddress(socketPath);
  const socket = new WebSocket(`ws://minke${path}`, [...STREAM_PROTOCOLS], {
    perMessageDeflate: false,
    createConnection: () => createConnection(target.address),
  });
  // Listening before it opens: output may come with the same read as the answer to the upgrade.
  const streams = connectStreams(socket);
  // Where nobody asks for the exit code, a broken connection is no unhandled rejection.
  streams.exited.catch(() => undefined);
  try {
    await opened(socket, socketPath);
  } finally {
    await target.close();
  }
  return streams;
}

/** Resolves when the upgrade is answered; a refusal is the error that the daemon says. */
export function opened(socket: WebSocket, socketPath: string): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once("open", () => resolve());
    socket.once("error", (cause) =>
      reject(
        new RuntimeError(`connect to the daemon at "${socketPath}": ${cause.message}`, {
          kind: "unavailable",
          code: "DAEMON_UNREACHABLE",
          cause,
        }),
      ),
    );
    socket.once("unexpected-response", (_request, response) => {
      readText(response).then((body) => reject(errorOfStatus(body, response.statusCode ?? 500)), reject);
    });
  });
}

function connectStreams(socket: WebSocket): RemoteStreams {
  const stdout = new PassThrough();
  const stderr = new PassThrough();
  const outputs = new Map<number, PassThrough>([
    [CHANNEL.stdout, stdout],
    [CHANNEL.stderr, stderr],
  ]);
  const exited = new Promise<number>((resolve, reject) => {
    let hasStatus = false;
    socket.on("message", (message: Buffer) => {
      const [channel = -1] = message;
      const output = outputs.get(channel);
      if (output) {
        if (output.write(message.subarray(1))) return;
        socket.pause();
        output.once("drain", () => socket.resume());
      } else if (channel === CHANNEL.status) {
        hasStatus = true;
        settle(message.subarray(1), resolve, reject);
      }
    });
    socket.on("error", () => undefined);
    socket.on("close", () => {
      stdout.end();
      stderr.end();
      if (!hasStatus)
        reject(
          new RuntimeError("the connection to the daemon broke before the command ended", {
            kind: "unavailable",
            code: "DAEMON_UNREACHABLE",
          }),
        );
    });
  });
  const stdin = new Writable({
    write: (chunk: Buffer, _encoding, done) => socket.send(channelFrame(CHANNEL.stdin, chunk), () => done()),
    final: (done) => {
      if (socket.readyState !== socket.OPEN) return done();
      socket.send(channelFrame(CHANNEL.close, Buffer.from([CHANNEL.stdin])), () => done());
    },
  });
  return {
    stdin,
    stdout,
    stderr,
    exited,
    resize: (columns, rows) => {
      if (socket.readyState === socket.OPEN)
        socket.send(channelFrame(CHANNEL.resize, Buffer.from(JSON.stringify({ Width: columns, Height: rows }))));
    },
    close: () => socket.close(),
  };
}

function settle(payload: Buffer, resolve: (exitCode: number) => void, reject: (err: unknown) => void): void {
  const status = JSON.parse(payload.toString("utf8")) as StatusMessage;
  if (status.status === "Success") return resolve(0);
  const exitCode = status.details?.causes?.find(({ reason }) => reason === "ExitCode")?.message;
  if (status.reason === "NonZeroExitCode" && exitCode !== undefined) return resolve(Number(exitCode));
  reject(errorOfStatus(status, 500));
}
