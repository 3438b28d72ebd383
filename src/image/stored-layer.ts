/**
 * What `minke-layer` does with a layer that is stored: make its archive again, compare it with
 * its record, measure it. And the packing of streams that Node.js cannot do.
 *
 * Knows no image. All that runs long runs in a process of its own, at the lowest priority where
 * nobody waits for it.
 */
import { once } from "node:events";
import { PassThrough, type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { Digest } from "../base/ids.js";
import { cancelled } from "./flight.js";
import { type LayerProgram, startProgram } from "./layer-program.js";
import { parseAnswer, runLayerProgram } from "./minke-layer.js";

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

/** Like `du -s` of each: allocated bytes and inodes, in one run for all; `undefined` where there is no directory. */
export async function sumDirectories(
  dirs: readonly string[],
): Promise<({ readonly bytes: number; readonly inodes: number } | undefined)[]> {
  if (dirs.length === 0) return [];
  const args = dirs.flatMap((dir) => ["--sum", dir]);
  const { sums } = (await runLayerProgram(args, undefined, undefined)) as unknown as {
    readonly sums: readonly ({ readonly bytes: number; readonly inodes: number } | null)[];
  };
  return sums.map((sum) => sum ?? undefined);
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
  const out = new PassThrough({ highWaterMark: 256 * 1024 });
  relay(args, source, signal, out).then(
    () => out.end(),
    (err: unknown) => out.destroy(toRuntimeError(err)),
  );
  return out;
}

/** Runs the program to its end, its output going into `out`. Ends it where the reader goes away. */
async function relay(
  args: readonly string[],
  source: Readable | undefined,
  signal: AbortSignal,
  out: PassThrough,
): Promise<void> {
  let program: LayerProgram | undefined;
  const stop = () => {
    program?.kill();
    // What it wrote and nobody reads would hold up its end.
    program?.output.destroy();
  };
  out.once("close", stop);
  signal.addEventListener("abort", stop, { once: true });
  try {
    if (signal.aborted) throw cancelled(signal);
    program = await startProgram(args, { hasInput: source !== undefined, hasErrors: true });
    if (signal.aborted || out.destroyed) stop();
    let sourceFailure: unknown;
    if (source && program.input) {
      // A program that ends early closes its pipe, and says why by its answer.
      pipeline(source, program.input).catch((err: unknown) => {
        if (isClosedPipe(err)) return;
        sourceFailure = err;
        stop();
      });
    }
    const said = text64KiB(program.errors);
    program.output.on("error", () => undefined);
    program.output.pipe(out, { end: false });
    const exit = await program.ended;
    if (signal.aborted) throw cancelled(signal);
    if (sourceFailure !== undefined) throw sourceFailure;
    const ending = exit.signal === 0 ? `exit ${exit.exitCode}` : `signal ${exit.signal}`;
    if (ending === "exit 0") return;
    parseAnswer((await said).trim(), ending);
    throw new RuntimeError(`minke-layer ended with ${ending}`, { kind: "internal", code: "INTERNAL" });
  } finally {
    out.off("close", stop);
    signal.removeEventListener("abort", stop);
    source?.destroy();
  }
}

async function text64KiB(stream: Readable | undefined): Promise<string> {
  let said = "";
  stream?.setEncoding("latin1");
  stream?.on("error", () => undefined);
  stream?.on("data", (chunk: string) => {
    if (said.length < 65_536) said += chunk;
  });
  if (stream && !stream.closed) await once(stream, "close").catch(() => undefined);
  return said;
}

function isClosedPipe(err: unknown): boolean {
  const code = err instanceof Error && "code" in err ? err.code : undefined;
  return code === "EPIPE" || code === "ECONNRESET";
}

/** minke-layer gives the bytes of names as latin1. */
function text(latin1: string): string {
  return Buffer.from(latin1, "latin1").toString("utf8");
}
