/**
 * Runs `minke-layer`, the program that turns a layer's stream into a directory. Moves bytes
 * into it with back-pressure; hashes, decompression and files are its own.
 *
 * The protocol is at the head of native/layer/main.cc.
 */
import { lstat } from "node:fs/promises";
import { type Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { ErrorCode } from "../base/error-codes.js";
import { type ErrorKind, hasErrno, RuntimeError, toRuntimeError } from "../base/errors.js";
import { type Digest, isDigest } from "../base/ids.js";
import { cancelled } from "./flight.js";
import { type LayerProgram, startProgram } from "./layer-program.js";

const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

export interface UnpackedLayer {
  readonly digest: Digest;
  readonly diffId: Digest;
  readonly compressedBytes: number;
  readonly bytes: number;
  readonly entries: number;
  readonly compression: string;
  readonly unsupportedXattrs: number;
  /** Of the record of the archive, where one was asked for. */
  readonly recordDigest?: Digest | undefined;
  readonly recordBytes?: number | undefined;
}

export interface UnpackRequest {
  /** An existing empty directory. */
  readonly dest: string;
  /** The parent of `dest`: gets what is needed to make the archive's exact bytes again. */
  readonly recordIn?: string | undefined;
  readonly source: Readable;
  /** Told how many bytes of the source have passed. */
  readonly onBytes?: ((bytes: number) => void) | undefined;
  readonly expectDigest?: Digest | undefined;
  readonly expectDiffId?: Digest | undefined;
  /** Of the tar stream, and of all files together. */
  readonly maxBytes?: number | undefined;
  readonly maxEntries?: number | undefined;
  readonly signal: AbortSignal;
}

const PROBLEMS: Readonly<Record<string, [ErrorKind, ErrorCode]>> = {
  DIGEST_MISMATCH: ["data-loss", "DIGEST_MISMATCH"],
  LAYER_DAMAGED: ["data-loss", "LAYER_DAMAGED"],
  LAYER_CORRUPT: ["data-loss", "LAYER_CORRUPT"],
  LAYER_TRUNCATED: ["data-loss", "LAYER_TRUNCATED"],
  LAYER_REFUSED: ["invalid-argument", "LAYER_REFUSED"],
  LAYER_UNSUPPORTED: ["unimplemented", "LAYER_UNSUPPORTED"],
  LAYER_TOO_LARGE: ["resource-exhausted", "LAYER_TOO_LARGE"],
};

/**
 * Unpacks a stream. What a failure leaves in `dest` is the caller's to remove; the program has ended then.
 *
 * @throws RuntimeError with the codes of `PROBLEMS`, or by errno; whatever `source` fails with
 */
export async function unpackLayer(request: UnpackRequest): Promise<UnpackedLayer> {
  const args = ["--dest", request.dest];
  if (request.recordIn !== undefined) args.push("--record", request.recordIn);
  if (request.expectDigest) args.push("--expect-digest", request.expectDigest);
  if (request.expectDiffId) args.push("--expect-diffid", request.expectDiffId);
  if (request.maxBytes !== undefined) args.push("--max-bytes", String(request.maxBytes));
  if (request.maxEntries !== undefined) args.push("--max-entries", String(request.maxEntries));
  const answer = await runLayerProgram(args, request.source, request.signal, request.onBytes);
  const { digest, diffId } = answer;
  if (typeof digest !== "string" || typeof diffId !== "string" || !isDigest(digest) || !isDigest(diffId)) {
    throw new RuntimeError("unpack layer: minke-layer gave no digests", { kind: "internal", code: "INTERNAL" });
  }
  return answer as unknown as UnpackedLayer;
}

/** syncfs(2) of the file system that holds the directory: everything written to it so far is on disk. */
export async function syncFileSystem(dir: string): Promise<void> {
  await runLayerProgram(["--syncfs", dir], undefined, undefined);
}

/** Removes a tree of a layer: its names may be bytes that a JavaScript string cannot hold. */
export async function removeTree(path: string): Promise<void> {
  // Most often there is nothing, which needs no program to find out.
  const isThere = await lstat(path).then(
    () => true,
    (err: unknown) => !hasErrno(err, "ENOENT"),
  );
  if (!isThere) return;
  await runLayerProgram(["--remove", path], undefined, undefined);
}

export async function runLayerProgram(
  args: readonly string[],
  source: Readable | undefined,
  signal: AbortSignal | undefined,
  onBytes: (bytes: number) => void = () => undefined,
): Promise<Record<string, unknown>> {
  if (signal?.aborted) throw cancelled(signal);
  let sourceFailure: unknown;
  let program: LayerProgram | undefined;
  const kill = () => program?.kill();
  source?.once("error", (err) => {
    if (isClosedPipe(err)) return;
    // The program must not take a broken stream for one that has ended.
    sourceFailure ??= err;
    kill();
  });
  signal?.addEventListener("abort", kill, { once: true });
  try {
    program = await startProgram(args, { hasInput: source !== undefined });
    if (signal?.aborted || sourceFailure !== undefined) kill();
    const said = cappedText(program.output).catch(() => "");
    let pipeFailure: unknown;
    if (source && program.input) {
      await pipeline(source, byteCounter(onBytes), program.input).catch((err: unknown) => {
        pipeFailure = err;
      });
    }
    const text = await said;
    const { exitCode, signal: ending } = await program.ended;
    if (signal?.aborted) throw cancelled(signal);
    if (sourceFailure !== undefined) throw sourceFailure;
    const answer = parseAnswer(text, ending === 0 ? `exit ${exitCode}` : `signal ${ending}`);
    // A program that ends early closes the pipe and says why, which has been thrown by now.
    if (pipeFailure !== undefined) throw pipeFailure;
    return answer;
  } catch (err) {
    throw toRuntimeError(err);
  } finally {
    signal?.removeEventListener("abort", kill);
    source?.destroy();
  }
}

function byteCounter(onBytes: (bytes: number) => void): Transform {
  let seen = 0;
  return new Transform({
    highWaterMark: 256 * 1024,
    transform(chunk: Buffer, _, done) {
      seen += chunk.length;
      onBytes(seen);
      done(null, chunk);
    },
  });
}

function isClosedPipe(err: unknown): boolean {
  const code = err instanceof Error && "code" in err ? err.code : undefined;
  const isWrite = err instanceof Error && "syscall" in err && err.syscall === "write";
  return code === "ERR_STREAM_PREMATURE_CLOSE" || (isWrite && (code === "EPIPE" || code === "ECONNRESET"));
}

async function cappedText(stream: Readable): Promise<string> {
  let text = "";
  for await (const chunk of stream) if (text.length < MAX_ANSWER_BYTES) text += (chunk as Buffer).toString("latin1");
  return text;
}

export function parseAnswer(line: string, ending: string): Record<string, unknown> {
  let answer: Record<string, unknown>;
  try {
    answer = JSON.parse(line) as Record<string, unknown>;
  } catch {
    throw new RuntimeError(`minke-layer gave no answer (${ending}: ${line.trim().slice(-200)})`, {
      kind: "internal",
      code: "INTERNAL",
    });
  }
  const error = answer["error"] as Record<string, string> | undefined;
  if (!error) return answer;
  const errno = error["errno"];
  const syscall = errno === undefined ? undefined : { name: error["syscall"] ?? "", errno };
  const entry = error["entry"] === undefined ? "" : `entry "${error["entry"]}": `;
  const cause = syscall ? `: ${syscall.name}: ${syscall.errno}` : "";
  const known = PROBLEMS[error["code"] ?? ""];
  const byErrno = toRuntimeError(Object.assign(new Error(), { code: errno ?? "", syscall: syscall?.name ?? "" }));
  const [kind, code] = known ?? [byErrno.kind, byErrno.code];
  throw new RuntimeError(`${entry}${error["message"]}${cause}`, { kind, code, syscall });
}
