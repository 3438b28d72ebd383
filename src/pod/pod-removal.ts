/**
 * Takes away all that a pod has, its record last: after a crash the next daemon goes on with it.
 *
 * What fails is an event of the pod and tried again, later each time. Its worker calls, when the containers have ended.
 */
import { nowNs } from "../base/clock.js";
import { toRuntimeError } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import type { PodVolumes } from "./pod-volumes.js";
import type { PodRecord } from "./record.js";
import type { RecordWriter } from "./record-writer.js";
import type { WorkerContext } from "./worker-context.js";

const RETRY_BASE_MS = 200;
const RETRY_MAX_MS = 10_000;

export class PodRemoval {
  readonly #context: WorkerContext;
  readonly #record: PodRecord;
  readonly #volumes: PodVolumes;
  readonly #writer: RecordWriter;
  #retryAtNs = 0n;
  #failures = 0;

  constructor(context: WorkerContext, record: PodRecord, volumes: PodVolumes, writer: RecordWriter) {
    this.#context = context;
    this.#record = record;
    this.#volumes = volumes;
    this.#writer = writer;
  }

  isDue(atNs: bigint): boolean {
    return this.#retryAtNs <= atNs;
  }

  /**
   * Removes the pod.
   *
   * @param recordGoes called when nothing but the record and the history is left
   * @returns `undefined` when the pod is gone, else in how many milliseconds to try again
   */
  async remove(recordGoes: () => void): Promise<number | undefined> {
    const { store, history, events, log } = this.#context;
    const { uid, pod } = this.#record;
    try {
      await this.removeParts();
      await this.#writer.close();
      recordGoes();
      await history.remove(uid);
      failpoint("remove pod record");
      await store.remove(uid);
      failpoint("after remove pod record");
      return undefined;
    } catch (err) {
      const { kind, code, message } = toRuntimeError(err);
      this.#writer.reopen();
      const delayMs = Math.min(RETRY_BASE_MS * 2 ** this.#failures++, RETRY_MAX_MS);
      this.#retryAtNs = nowNs() + BigInt(delayMs) * 1_000_000n;
      log.error({ podUid: uid, kind, code, message, delayMs }, "a pod could not be removed, retrying");
      const { namespace, name } = pod.metadata;
      events.record({ namespace, name, uid }, { type: "Warning", reason: "FailedKillPod", message });
      return delayMs;
    }
  }

  /** All but the record and the history. */
  async removeParts(): Promise<void> {
    const { runtime, starter } = this.#context;
    const sandboxes = runtime.listSandboxes("pod").filter(({ config }) => config.metadata.uid === this.#record.uid);
    await Promise.all(sandboxes.map(({ id }) => runtime.removeSandbox(id)));
    await this.#volumes.remove();
    failpoint("remove logs");
    await starter.removeLogs(this.#record);
  }
}
