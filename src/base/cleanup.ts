/**
 * Undo for operations of several steps: each step that makes something pushes its undo at
 * once, and a failure unwinds them newest first.
 *
 * Unwinding runs under its own deadline, never under the request's AbortSignal: a caller
 * that went away must not leave half an object behind.
 */
import { toRuntimeError, type RuntimeError } from "./errors.js";
import { failpoint } from "./failpoints.js";

export interface FailedUndo {
  readonly step: string;
  readonly error: RuntimeError;
}

export class CleanupStack {
  #steps: { step: string; undo: () => Promise<void> | void }[] = [];

  /** Registers the undo of a step that has just succeeded, named as `remove …`. */
  push(step: string, undo: () => Promise<void> | void): void {
    this.#steps.push({ step, undo });
  }

  /** Forgets all undo steps: the operation has succeeded. */
  commit(): void {
    this.#steps = [];
  }

  /**
   * Runs every undo, newest first, and returns those that failed. Never throws: what could
   * not be undone is the caller's to log and to leave in a state that Remove can finish.
   *
   * @param deadlineMs how long one undo step may take before it counts as failed
   */
  async unwind(deadlineMs = 10_000): Promise<FailedUndo[]> {
    const failed: FailedUndo[] = [];
    for (let next = this.#steps.pop(); next; next = this.#steps.pop()) {
      const { step, undo } = next;
      let timer: NodeJS.Timeout | undefined;
      try {
        failpoint(`undo ${step}`);
        await Promise.race([
          undo(),
          new Promise<never>((_, reject) => {
            timer = setTimeout(() => reject(new Error(`no answer within ${deadlineMs} ms`)), deadlineMs);
          }),
        ]);
      } catch (err) {
        failed.push({ step, error: toRuntimeError(err) });
      } finally {
        clearTimeout(timer);
      }
    }
    return failed;
  }
}
