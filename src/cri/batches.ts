/**
 * Lists as streams of answers: what has no limit of its own must not meet that of one message.
 */

/** Items of one answer: at a few KiB each, far below a message's 16 MiB. */
const BATCH = 256;

/** An empty list is one empty batch: a client hears that there is nothing. */
export function* inBatches<T>(items: readonly T[]): Generator<T[]> {
  for (let at = 0; at === 0 || at < items.length; at += BATCH) yield items.slice(at, at + BATCH);
}
