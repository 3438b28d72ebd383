/**
 * What happened to pods, for people: Kubernetes Event objects, the newest of each pod.
 *
 * Equal events in a row are counted, not listed. Both the list of a pod and the number of pods
 * that are remembered are bounded.
 */
import { nowNs, toRfc3339 } from "../base/clock.js";
import type { PodUid } from "../base/ids.js";

const EVENTS_PER_POD = 64;
const PODS = 1024;

export interface PodReference {
  readonly namespace: string;
  readonly name: string;
  readonly uid: PodUid;
}

export interface EventJson {
  apiVersion: "v1";
  kind: "Event";
  metadata: { name: string; namespace: string; uid: string; creationTimestamp: string; resourceVersion: string };
  involvedObject: { apiVersion: "v1"; kind: "Pod"; namespace: string; name: string; uid: string; fieldPath?: string };
  type: "Normal" | "Warning";
  reason: string;
  message: string;
  count: number;
  firstTimestamp: string;
  lastTimestamp: string;
  source: { component: "minke" };
}

export class PodEvents {
  readonly #byPod = new Map<PodUid, EventJson[]>();
  #sequence = 0;
  /** Called when a pod's events have changed. */
  onChange: (uid: PodUid) => void = () => undefined;

  /** @param container name of the container it is about; empty: the pod itself */
  record(
    pod: PodReference,
    event: { type: "Normal" | "Warning"; reason: string; message: string; container?: string },
  ): void {
    const at = toRfc3339(nowNs());
    const events = this.#eventsOf(pod.uid);
    this.onChange(pod.uid);
    const fieldPath = event.container ? `spec.containers{${event.container}}` : undefined;
    const same = events.find(
      (e) => e.reason === event.reason && e.message === event.message && e.involvedObject.fieldPath === fieldPath,
    );
    if (same) {
      same.count += 1;
      same.lastTimestamp = at;
      return;
    }
    const number = ++this.#sequence;
    const name = `${pod.name}.${number.toString(16)}`;
    events.push({
      apiVersion: "v1",
      kind: "Event",
      metadata: {
        name,
        namespace: pod.namespace,
        uid: `${pod.uid}-${number}`,
        creationTimestamp: at,
        resourceVersion: String(number),
      },
      involvedObject: {
        apiVersion: "v1",
        kind: "Pod",
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
        ...(fieldPath && { fieldPath }),
      },
      type: event.type,
      reason: event.reason,
      message: event.message,
      count: 1,
      firstTimestamp: at,
      lastTimestamp: at,
      source: { component: "minke" },
    });
    if (events.length > EVENTS_PER_POD) events.shift();
  }

  list(namespace: string | undefined): EventJson[] {
    const all = [...this.#byPod.values()].flat();
    return namespace === undefined ? all : all.filter((event) => event.metadata.namespace === namespace);
  }

  of(uid: PodUid): readonly EventJson[] {
    return this.#byPod.get(uid) ?? [];
  }

  /** Takes over what an earlier daemon recorded. */
  restore(uid: PodUid, events: readonly EventJson[]): void {
    if (events.length === 0) return;
    this.#byPod.set(uid, structuredClone([...events]));
    for (const { metadata } of events) this.#sequence = Math.max(this.#sequence, Number(metadata.resourceVersion));
  }

  forget(uid: PodUid): void {
    this.#byPod.delete(uid);
  }

  #eventsOf(uid: PodUid): EventJson[] {
    const known = this.#byPod.get(uid);
    if (known) return known;
    const events: EventJson[] = [];
    this.#byPod.set(uid, events);
    const [oldest] = this.#byPod.keys();
    if (this.#byPod.size > PODS && oldest !== undefined) this.#byPod.delete(oldest);
    return events;
  }
}
