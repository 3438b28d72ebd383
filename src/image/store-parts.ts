/**
 * What the care of images (names, archives, verification, collection) needs of the store. The
 * store gives it once; nothing here is for anybody else.
 */
import { RuntimeError } from "../base/errors.js";
import type { Digest } from "../base/ids.js";
import type { Paths } from "../settings/paths.js";
import type { RecordStore } from "../state/store.js";
import type { ImageRecord, UseRecord } from "./image-record.js";
import type { LayerStore } from "./layer-store.js";

export interface StoreParts {
  readonly paths: Paths;
  readonly records: RecordStore<ImageRecord>;
  readonly layers: LayerStore;
  /** Of the collector; without it, uses are known since the start. */
  readonly uses?: RecordStore<UseRecord> | undefined;
  /** Images as users see them. */
  list(): ImageRecord[];
  resolve(refOrId: string): ImageRecord | undefined;
  /** Runs a change of records after those under way. */
  change<T>(work: () => Promise<T>): Promise<T>;
  /** Removes what no record names; inside of `change` only. */
  collect(): Promise<void>;
  pull(ref: string, options: { readonly signal: AbortSignal }): Promise<ImageRecord>;
  /** Who needs an image: `pod default/web`. Empty: nobody. */
  usersOf(imageId: Digest): readonly string[];
  /** Kept whatever happens, by the settings. */
  isPinned(image: ImageRecord): boolean;
}

/** @throws RuntimeError `not-found` IMAGE_NOT_FOUND */
export function requireImage(parts: StoreParts, name: string): ImageRecord {
  const record = parts.resolve(name);
  if (record) return record;
  throw new RuntimeError(`image "${name}" is not on this machine`, { kind: "not-found", code: "IMAGE_NOT_FOUND" });
}
