/**
 * Calls under way, by what they are for: a retried request joins the first one instead of
 * failing with "name is reserved", and calls on one object run one after another.
 *
 * A caller that goes away leaves at once; the work goes on until the next point where it asks
 * whether anybody still waits. A retry that comes before that joins it, a later one starts anew
 * when all is undone. Who leaves is told at which stage the work was.
 */
import { monotonicNs } from "../base/clock.js";
import { RuntimeError } from "../base/errors.js";

/** Asked by the work between its steps. @throws RuntimeError `cancelled` CANCELLED: nobody waits any more */
export type StillWanted = () => void;

/** Says where the work is; what it gives is read when somebody leaves. */
export type TellStage = (read: () => string | undefined) => void;

type Work<T> = (stillWanted: StillWanted, tellStage: TellStage) => Promise<T>;

interface Call {
  promise: Promise<unknown>;
  callers: number;
  isGivenUp: boolean;
  stage: () => string | undefined;
  readonly begunNs: bigint;
}

export class InFlight {
  readonly #calls = new Map<string, Call>();
  readonly #queues = new Map<string, Promise<void>>();

  /**
   * The running call of this key, or `work` as a new one.
   *
   * @param signal of this caller: once aborted, the answer is its reason with the stage, whatever the work does
   */
  async join<T>(key: string, work: Work<T>, signal?: AbortSignal): Promise<T> {
    let call = this.#calls.get(key);
    while (call?.isGivenUp) {
      await call.promise.catch(() => undefined);
      call = this.#calls.get(key);
    }
    signal?.throwIfAborted();
    call ??= this.#begin(key, work);
    call.callers++;
    try {
      return (await untilAborted(call, signal)) as T;
    } finally {
      call.callers--;
    }
  }

  #begin<T>(key: string, work: Work<T>): Call {
    const call: Call = {
      promise: Promise.resolve(),
      callers: 0,
      isGivenUp: false,
      stage: () => undefined,
      begunNs: monotonicNs(),
    };
    this.#calls.set(key, call);
    const stillWanted = () => {
      if (call.callers > 0) return;
      call.isGivenUp = true;
      throw new RuntimeError("the caller went away", { kind: "cancelled", code: "CANCELLED" });
    };
    // Begun in a later turn: the first caller must have been counted.
    call.promise = Promise.resolve()
      .then(() => work(stillWanted, (read) => (call.stage = read)))
      .finally(() => this.#calls.delete(key));
    // Without a caller nobody else would see how it failed.
    call.promise.catch(() => undefined);
    return call;
  }

  /** Settles with the running call of this key, whatever comes of it; at once where there is none. */
  async running(key: string): Promise<void> {
    await this.#calls.get(key)?.promise.catch(() => undefined);
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

function untilAborted(call: Call, signal: AbortSignal | undefined): Promise<unknown> {
  if (!signal) return call.promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(withStage(signal.reason, call));
    signal.addEventListener("abort", abort, { once: true });
    call.promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

function withStage(reason: unknown, { stage, begunNs }: Call): unknown {
  const name = stage();
  if (name === undefined || !(reason instanceof RuntimeError)) return reason;
  const seconds = (Number(monotonicNs() - begunNs) / 1e9).toFixed(1);
  return new RuntimeError(
    `${reason.message}, at stage "${name}", ${seconds} s after the request began; the same request joins it while it goes on`,
    { kind: reason.kind, code: reason.code, cause: reason },
  );
}
