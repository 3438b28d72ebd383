/**
 * What is shown of pods, and who is told of changes: the API's objects, their versions, and the
 * changes that a watcher missed. Knows no store and no runtime; the engine says what has changed.
 */
import { hostname } from "node:os";
import type { PodUid } from "../base/ids.js";
import type { BackoffLimits } from "./backoff.js";
import { hostIps } from "./host-ips.js";
import type { PodWorker } from "./pod-worker.js";
import { type PodJson, toPodJson } from "./status.js";

export type PodChange = { readonly type: "ADDED" | "MODIFIED" | "DELETED"; readonly pod: PodJson };

const DELETED_KEPT = 256;

export class PodFeed {
  readonly #limits: BackoffLimits;
  readonly #shown = new Map<PodUid, PodJson>();
  readonly #changed = new Set<PodWorker>();
  readonly #listeners = new Set<(change: PodChange) => void>();
  /** The last pods that went: what a watcher that was away is told. */
  readonly #deleted: PodJson[] = [];
  /** Grows for ever, over restarts too, as long as the clock does. */
  #version = BigInt(Date.now()) * 1000n;

  constructor(limits: BackoffLimits) {
    this.#limits = limits;
  }

  get resourceVersion(): string {
    return String(this.#version);
  }

  /** Calls back for every change from now on, in order. Returns how to stop it. */
  watch(listener: (change: PodChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * What a watcher missed that last saw `version`, or `undefined` where that is too long ago to know.
   *
   * @param pods those that there are, as they are shown
   */
  changesSince(version: string, pods: readonly PodJson[]): PodChange[] | undefined {
    const isNewer = ({ metadata }: PodJson) => BigInt(metadata.resourceVersion) > BigInt(version);
    const [oldest] = this.#deleted;
    if (oldest && this.#deleted.length === DELETED_KEPT && isNewer(oldest)) return undefined;
    const gone = this.#deleted.filter(isNewer).map((pod): PodChange => ({ type: "DELETED", pod }));
    return [...gone, ...pods.filter(isNewer).map((pod): PodChange => ({ type: "MODIFIED", pod }))];
  }

  /** What is shown of a pod; kept until it changes, except where time alone changes it. */
  show(worker: PodWorker): PodJson {
    const kept = this.#shown.get(worker.uid);
    if (kept) return kept;
    const shown = toPodJson(worker.record, {
      isSandboxReady: worker.isSandboxReady,
      hostIps: hostIps(),
      nodeName: hostname(),
      limits: this.#limits,
      resourceVersion: String(++this.#version),
    });
    this.#shown.set(worker.uid, shown);
    return shown;
  }

  add(worker: PodWorker): PodJson {
    // Nothing was noted of it before, and it may have been asked for.
    this.#shown.delete(worker.uid);
    const shown = this.show(worker);
    this.#emit({ type: "ADDED", pod: shown });
    return shown;
  }

  /** A pod has changed. One turn of the loop may change it several times; watchers see the outcome. */
  note(worker: PodWorker): void {
    this.#shown.delete(worker.uid);
    if (this.#listeners.size === 0) return;
    if (this.#changed.size === 0) setImmediate(() => this.#emitChanges());
    this.#changed.add(worker);
  }

  /** A pod is gone, or was refused after all. */
  forget(worker: PodWorker): void {
    const last = this.show(worker);
    this.#shown.delete(worker.uid);
    this.#changed.delete(worker);
    const deleted = { ...last, metadata: { ...last.metadata, resourceVersion: String(++this.#version) } };
    this.#deleted.push(deleted);
    if (this.#deleted.length > DELETED_KEPT) this.#deleted.shift();
    this.#emit({ type: "DELETED", pod: deleted });
  }

  close(): void {
    this.#listeners.clear();
  }

  #emitChanges(): void {
    const workers = [...this.#changed];
    this.#changed.clear();
    for (const worker of workers) this.#emit({ type: "MODIFIED", pod: this.show(worker) });
  }

  #emit(change: PodChange): void {
    for (const listener of this.#listeners) listener(change);
  }
}
