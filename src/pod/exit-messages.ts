/**
 * Reads what a pod's containers have left to say when they end, once each, into the pod's record.
 *
 * Reading takes a moment, and the pod does not wait for it: a message may come after its end is shown.
 */
import { join } from "node:path";
import { toRuntimeError } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { Paths } from "../settings/paths.js";
import { containerLogPath } from "./convert.js";
import type { Container } from "./manifest/defaults.js";
import type { ContainerProgress, PodRecord, Termination } from "./record.js";
import { readMessage } from "./termination-message.js";

const REMEMBERED = 64;

export class ExitMessages {
  readonly #record: PodRecord;
  readonly #paths: Paths;
  readonly #changed: () => void;
  readonly #log: Logger;
  /** Ids of containers whose message has been asked for, the newest last. */
  readonly #asked = new Set<string>();

  constructor(record: PodRecord, paths: Paths, changed: () => void, log: Logger) {
    this.#record = record;
    this.#paths = paths;
    this.#changed = changed;
    this.#log = log;
  }

  /** Asks for the messages of containers that have ended since the last call. */
  readNew(): void {
    const { spec } = this.#record.pod;
    for (const container of [...(spec.initContainers ?? []), ...spec.containers]) {
      const progress = this.#record.containers[container.name];
      const end = progress?.terminated;
      if (!progress || !end || this.#asked.has(end.containerId)) continue;
      this.#asked.add(end.containerId);
      const [oldest] = this.#asked;
      if (this.#asked.size > REMEMBERED && oldest !== undefined) this.#asked.delete(oldest);
      void this.#read(container, progress, end);
    }
  }

  async #read(container: Container, progress: ContainerProgress, end: Termination): Promise<void> {
    const { uid, pod } = this.#record;
    const { attempt } = progress;
    const logs = this.#paths.podLogs(pod.metadata.namespace, pod.metadata.name, uid);
    const logPath = join(logs, containerLogPath(container.name, attempt));
    try {
      const message = await readMessage(this.#paths, uid, { container, attempt, exitCode: end.exitCode, logPath });
      if (message === "" || end.message !== undefined) return;
      // It may have been restarted meanwhile.
      if (progress.terminated?.containerId === end.containerId) progress.terminated = { ...end, message };
      else if (progress.last?.containerId === end.containerId) progress.last = { ...end, message };
      this.#changed();
    } catch (err) {
      this.#log.warn(
        { podUid: uid, message: toRuntimeError(err).message },
        "a container's termination message could not be read, going on without",
      );
    }
  }
}
