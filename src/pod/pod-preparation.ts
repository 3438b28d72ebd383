/**
 * A pod between its request and its record: its sandbox is made while the record is being written,
 * and everything is taken back where that fails.
 *
 * Nobody is told of the pod meanwhile, and no container of it is made. Its worker calls; the engine
 * says which way it ends.
 */
import { toRuntimeError } from "../base/errors.js";
import type { PodUid } from "../base/ids.js";
import type { WorkerContext } from "./worker-context.js";

export interface PreparedParts {
  readonly uid: PodUid;
  readonly makeSandbox: () => Promise<void>;
  /** Ends what works for the pod, the making of its sandbox too. */
  readonly stop: () => void;
  /** Removes all of the pod but its record and its history. */
  readonly remove: () => Promise<void>;
}

export class PodPreparation {
  readonly #context: Pick<WorkerContext, "history" | "events" | "log">;
  readonly #parts: PreparedParts;
  #sandbox: Promise<void> | undefined;

  constructor(context: Pick<WorkerContext, "history" | "events" | "log">, parts: PreparedParts) {
    this.#context = context;
    this.#parts = parts;
  }

  /** True from `begin` to `accept`. */
  get isUnderWay(): boolean {
    return this.#sandbox !== undefined;
  }

  /** Makes the sandbox. */
  begin(): Promise<void> {
    this.#sandbox = this.#parts.makeSandbox();
    return this.#sandbox;
  }

  /** The pod is recorded. Its sandbox may still be in the making. */
  accept(): void {
    this.#sandbox = undefined;
  }

  /** The pod could not be recorded: removes what there is of it. What that leaves goes with the next start. */
  async refuse(): Promise<void> {
    const { uid, stop, remove } = this.#parts;
    const { history, events, log } = this.#context;
    stop();
    await this.#sandbox?.catch(() => undefined);
    try {
      await remove();
      await history.remove(uid);
    } catch (err) {
      const { kind, code, message } = toRuntimeError(err);
      log.error({ podUid: uid, kind, code, message }, "what was made of a refused pod is left");
    }
    events.forget(uid);
  }
}
