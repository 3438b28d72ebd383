/**
 * What `minke-layer` does with a layer that is stored: make its archive again, compare it with
 * its record, measure it. And the packing of streams that Node.js cannot do.
 *
 * Knows no image. All that runs long runs in a process of its own, at the lowest priority where
 * nobody waits for it.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { PassThrough, type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { Digest } from "../base/ids.js";
import { EXECUTABLE, parseAnswer, runLayerProgram } from "./minke-layer.js";

export interface LayerDamage {
  readonly kind: "content" | "metadata" | "missing" | "added" | "record";
  /** Below the layer's root; empty: the root, or the record itself. */
  readonly path: string;
  readonly message: string;
}

export interface LayerComparison {
  /** Of the archive made again; empty where the record cannot be read. */
  readonly diffId: string;
  readonly recordDigest: string;
  readonly bytes: number;
  readonly entries: number;
  /** Of all; `damage` lists the first ones. */
  readonly damageCount: number;
  readonly damage: readonly LayerDamage[];
}

export interface DirectoryUsage {
  /** Of the directory itself. */
  readonly bytes: number;
  readonly inodes: number;
  readonly children: readonly {
    readonly name: string;
    readonly isDirectory: boolean;
    readonly bytes: number;
    readonly inodes: number;
  }[];
}

/** @param dir of the layer: the parent of its tree */
export async function compareLayer(dir: string, signal?: AbortSignal): Promise<LayerComparison> {
  const answer = await runLayerProgram(["--verify", dir, "--background", "1"], undefined, signal);
  const comparison = answer as unknown as LayerComparison;
  return {
    ...comparison,
    damage: comparison.damage.map(({ kind, path, message }) => ({ kind, path: text(path), message: text(message) })),
  };
}

/** What du(1) says of a directory, child by child. */
export async function measureDirectory(dir: string): Promise<DirectoryUsage> {
  const usage = (await runLayerProgram(
    ["--usage", dir, "--background", "1"],
    undefined,
    undefined,
  )) as unknown as DirectoryUsage;
  return { ...usage, children: usage.children.map((child) => ({ ...child, name: text(child.name) })) };
}

/**
 * The tar stream of a stored layer. It fails with LAYER_DAMAGED at its end at the latest where it
 * is not the bytes that were unpacked.
 */
export function layerArchive(dir: string, diffId: Digest, signal: AbortSignal): Readable {
  return programOutput(["--emit", dir, "--expect-diffid", diffId], undefined, signal);
}

/** gzip, zstd or plain, told by the first bytes, as plain bytes. */
export function unpacked(source: Readable, maxBytes: number, signal: AbortSignal): Readable {
  return programOutput(["--decompress", "auto", "--max-bytes", String(maxBytes)], source, signal);
}

export function packedAsZstd(source: Readable, signal: AbortSignal): Readable {
  return programOutput(["--compress", "zstd"], source, signal);
}

/** Standard output of a run; its failure is the stream's. */
function programOutput(args: readonly string[], source: Readable | undefined, signal: AbortSignal): Readable {
  const child = spawn(EXECUTABLE, args, { stdio: [source ? "pipe" : "ignore", "pipe", "pipe"], env: {}, signal });
  const out = new PassThrough({ highWaterMark: 256 * 1024 });
  let sourceFailure: unknown;
  if (source && child.stdin) {
    // A program that ends early closes its pipe, and says why by its answer.
    pipeline(source, child.stdin).catch((err: unknown) => {
      if (child.exitCode === null && child.signalCode === null && !isClosedPipe(err)) {
        sourceFailure = err;
        child.kill("SIGKILL");
      }
    });
  }
  const ended = endOf(child);
  child.stdout?.pipe(out, { end: false });
  child.stdout?.on("error", () => undefined);
  ended.then(
    (answer) => {
      if (sourceFailure !== undefined) out.destroy(toRuntimeError(sourceFailure));
      else if (answer === undefined) out.end();
      else out.destroy(answer);
    },
    (err: unknown) => out.destroy(toRuntimeError(err)),
  );
  out.once("close", () => child.kill("SIGKILL"));
  return out;
}

/** Waits until the process has ended and all it wrote was read; the error it told, if one. */
async function endOf(child: ChildProcess): Promise<RuntimeError | undefined> {
  let said = "";
  child.stderr?.setEncoding("latin1");
  child.stderr?.on("data", (chunk: string) => {
    if (said.length < 65_536) said += chunk;
  });
  const [code, name] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (...end) => resolve(end));
  });
  if (code === 0) return undefined;
  try {
    parseAnswer(said.trim(), `exit ${code ?? name}`);
  } catch (err) {
    return toRuntimeError(err);
  }
  return new RuntimeError(`minke-layer ended with ${code ?? name}`, { kind: "internal", code: "INTERNAL" });
}

function isClosedPipe(err: unknown): boolean {
  const code = err instanceof Error && "code" in err ? err.code : undefined;
  return code === "EPIPE" || code === "ECONNRESET";
}

/** minke-layer gives the bytes of names as latin1. */
function text(latin1: string): string {
  return Buffer.from(latin1, "latin1").toString("utf8");
}
