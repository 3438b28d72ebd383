/**
 * Collection of images while nobody looks: by threshold of the file system, and by age. What
 * may go at all is image-prune.ts's to say; the longest unused goes first.
 *
 * "Used" is what was seen in use, or pulled. It is kept over restarts by a record that is written
 * every few minutes and at the end: a crash loses that much. Time without a daemon does not count,
 * so that a start is never followed by a wave of removals.
 */
import { statfs } from "node:fs/promises";
import { digestHex } from "../base/ids.js";
import { Timeline } from "../base/timeline.js";
import type { CollectionSettings } from "../settings/image-settings.js";
import { bytesOf, isFree, layersOnlyOf } from "./image-prune.js";
import type { CollectedImage, ImageRecord, UseRecord } from "./image-record.js";
import type { StoreParts } from "./store-parts.js";

/** Uses are written down at most this often. */
const SAVE_MS = 5 * 60_000;
const RECORD = "images";

/** The last pass that removed something, be it of an earlier daemon; `undefined` before the first one. */
export function lastCollection(parts: StoreParts): UseRecord["lastCollection"] {
  return parts.uses?.get(RECORD)?.lastCollection;
}

/** What the collector asks of the machine; tests answer instead. */
export interface Machine {
  readonly nowMs?: () => number;
  readonly usedPercent?: () => Promise<number>;
}

export class ImageCollector {
  readonly #parts: StoreParts;
  readonly #settings: CollectionSettings;
  readonly #startedAtMs: number;
  readonly #usedAtMs = new Map<string, number>();
  #savedAtMs: number;
  readonly #usedPercent: () => Promise<number>;
  readonly #nowMs: () => number;
  #isStarved = false;
  #last: UseRecord["lastCollection"];

  constructor(parts: StoreParts, settings: CollectionSettings, machine: Machine = {}) {
    this.#parts = parts;
    this.#settings = settings;
    this.#nowMs = machine.nowMs ?? Date.now;
    this.#usedPercent = machine.usedPercent ?? (() => usedPercentOf(parts.paths.root));
    this.#startedAtMs = this.#savedAtMs = this.#nowMs();
    const saved = parts.uses?.get(RECORD);
    this.#last = saved?.lastCollection;
    const downMs = Math.max(0, this.#startedAtMs - (saved?.atMs ?? 0));
    for (const [id, lastUseMs] of Object.entries(saved?.lastUseMs ?? {})) this.#usedAtMs.set(id, lastUseMs + downMs);
  }

  /** The last pass wanted more space than there was to be freed: what is left is in use, too young, or no image. */
  get isStarved(): boolean {
    return this.#isStarved;
  }

  /** One pass: notes what is in use, then removes what age and threshold ask for. */
  async run(): Promise<CollectedImage[]> {
    const nowMs = this.#nowMs();
    this.#noteUses(nowMs);
    if (nowMs - this.#savedAtMs >= SAVE_MS) await this.save();
    const { enabled, maxUnusedMs, minUnusedMs, highPercent, lowPercent } = this.#settings;
    if (!enabled) return [];
    const collected: CollectedImage[] = [];
    const oldest = this.#parts
      .list()
      .map((image) => ({ image, unusedMs: nowMs - this.#lastUseMs(image) }))
      .filter(({ unusedMs }) => unusedMs >= minUnusedMs)
      .sort((a, b) => b.unusedMs - a.unusedMs);
    let isAbove = (await this.#usedPercent()) > highPercent;
    for (const { image, unusedMs } of oldest) {
      const reason = maxUnusedMs > 0 && unusedMs > maxUnusedMs ? "age" : isAbove ? "threshold" : undefined;
      if (reason === undefined) break;
      const freedBytes = await this.#remove(image);
      if (freedBytes === undefined) continue;
      collected.push({ id: image.id, repoTags: image.repoTags, reason, freedBytes });
      if (isAbove) isAbove = (await this.#usedPercent()) > lowPercent;
    }
    this.#isStarved = isAbove;
    if (collected.length > 0) {
      this.#last = { atMs: nowMs, images: collected };
      await this.save();
    }
    return collected;
  }

  #noteUses(nowMs: number): void {
    for (const { id } of this.#parts.list()) {
      if (this.#parts.usersOf(id).length > 0) this.#usedAtMs.set(id, nowMs);
    }
  }

  /** Writes down when images were last used: at the end of the daemon, and now and then. */
  async save(): Promise<void> {
    const atMs = this.#nowMs();
    this.#noteUses(atMs);
    const lastUseMs = Object.fromEntries(this.#parts.list().map((image) => [image.id, this.#lastUseMs(image)]));
    const record = { atMs, lastUseMs, ...(this.#last && { lastCollection: this.#last }) };
    await this.#parts.uses?.put(RECORD, record, "remember");
    this.#savedAtMs = atMs;
  }

  /** What no record tells of counts from the start. */
  #lastUseMs({ id, pulledAtNs }: ImageRecord): number {
    const pulledMs = Number(BigInt(pulledAtNs) / 1_000_000n);
    return Math.max(pulledMs, this.#usedAtMs.get(id) ?? this.#startedAtMs);
  }

  /** Looks again inside of the change: somebody may have come to need it, which is `undefined`. @returns freed bytes */
  #remove(image: ImageRecord): Promise<number | undefined> {
    return this.#parts.change(() =>
      new Timeline().step("collect image", async () => {
        const now = this.#parts.records.get(digestHex(image.id));
        if (!now || now.pulledAtNs !== image.pulledAtNs || !isFree(this.#parts, now, this.#settings.cri))
          return undefined;
        const freedBytes = await bytesOf(this.#parts, layersOnlyOf(this.#parts, [now]));
        await this.#parts.records.remove(digestHex(image.id));
        await this.#parts.collect();
        this.#usedAtMs.delete(image.id);
        return freedBytes;
      }),
    );
  }
}

/** As df(1): of what users may have, without the blocks that are reserved. */
export async function usedPercentOf(path: string): Promise<number> {
  const { blocks, bfree, bavail } = await statfs(path);
  const used = blocks - bfree;
  return used + bavail === 0 ? 0 : (used / (used + bavail)) * 100;
}
