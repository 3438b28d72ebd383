/**
 * Spans of one verb: which step ran when, for how long, on what. `minke describe` prints
 * them, benchmarks read them, traces export them.
 */
import { monotonicNs, nowNs } from "./clock.js";
import { failpoint } from "./failpoints.js";

export interface Span {
  /** The step, in the words that logs and stage reports use: `network`, `unpack layer`. */
  readonly name: string;
  /** What it worked on, where the name does not say it: a container name, a digest. */
  readonly subject?: string | undefined;
  readonly startedAtNs: bigint;
  readonly durationNs: bigint;
}

export class Timeline {
  readonly spans: Span[] = [];
  #stages: string[] = [];

  /** Runs a step and records its span, also when it throws. */
  async step<T>(name: string, work: () => Promise<T>, subject?: string): Promise<T> {
    const startedAtNs = nowNs();
    const begin = monotonicNs();
    this.#stages.push(name);
    try {
      failpoint(name);
      const result = await work();
      failpoint(`after ${name}`);
      return result;
    } finally {
      this.#stages.splice(this.#stages.lastIndexOf(name), 1);
      this.add({ name, subject, startedAtNs, durationNs: monotonicNs() - begin });
    }
  }

  /** Records a span that was measured elsewhere. */
  add(span: Span): void {
    this.spans.push(span);
  }

  /** The step that runs now, or `undefined` between steps: what a retried request is told. */
  get stage(): string | undefined {
    return this.#stages.at(-1);
  }
}
