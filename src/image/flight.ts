/**
 * One run of an operation for all who ask for it at the same time. It is cancelled when the
 * last of them has gone, and not before.
 */
import { RuntimeError } from "../base/errors.js";

interface Flight<T, P> {
  readonly done: Promise<T>;
  readonly abort: AbortController;
  readonly listeners: Set<(progress: P) => void>;
  callers: number;
}

export class Flights<T, P> {
  readonly #flights = new Map<string, Flight<T, P>>();

  /** Joins the run of that key, or starts it with `work`. */
  async run(
    key: string,
    work: (signal: AbortSignal, onProgress: (progress: P) => void) => Promise<T>,
    caller: { readonly signal?: AbortSignal | undefined; readonly onProgress?: ((progress: P) => void) | undefined },
  ): Promise<T> {
    if (caller.signal?.aborted) throw cancelled(caller.signal);
    // A run that has just been given up is not joined: its result is an abort.
    const running = this.#flights.get(key);
    const flight = running && !running.abort.signal.aborted ? running : this.#start(key, work);
    flight.callers++;
    if (caller.onProgress) flight.listeners.add(caller.onProgress);
    let onAbort: (() => void) | undefined;
    const gone = new Promise<never>((_, reject) => {
      onAbort = () => reject(cancelled(caller.signal));
      caller.signal?.addEventListener("abort", onAbort, { once: true });
    });
    try {
      return await Promise.race([flight.done, gone]);
    } catch (err) {
      // Whoever cancelled last waits until nothing is left of the run.
      if (caller.signal?.aborted && flight.callers === 1) {
        flight.abort.abort(caller.signal.reason);
        // A run that was past its last step has done all of it: there is no undoing, and nothing to hide.
        const late = await flight.done.then(
          (value) => ({ value }),
          () => undefined,
        );
        if (late) return late.value;
      }
      throw err;
    } finally {
      if (onAbort) caller.signal?.removeEventListener("abort", onAbort);
      if (caller.onProgress) flight.listeners.delete(caller.onProgress);
      flight.callers--;
    }
  }

  /** Settles when every run has ended; runs go on to their end. */
  async idle(): Promise<void> {
    await Promise.allSettled(Array.from(this.#flights.values(), ({ done }) => done));
  }

  #start(key: string, work: (signal: AbortSignal, onProgress: (progress: P) => void) => Promise<T>): Flight<T, P> {
    const abort = new AbortController();
    const listeners = new Set<(progress: P) => void>();
    const before = this.#flights.get(key)?.done.catch(() => undefined) ?? Promise.resolve();
    const onProgress = (progress: P) => {
      for (const listener of listeners) listener(progress);
    };
    const done = before.then(() => {
      if (abort.signal.aborted) throw cancelled(abort.signal);
      return work(abort.signal, onProgress);
    });
    const flight: Flight<T, P> = { done, abort, listeners, callers: 0 };
    this.#flights.set(key, flight);
    const forget = () => {
      if (this.#flights.get(key) === flight) this.#flights.delete(key);
    };
    done.then(forget, forget);
    return flight;
  }
}

/** What an aborted caller is told: its deadline if that is why, else that it was cancelled. */
export function cancelled(signal: AbortSignal | undefined): RuntimeError {
  const reason: unknown = signal?.reason;
  if (reason instanceof RuntimeError) return reason;
  const isTimeout = reason instanceof Error && reason.name === "TimeoutError";
  return new RuntimeError(isTimeout ? "the deadline has passed" : "the caller has cancelled", {
    kind: isTimeout ? "deadline-exceeded" : "cancelled",
    code: "CANCELLED",
    cause: reason,
  });
}
