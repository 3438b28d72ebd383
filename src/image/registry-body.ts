/**
 * Bodies of a registry: read with an eye on progress, and for layers put together from as many
 * requests as it takes (`Range`). Nothing is hashed here; whoever reads does that.
 */
import { Readable } from "node:stream";
import type { Dispatcher } from "undici";
import { RuntimeError } from "../base/errors.js";
import { cancelled } from "./flight.js";
import { markResumed } from "./resumed-streams.js";
import { header, isTransient, type RegistryTransport, transportError } from "./registry-transport.js";

/** Less than this in `stallMs` is no progress: a server that sends a byte now and then holds nobody up. */
const MIN_PROGRESS_BYTES = 16 * 1024;
const STREAM_BUFFER_BYTES = 256 * 1024;

/** Pieces of a body. Fails as `transportError` says, also where it trickles; waiting for the reader costs no time. */
async function* piecesOf(
  response: Dispatcher.ResponseData,
  stallMs: number,
  subject: string,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const pieces = response.body[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  let waitedMs = 0;
  let seenBytes = 0;
  try {
    for (;;) {
      const startedAtMs = performance.now();
      const stalled = setTimeout(
        () => response.body.destroy(new Error(`no progress in ${stallMs} ms`)),
        stallMs - waitedMs,
      );
      let next: IteratorResult<Buffer>;
      try {
        next = await pieces.next();
      } finally {
        clearTimeout(stalled);
      }
      if (next.done) return;
      waitedMs += performance.now() - startedAtMs;
      seenBytes += next.value.length;
      if (seenBytes >= MIN_PROGRESS_BYTES) waitedMs = seenBytes = 0;
      yield next.value;
    }
  } catch (err) {
    throw transportError(err, subject, signal);
  } finally {
    response.body.destroy();
  }
}

/**
 * A whole small body.
 *
 * @throws RuntimeError `data-loss` IMAGE_MALFORMED: longer than `capBytes`; `unavailable` REGISTRY_UNAVAILABLE
 */
export async function readBody(
  response: Dispatcher.ResponseData,
  capBytes: number,
  stallMs: number,
  subject: string,
  signal: AbortSignal,
): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of piecesOf(response, stallMs, subject, signal)) {
    size += piece.length;
    if (size > capBytes) {
      throw new RuntimeError(`get ${subject}: more than the ${capBytes} bytes that are allowed`, {
        kind: "data-loss",
        code: "IMAGE_MALFORMED",
      });
    }
    pieces.push(piece);
  }
  return Buffer.concat(pieces, size);
}

export interface BlobRequest {
  readonly sizeBytes: number;
  readonly subject: string;
  readonly transport: RegistryTransport;
  readonly signal: AbortSignal;
  /** Asks for the bytes from an offset on; a status other than 200 and 206 throws. */
  open(offsetBytes: number, signal: AbortSignal): Promise<Dispatcher.ResponseData>;
}

/**
 * The bytes of a blob, exactly as many as its descriptor says. A connection that breaks is
 * opened again where it broke; what counts as a try is one that brought nothing.
 *
 * The stream fails with `unavailable` REGISTRY_UNAVAILABLE where the registry gives up, and with
 * `data-loss` DIGEST_MISMATCH where it has more bytes, or says that it has another number of them.
 */
export async function openBlob(request: BlobRequest): Promise<Readable> {
  const abort = new AbortController();
  const stop = () => abort.abort(request.signal.reason);
  request.signal.addEventListener("abort", stop, { once: true });
  if (request.signal.aborted) stop();
  try {
    // The first answer is waited for: a blob that is not there is no stream.
    const first = await request.open(0, abort.signal);
    checkLength(first, 0, request);
    const onResume = () => markResumed(stream);
    const stream = Readable.from(bytesOf(first, request, abort.signal, onResume), {
      objectMode: false,
      highWaterMark: STREAM_BUFFER_BYTES,
    });
    stream.once("close", () => {
      request.signal.removeEventListener("abort", stop);
      // A reader that has gone away ends the request, also while it waits for bytes.
      abort.abort(new Error("the reader has gone"));
    });
    return stream;
  } catch (err) {
    request.signal.removeEventListener("abort", stop);
    throw request.signal.aborted ? cancelled(request.signal) : err;
  }
}

