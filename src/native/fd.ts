/**
 * Sole owner of a file descriptor in JavaScript.
 *
 * The addon hands descriptors over as numbers; each is wrapped in the same statement. `close`
 * closes once. One that is collected while open is a mistake of ours: it is closed and
 * reported as a process warning with the place where it was made.
 */
import { closeSync } from "node:fs";
import { inspect } from "node:util";

interface Left {
  readonly number: number;
  readonly label: string;
}

const collected = new FinalizationRegistry<Left>(({ number, label }) => {
  try {
    closeSync(number);
  } finally {
    process.emitWarning(`descriptor ${number} (${label}) was collected open`, { code: "MINKE_FD_LEAK" });
  }
});

export class Fd {
  #number: number;
  readonly #label: string;

  /**
   * @param number an open descriptor that nobody else closes
   * @param label what it is, for the warning: `netns`, `lock`
   */
  constructor(number: number, label: string) {
    if (!Number.isInteger(number) || number < 0) throw new RangeError(`not a descriptor: ${number}`);
    this.#number = number;
    this.#label = label;
    collected.register(this, { number, label }, this);
  }

  /** The descriptor, borrowed. Throws once it is closed or taken: a number may be reused. */
  get number(): number {
    if (this.#number < 0) throw new Error(`descriptor (${this.#label}) is closed`);
    return this.#number;
  }

  get isOpen(): boolean {
    return this.#number >= 0;
  }

  /** Closes it. Closing again does nothing. */
  close(): void {
    if (this.#number >= 0) closeSync(this.take());
  }

  /** Gives the descriptor away: the receiver closes it. */
  take(): number {
    const number = this.number;
    this.#number = -1;
    collected.unregister(this);
    return number;
  }

  [inspect.custom](): string {
    return `Fd(${this.#number}, ${this.#label})`;
  }
}
