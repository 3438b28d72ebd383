/**
 * What `describe` shows of a pod's past over a daemon's restart: its events and its timeline, bounded,
 * in one small file a pod.
 *
 * Written a moment after a change, never waited for on the way to a start; a daemon that is killed
 * may lose the last moment. Whoever removes a pod removes its history first.
 */
import { toRuntimeError } from "../base/errors.js";
import type { PodUid } from "../base/ids.js";
import type { Logger } from "../base/log.js";
import type { Span } from "../base/timeline.js";
import type { RecordStore } from "../state/store.js";
import type { EventJson } from "./events.js";

export interface HistoryRecord {
  readonly events: readonly EventJson[];
  readonly spans: readonly { name: string; subject?: string | undefined; startedAtNs: string; durationNs: string }[];
}

export interface History {
  readonly events: readonly EventJson[];
  readonly spans: readonly Span[];
}

const DELAY_MS = 300;
/** The first steps are the pod's start, the last ones its newest restarts. */
const SPANS_AT_EACH_END = 128;

export class PodHistory {
  readonly #store: RecordStore<HistoryRecord>;
  readonly #read: (uid: PodUid) => History | undefined;
  readonly #log: Logger;
  readonly #changed = new Set<PodUid>();
  #timer: NodeJS.Timeout | undefined;

  /** @param read the history of a pod now; `undefined` once it is gone */
  constructor(store: RecordStore<HistoryRecord>, read: (uid: PodUid) => History | undefined, log: Logger) {
    this.#store = store;
    this.#read = read;
    this.#log = log;
  }

  load(uid: PodUid): History {
    const { events = [], spans = [] } = this.#store.get(uid) ?? {};
    return {
      events,
      spans: spans.map((span) => ({
        ...span,
        startedAtNs: BigInt(span.startedAtNs),
        durationNs: BigInt(span.durationNs),
      })),
    };
  }

  /** Something has happened to the pod: it is written soon. */
  touch(uid: PodUid): void {
    this.#changed.add(uid);
    this.#timer ??= setTimeout(() => void this.flush(), DELAY_MS).unref();
  }

  async remove(uid: PodUid): Promise<void> {
    this.#changed.delete(uid);
    await this.#store.remove(uid);
  }

  /** Removes what belongs to nobody any more. */
  async keepOnly(uids: ReadonlySet<string>): Promise<void> {
    for (const { id } of this.#store.list()) if (!uids.has(id)) await this.#store.remove(id);
  }

  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const uids = [...this.#changed];
    this.#changed.clear();
    await Promise.all(uids.map((uid) => this.#write(uid)));
  }

  async #write(uid: PodUid): Promise<void> {
    const history = this.#read(uid);
    if (!history) return;
    const { spans } = history;
    const kept =
      spans.length > 2 * SPANS_AT_EACH_END
        ? [...spans.slice(0, SPANS_AT_EACH_END), ...spans.slice(-SPANS_AT_EACH_END)]
        : spans;
    const record: HistoryRecord = {
      events: structuredClone(history.events),
      spans: kept.map(({ name, subject, startedAtNs, durationNs }) => ({
        name,
        ...(subject !== undefined && { subject }),
        startedAtNs: String(startedAtNs),
        durationNs: String(durationNs),
      })),
    };
    try {
      await this.#store.put(uid, record);
    } catch (err) {
      this.#log.warn(
        { podUid: uid, message: toRuntimeError(err).message },
        "a pod's history could not be written, going on",
      );
    }
  }
}