async function* bytesOf(
  first: Dispatcher.ResponseData,
  request: BlobRequest,
  signal: AbortSignal,
  onResume: () => void,
): AsyncGenerator<Buffer> {
  const { sizeBytes, subject, transport } = request;
  const { stallMs, attempts, retryBaseMs, retryMaxMs } = transport.times;
  let response = first;
  /** Bytes that were given on. */
  let seenBytes = 0;
  for (let triesWithout = 0; ; ) {
    // A registry without ranges sends all again; what has been given on already is dropped.
    let dropBytes = response.statusCode === 206 ? 0 : seenBytes;
    const before = seenBytes;
    try {
      for await (const piece of piecesOf(response, stallMs, subject, signal)) {
        const dropped = Math.min(dropBytes, piece.length);
        dropBytes -= dropped;
        if (dropped === piece.length) continue;
        seenBytes += piece.length - dropped;
        if (seenBytes > sizeBytes) throw wrongSize(subject, sizeBytes, "the body goes on");
        yield piece.subarray(dropped);
      }
      if (seenBytes === sizeBytes) return;
      throw unavailable(`get ${subject}: the body ended after ${seenBytes} of ${sizeBytes} bytes`);
    } catch (err) {
      if (request.signal.aborted) throw cancelled(request.signal);
      // An end that came too early may also be a connection that was cut between two chunks.
      const isShort = err instanceof RuntimeError && err.code === "REGISTRY_UNAVAILABLE";
      if (signal.aborted || !(isShort || isTransient(err))) throw err;
      triesWithout = seenBytes > before ? 1 : triesWithout + 1;
      if (triesWithout >= attempts) throw err;
    }
    await transport.pause(Math.min(retryBaseMs * 2 ** (triesWithout - 1), retryMaxMs), request.signal);
    if (seenBytes > 0) onResume();
    response = await request.open(seenBytes, signal);
    checkLength(response, seenBytes, request);
  }
}

/** The length that an answer announces, and for a part also where it begins, must be what was asked for. */
function checkLength(
  response: Dispatcher.ResponseData,
  offsetBytes: number,
  { sizeBytes, subject }: BlobRequest,
): void {
  const problem = lengthProblem(response, offsetBytes, sizeBytes);
  if (problem === undefined) return;
  response.body.destroy();
  throw wrongSize(subject, sizeBytes, problem);
}

function lengthProblem(response: Dispatcher.ResponseData, offsetBytes: number, sizeBytes: number): string | undefined {
  const length = header(response, "content-length");
  const isPart = response.statusCode === 206;
  if (isPart) {
    const range = header(response, "content-range") ?? "";
    const match = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(range.trim());
    const fits =
      match !== null &&
      Number(match[1]) === offsetBytes &&
      Number(match[2]) === sizeBytes - 1 &&
      (match[3] === "*" || Number(match[3]) === sizeBytes);
    if (!fits)
      return `the registry answers byte ${offsetBytes} with the range "${range.replace(/[^\x20-\x7e]/g, "?").slice(0, 80)}"`;
  }
  const expected = isPart ? sizeBytes - offsetBytes : sizeBytes;
  return length === undefined || Number(length) === expected ? undefined : `the registry offers ${length}`;
}

function unavailable(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "unavailable", code: "REGISTRY_UNAVAILABLE" });
}

function wrongSize(subject: string, sizeBytes: number, what: string): RuntimeError {
  return new RuntimeError(`get ${subject}: it must have ${sizeBytes} bytes, but ${what}`, {
    kind: "data-loss",
    code: "DIGEST_MISMATCH",
  });
}
