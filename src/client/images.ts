/**
 * The library's image verbs besides list and pull.
 */
import { Readable } from "node:stream";
import type { ListedImage } from "../api/images.js";
import { RuntimeError } from "../base/errors.js";
import type { DiskUsage } from "../image/disk-usage.js";
import type { HistoryEntry, ImageDetails } from "../image/image-details.js";
import type { RemovedImage } from "../image/image-names.js";
import type { CollectedImage } from "../image/image-record.js";
import type { PruneResult } from "../image/image-prune.js";
import type { SaveCompression, SaveFormat } from "../image/image-save.js";
import type { VerifiedPart } from "../image/image-verify.js";
import { errorOfStatus, jsonLines, send, sendForJson } from "./transport.js";

export type {
  CollectedImage,
  DiskUsage,
  HistoryEntry,
  ImageDetails,
  PruneResult,
  RemovedImage,
  SaveCompression,
  SaveFormat,
  VerifiedPart,
};

export class ImageClient {
  readonly #socketPath: string;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  async inspect(names: readonly string[]): Promise<ImageDetails[]> {
    const path = `/minke/v1/images/inspect?${queryOf(names)}`;
    return (await sendForJson<{ items: ImageDetails[] }>(this.#socketPath, path)).items;
  }

  /** Newest step first. */
  async history(name: string): Promise<HistoryEntry[]> {
    const path = `/minke/v1/images/history?${queryOf([name])}`;
    return (await sendForJson<{ items: HistoryEntry[] }>(this.#socketPath, path)).items;
  }

  tag(source: string, target: string): Promise<ListedImage> {
    return sendForJson(this.#socketPath, "/minke/v1/images/tag", { method: "POST", body: { source, target } });
  }

  /** By tag the tag, and the image with its last one; by id or digest the image. */
  remove(name: string, options: { force?: boolean } = {}): Promise<RemovedImage> {
    const body = { name, force: options.force ?? false };
    return sendForJson(this.#socketPath, "/minke/v1/images/remove", { method: "POST", body });
  }

  /** @param archive the bytes of an OCI layout or of `docker save`, as tar, plain or packed with gzip or zstd */
  async load(archive: Readable, signal?: AbortSignal): Promise<ListedImage[]> {
    const options = { method: "POST", stream: archive, signal };
    return (await sendForJson<{ items: ListedImage[] }>(this.#socketPath, "/minke/v1/images/load", options)).items;
  }

  /** The archive's bytes; the stream fails where the archive could not be completed. */
  async save(
    names: readonly string[],
    options: { format?: SaveFormat; compression?: SaveCompression; signal?: AbortSignal } = {},
  ): Promise<Readable> {
    const { format = "docker-archive", compression = "none", signal } = options;
    const path = `/minke/v1/images/save?${queryOf(names)}&format=${format}&compression=${compression}`;
    const response = await send(this.#socketPath, path, { signal });
    const whole = async function* () {
      try {
        for await (const chunk of response) yield chunk as Buffer;
      } catch (err) {
        throw broken(err);
      }
      const status = response.trailers["x-minke-error"];
      if (typeof status === "string") throw errorOfStatus(decodeURIComponent(status), 500);
      if (!response.complete) throw broken(undefined);
    };
    const archive = Readable.from(whole(), { objectMode: false });
    // Also where nobody has begun to read: the daemon would wait for a reader.
    archive.once("close", () => response.destroy());
    return archive;
  }

  /** Compares what is stored with what was unpacked. @param names none: every image */
  async *verify(
    names: readonly string[] = [],
    options: { repair?: boolean; signal?: AbortSignal } = {},
  ): AsyncGenerator<VerifiedPart> {
    const { repair = false, signal } = options;
    const response = await send(this.#socketPath, "/minke/v1/images/verify", {
      method: "POST",
      body: { names, repair },
      signal,
    });
    for await (const line of jsonLines<{ part?: VerifiedPart; done?: true; error?: object }>(response)) {
      if (line.error) throw errorOfStatus(line.error, 500);
      if (line.done) return;
      if (line.part) yield line.part;
    }
    throw broken(undefined);
  }

  /** @param options.until only what was pulled or loaded before */
  prune(options: { all?: boolean; until?: Date | undefined; dryRun?: boolean } = {}): Promise<PruneResult> {
    const { all = false, until, dryRun = false } = options;
    const body = { all, dryRun, ...(until && { until: until.toISOString() }) };
    return sendForJson(this.#socketPath, "/minke/v1/images/prune", { method: "POST", body });
  }

  /** Every byte below the daemon's root. */
  usage(): Promise<DiskUsage> {
    return sendForJson(this.#socketPath, "/minke/v1/df");
  }
}

const queryOf = (names: readonly string[]) => names.map((name) => `name=${encodeURIComponent(name)}`).join("&");

function broken(cause: unknown): RuntimeError {
  return new RuntimeError("the connection to the daemon broke before the answer was complete", {
    kind: "unavailable",
    code: "STREAM_BROKEN",
    cause,
  });
}
