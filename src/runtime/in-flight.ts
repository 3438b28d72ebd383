/**
 * Calls under way, by what they are for: a retried request joins the first one instead of
 * failing with "name is reserved", and calls on one object run one after another.
 */
export class InFlight {
  readonly #calls = new Map<string, Promise<unknown>>();
  readonly #queues = new Map<string, Promise<void>>();

  /** The running call of this key, or `work` as a new one. */
  join<T>(key: string, work: () => Promise<T>): Promise<T> {
    const running = this.#calls.get(key);
    if (running) return running as Promise<T>;
    const call = work().finally(() => this.#calls.delete(key));
    this.#calls.set(key, call);
    return call;
  }

  /** Settles with the running call of this key, whatever comes of it; at once where there is none. */
  async running(key: string): Promise<void> {
    await this.#calls.get(key)?.catch(() => undefined);
  }

  /** Runs `work` after all earlier work of this key, whatever came of that. */
  async inTurn<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.#queues.get(key) ?? Promise.resolve();
    const done = before.then(work);
    const tail = done.then(
      () => undefined,
      () => undefined,
    );
    this.#queues.set(key, tail);
    void tail.then(() => {
      if (this.#queues.get(key) === tail) this.#queues.delete(key);
    });
    return done;
  }
}
