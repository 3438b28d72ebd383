/** Work that waits until what causes it has paused: once after many causes, never between two of a burst. */
export class WhenQuiet {
  readonly #quietMs: number;
  readonly #work: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(quietMs: number, work: () => void) {
    this.#quietMs = quietMs;
    this.#work = work;
  }

  /** There is a cause; cheap enough to be told of each. Keeps no process alive. */
  readonly touch = (): void => {
    if (this.#timer) {
      this.#timer.refresh();
      return;
    }
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#work();
    }, this.#quietMs).unref();
  };

  /** Forgets what waits. */
  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
