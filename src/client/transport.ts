/**
 * HTTP over the daemon's unix socket, with Status answers turned back into RuntimeErrors.
 */
import { type ClientRequest, type IncomingMessage, request as httpRequest } from "node:http";
import type { Readable } from "node:stream";
import { socketAddress } from "../api/unix-socket.js";
import { ERROR_CODES, type ErrorCode } from "../base/error-codes.js";
import { type ErrorKind, hasErrno, RuntimeError } from "../base/errors.js";

export interface HttpOptions {
  readonly method?: string;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Sent as it comes, instead of `body`: the bytes of a tar archive. */
  readonly stream?: Readable | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Sends a request; resolves with a successful answer whose body is still to be read. */
export async function send(socketPath: string, path: string, options: HttpOptions = {}): Promise<IncomingMessage> {
  const body = options.body === undefined ? undefined : Buffer.from(JSON.stringify(options.body));
  let target: Awaited<ReturnType<typeof socketAddress>>;
  try {
    target = await socketAddress(socketPath);
  } catch (err) {
    throw unreachable(socketPath, err);
  }
  try {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const request = httpRequest(
        {
          socketPath: target.address,
          path,
          method: options.method ?? "GET",
          agent: false,
          headers: {
            host: "minke",
            ...(body && { "content-type": "application/json", "content-length": body.length }),
            ...(options.stream && { "content-type": "application/x-tar" }),
          },
          signal: options.signal,
        },
        resolve,
      );
      request.on("error", (err) => reject(options.signal?.aborted ? cancelled() : unreachable(socketPath, err)));
      if (options.stream) sendStream(options.stream, request, reject);
      else request.end(body);
    });
    if ((response.statusCode ?? 500) < 400) return response;
    throw errorOfStatus(await readText(response), response.statusCode ?? 500);
  } finally {
    await target.close();
  }
}

function sendStream(stream: Readable, request: ClientRequest, fail: (err: unknown) => void): void {
  stream.once("error", (err) => {
    request.destroy();
    fail(err);
  });
  // The daemon may refuse before it has read all; what is left is nobody's.
  request.once("response", () => stream.destroy());
  stream.pipe(request);
}

export async function sendForJson<T>(socketPath: string, path: string, options: HttpOptions = {}): Promise<T> {
  return JSON.parse(await readText(await send(socketPath, path, options))) as T;
}

export async function readText(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString("utf8");
}

/** Objects of a stream of JSON lines, as they come. */
export async function* jsonLines<T>(response: IncomingMessage): AsyncGenerator<T> {
  let rest = "";
  response.setEncoding("utf8");
  for await (const chunk of response) {
    const lines = (rest + String(chunk)).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line !== "") yield JSON.parse(line) as T;
  }
}

const KIND_BY_REASON: Readonly<Record<string, ErrorKind>> = {
  AlreadyExists: "already-exists",
  BadRequest: "invalid-argument",
  Canceled: "cancelled",
  Conflict: "failed-precondition",
  Forbidden: "permission-denied",
  Invalid: "invalid-argument",
  MethodNotAllowed: "unimplemented",
  NotFound: "not-found",
  ServiceUnavailable: "unavailable",
  Timeout: "deadline-exceeded",
  TooManyRequests: "resource-exhausted",
};

interface StatusText {
  message?: string;
  reason?: string;
  details?: { causes?: { reason?: string }[] };
}

/** The error that a Status object says. */
export function errorOfStatus(body: string | object, httpCode: number): RuntimeError {
  let status: StatusText = {};
  try {
    status = (typeof body === "string" ? JSON.parse(body) : body) as StatusText;
  } catch {
    status = { message: `the daemon answered ${httpCode}` };
  }
  const code = status.details?.causes?.[0]?.reason;
  return new RuntimeError(status.message ?? `the daemon answered ${httpCode}`, {
    kind: KIND_BY_REASON[status.reason ?? ""] ?? "internal",
    code: isErrorCode(code) ? code : "INTERNAL",
  });
}

const isErrorCode = (code: string | undefined): code is ErrorCode =>
  code !== undefined && Object.hasOwn(ERROR_CODES, code);

function unreachable(socketPath: string, cause: unknown): RuntimeError {
  if (hasErrno(cause, "EACCES")) {
    return new RuntimeError(`connect to the daemon at "${socketPath}": EACCES (only root may; try sudo)`, {
      kind: "permission-denied",
      code: "PERMISSION_DENIED",
      cause,
    });
  }
  const why =
    hasErrno(cause, "ENOENT") || hasErrno(cause, "ECONNREFUSED")
      ? "no daemon runs there"
      : cause instanceof Error
        ? cause.message
        : String(cause);
  return new RuntimeError(`connect to the daemon at "${socketPath}": ${why}`, {
    kind: "unavailable",
    code: "DAEMON_UNREACHABLE",
    cause,
  });
}

function cancelled(): RuntimeError {
  return new RuntimeError("the request was cancelled", { kind: "cancelled", code: "CANCELLED" });
}
