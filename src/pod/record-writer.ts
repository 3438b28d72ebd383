/**
 * Writes a pod's record: until what is written is what is known, one write at a time.
 *
 * A write that fails is tried again by itself; nobody waits for it who does not ask to.
 */
import { toRuntimeError } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { RecordStore } from "../state/store.js";
import type { PodRecord } from "./record.js";

const RETRY_MS = 2_000;

export class RecordWriter {
  readonly #record: PodRecord;
  readonly #store: RecordStore<PodRecord>;
  readonly #log: Logger;
  #isDirty = false;
  #isClosed = false;
  #saving: Promise<void> | undefined;
  #isRetrying = false;

  constructor(record: PodRecord, store: RecordStore<PodRecord>, log: Logger) {
    this.#record = record;
    this.#store = store;
    this.#log = log;
  }

  /** The record has changed; it is written with the next flush. */
  note(): void {
    this.#isDirty = true;
  }

  /** The record has changed: writes it when there is time. */
  touch(): void {
    this.#isDirty = true;
    void this.flush().catch((err: unknown) => {
      const { kind, code, message } = toRuntimeError(err);
      this.#log.error(
        { podUid: this.#record.uid, kind, code, message },
        "the progress of a pod could not be written, retrying in 2 s",
      );
      if (this.#isRetrying) return;
      this.#isRetrying = true;
      setTimeout(() => {
        this.#isRetrying = false;
        if (!this.#isClosed) this.touch();
      }, RETRY_MS).unref();
    });
  }

  /** Resolves when the record is in place as it is now. */
  flush(): Promise<void> {
    this.#saving ??= (async () => {
      try {
        while (this.#isDirty && !this.#isClosed) {
          this.#isDirty = false;
          await this.#store.put(this.#record.uid, structuredClone(this.#record)).catch((err: unknown) => {
            this.#isDirty = true;
            throw err;
          });
        }
      } finally {
        this.#saving = undefined;
      }
    })();
    return this.#saving;
  }

  /** Lets a write under way end and begins no other: the record is to be removed. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#saving?.catch(() => undefined);
  }

  /** The removal has failed: the record stays. */
  reopen(): void {
    this.#isClosed = false;
  }
}
