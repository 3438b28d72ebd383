/**
 * The volumes of one pod, made from its manifest and from what it refers to, one change at a time.
 */
import type { Volumes } from "../volume/volumes.js";
import type { ConfigSource } from "./config-objects.js";
import type { PodRecord } from "./record.js";
import { volumeRequests } from "./volume-requests.js";

export class PodVolumes {
  readonly #record: PodRecord;
  readonly #parts: { readonly volumes: Volumes; readonly configs: ConfigSource };
  #preparing: Promise<void> = Promise.resolve();

  constructor(record: PodRecord, parts: { readonly volumes: Volumes; readonly configs: ConfigSource }) {
    this.#record = record;
    this.#parts = parts;
  }

  /** Makes them, or brings them up to date. One at a time: what is made may be what another call is changing. */
  prepare(): Promise<ReadonlyMap<string, string>> {
    const { pod, uid } = this.#record;
    const made = this.#preparing.then(() => {
      const requests = volumeRequests({ pod, uid, configs: this.#parts.configs });
      return this.#parts.volumes.prepare(uid, requests, pod.spec.securityContext?.fsGroup);
    });
    this.#preparing = made.then(
      () => undefined,
      () => undefined,
    );
    return made;
  }

  async remove(): Promise<void> {
    await this.#preparing;
    await this.#parts.volumes.remove(this.#record.uid);
  }
}
