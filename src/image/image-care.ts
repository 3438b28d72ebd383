/**
 * The care of images as one object: what the API and the daemon ask of the store besides pulling.
 * Each verb is in a file of its own; this says who may run beside whom.
 */
import type { Readable } from "node:stream";
import { Timeline } from "../base/timeline.js";
import type { CollectionSettings } from "../settings/image-settings.js";
import { type DiskUsage, diskUsage, type KnownNames } from "./disk-usage.js";
import { ImageCollector, type Machine } from "./image-collector.js";
import { type HistoryEntry, type ImageDetails, imageDetails, imageHistory } from "./image-details.js";
import { type RemovedImage, removeByName, tagImage } from "./image-names.js";
import { type PruneRequest, type PruneResult, pruneImages } from "./image-prune.js";
import type { ImageRecord } from "./image-record.js";
import { type SaveRequest, saveImages } from "./image-save.js";
import { type VerifyRequest, verifyImages } from "./image-verify.js";
import type { StoreParts } from "./store-parts.js";

export class ImageCare {
  readonly #parts: StoreParts;
  /** One verification at a time: they read all there is. */
  #verification: Promise<unknown> = Promise.resolve();

  constructor(parts: StoreParts) {
    this.#parts = parts;
  }

  details(name: string): Promise<ImageDetails> {
    return imageDetails(this.#parts, name);
  }

  history(name: string): Promise<HistoryEntry[]> {
    return imageHistory(this.#parts, name);
  }

  /** Kept whatever happens, by the settings. */
  isPinned(image: ImageRecord): boolean {
    return this.#parts.isPinned(image);
  }

  tag(source: string, target: string): Promise<ImageRecord> {
    return tagImage(this.#parts, source, target, new Timeline());
  }

  removeByName(name: string, force: boolean): Promise<RemovedImage> {
    return removeByName(this.#parts, name, force, new Timeline());
  }

  save(request: SaveRequest): Promise<Readable> {
    return saveImages(this.#parts, request);
  }

  /** Waits for a verification that is under way. */
  verify(request: Omit<VerifyRequest, "timeline">): Promise<void> {
    const done = this.#verification.then(() => {
      request.signal.throwIfAborted();
      return verifyImages(this.#parts, { ...request, timeline: new Timeline() });
    });
    this.#verification = done.catch(() => undefined);
    return done;
  }

  prune(request: Omit<PruneRequest, "timeline">): Promise<PruneResult> {
    return pruneImages(this.#parts, { ...request, timeline: new Timeline() });
  }

  usage(known: KnownNames): Promise<DiskUsage> {
    return diskUsage(this.#parts, known);
  }

  /** @param machine replaces clock and file system */
  collector(settings: CollectionSettings, machine?: Machine): ImageCollector {
    return new ImageCollector(this.#parts, settings, machine);
  }
}
