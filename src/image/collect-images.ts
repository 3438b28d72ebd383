/**
 * The collection of unused images, as long as the daemon runs. What is collected is image-collector.ts's
 * to say; here is when, and what is logged of it: nobody waits for an answer.
 */
import { toRuntimeError } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { CollectionSettings } from "../settings/image-settings.js";
import type { ImageStore } from "./image-store.js";

/** Looks at the images at every interval; the returned function waits for the pass that is under way. */
export function collectImages(images: ImageStore, settings: CollectionSettings, log: Logger): () => Promise<void> {
  const collector = images.care.collector(settings);
  let pass: Promise<void> = Promise.resolve();
  let wasStarved = false;
  const run = () => {
    pass = pass.then(async () => {
      try {
        for (const image of await collector.run()) log.info(image, "an unused image was collected");
        // Once, as it may last: whoever looks finds when it began.
        if (collector.isStarved && !wasStarved)
          log.warn(
            { highPercent: settings.highPercent, lowPercent: settings.lowPercent },
            "the disk stays above the low threshold: no image is left that may be collected (minke df says what it holds)",
          );
        wasStarved = collector.isStarved;
      } catch (err) {
        const { kind, code, message } = toRuntimeError(err);
        log.warn({ kind, code, message }, "could not collect images, trying again at the next interval");
      }
    });
  };
  const timer = setInterval(run, settings.intervalMs).unref();
  return async () => {
    clearInterval(timer);
    await pass;
    await collector.save();
  };
}
