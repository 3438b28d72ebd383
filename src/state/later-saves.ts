/**
 * Writes that nobody needs at once, gathered for a moment: most of what is saved is written over or removed within
 * a few ms, a container that has started and ended, a sandbox that was stopped to be removed.
 */
import { settleAll } from "../base/settle.js";

const SAVE_AFTER_MS = 200;

interface Waiting {
  readonly promise: Promise<void>;
  readonly settle: (written: Promise<void> | undefined) => void;
}

export class LaterSaves {
  readonly #write: (id: string) => Promise<void>;
  readonly #waiting = new Map<string, Waiting>();
  #timer: NodeJS.Timeout | undefined;

  constructor(write: (id: string) => Promise<void>) {
    this.#write = write;
  }

  /** Settles with the write, or when it is dropped. */
  save(id: string): Promise<void> {
    const waiting = this.#waiting.get(id) ?? newWaiting();
    this.#waiting.set(id, waiting);
    this.#timer ??= setTimeout(() => void this.saveAll().catch(() => undefined), SAVE_AFTER_MS).unref();
    return waiting.promise;
  }

  /** Writes what waits. @throws the first failure, which its `save` throws as well */
  async saveAll(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    await settleAll(
      waiting.map(([id, { settle }]) => {
        const written = this.#write(id);
        settle(written);
        return written;
      }),
    );
  }

  drop(id: string): void {
    this.#waiting.get(id)?.settle(undefined);
    this.#waiting.delete(id);
  }
}

function newWaiting(): Waiting {
  let settle: Waiting["settle"] = () => undefined;
  const promise = new Promise<void>((resolve) => {
    settle = resolve;
  });
  return { promise, settle };
}
