/**
 * What a pod's worker is making, so that its end can be waited for when the engine closes: what is made after
 * that is in nobody's record, and writes where others may be removing.
 */
import { setTimeout as sleep } from "node:timers/promises";

export class UnderWay {
  readonly #work = new Set<Promise<unknown>>();

  /** Returns the work itself. */
  add<T>(work: Promise<T>): Promise<T> {
    const settled = work.then(
      () => undefined,
      () => undefined,
    );
    this.#work.add(settled);
    void settled.then(() => this.#work.delete(settled));
    return work;
  }

  /** Resolves when nothing is under way; failures are the work's own. @param limitMs the longest wait, for what heeds no abort */
  async ended(limitMs: number): Promise<void> {
    const timer = new AbortController();
    const limit = sleep(limitMs, undefined, { signal: timer.signal }).catch(() => undefined);
    await Promise.race([Promise.all(this.#work), limit]);
    timer.abort();
  }
}
