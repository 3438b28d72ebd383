/**
 * The layers of one image: all at once, and all or none.
 */
import { setMaxListeners } from "node:events";
import type { Digest } from "../base/ids.js";
import type { Timeline } from "../base/timeline.js";
import type { CheckedDescriptor } from "./image-documents.js";
import type { LayerRecord } from "./image-record.js";
import type { ImageSource, ResolvedImage } from "./image-source.js";
import type { LayerStore } from "./layer-store.js";

const PROGRESS_INTERVAL_MS = 100;

export interface LayerProgress {
  readonly digest: string;
  readonly state: "present" | "pulling" | "done";
  readonly currentBytes: number;
  /** 0: not known. */
  readonly totalBytes: number;
}

interface FetchOptions {
  readonly signal: AbortSignal;
  readonly timeline: Timeline;
  readonly onProgress?: ((progress: LayerProgress) => void) | undefined;
}

/**
 * Makes sure that all layers of an image are here, side by side. Pin them first.
 *
 * @throws RuntimeError what `LayerStore.ensure` throws of the first that failed
 */
export async function fetchLayers(
  layers: LayerStore,
  image: ResolvedImage,
  source: ImageSource,
  options: FetchOptions,
): Promise<LayerRecord[]> {
  // The first failure stops the other layers, and all have ended before it is reported.
  const abort = new AbortController();
  // Each of up to 500 layers listens, in several places: that is no leak.
  setMaxListeners(0, abort.signal);
  const stop = () => abort.abort(options.signal.reason);
  options.signal.addEventListener("abort", stop, { once: true });
  if (options.signal.aborted) stop();
  let failure: unknown;
  try {
    const results = await Promise.all(
      image.manifest.layers.map((item, i) =>
        fetchLayer(layers, item, image.config.rootfs.diff_ids[i] as Digest, source, {
          ...options,
          signal: abort.signal,
        }).catch((err: unknown) => {
          failure ??= err;
          abort.abort(err);
          return undefined;
        }),
      ),
    );
    if (failure !== undefined) throw failure;
    return results.filter((record) => record !== undefined);
  } finally {
    options.signal.removeEventListener("abort", stop);
  }
}

async function fetchLayer(
  layers: LayerStore,
  item: CheckedDescriptor,
  diffId: Digest,
  source: ImageSource,
  options: FetchOptions,
): Promise<LayerRecord> {
  let reportedAtMs = -Infinity;
  const report = (state: LayerProgress["state"], currentBytes: number) => {
    reportedAtMs = performance.now();
    options.onProgress?.({ digest: item.digest, state, currentBytes, totalBytes: item.size });
  };
  const present = layers.get(diffId);
  const isPresent = present !== undefined && !present.damage;
  if (isPresent) report("present", item.size);
  else report("pulling", 0);
  const record = await layers.ensure({
    diffId,
    digest: item.digest,
    open: (signal) => source.layer(item, signal),
    // Each is a line to every listener, and bytes come in thousands of pieces.
    onBytes: (bytes) => {
      if (bytes >= item.size || performance.now() - reportedAtMs >= PROGRESS_INTERVAL_MS) report("pulling", bytes);
    },
    signal: options.signal,
    timeline: options.timeline,
  });
  if (!isPresent) report("done", item.size);
  return record;
}
