/**
 * The probes of one pod: a loop for each probe of each running container.
 *
 * Results are kept in the pod's record, so after a daemon restart a container is as ready as it was
 * until a probe says otherwise. Order and thresholds: Kubernetes, "Probes"; kubelet prober/worker.go.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { nowNs } from "../base/clock.js";
import type { ContainerId } from "../base/ids.js";
import type { Runtime } from "../runtime/runtime.js";
import { isAlive } from "./actions.js";
import { runAction } from "./container-action.js";
import type { Container } from "./manifest/defaults.js";
import type { Probe } from "./manifest/schema.js";
import type { ObservedEvent } from "./observe.js";
import type { PodRecord } from "./record.js";

export interface ProberOptions {
  readonly record: PodRecord;
  readonly runtime: Runtime;
  /** Where the pod's ports are; empty while it has no address. */
  readonly podIp: () => string;
  /** A result in the record has changed. */
  readonly changed: () => void;
  /** A container has failed its liveness or startup probe. */
  readonly kill: (name: string, graceSeconds: number | undefined) => void;
  readonly event: (event: ObservedEvent) => void;
}

type Kind = "startup" | "liveness" | "readiness";

const TITLES = { startup: "Startup", liveness: "Liveness", readiness: "Readiness" } as const;

interface Loop {
  readonly containerId: ContainerId;
  readonly abort: AbortController;
}

export class Prober {
  readonly #options: ProberOptions;
  readonly #loops = new Map<string, Loop>();

  constructor(options: ProberOptions) {
    this.#options = options;
  }

  /** Starts and ends loops, so that exactly those run that should now. */
  sync(): void {
    const { record } = this.#options;
    const wanted = new Set<string>();
    for (const container of [...(record.pod.spec.initContainers ?? []), ...record.pod.spec.containers]) {
      for (const [kind, probe] of this.#probesOf(container)) {
        const key = `${container.name}/${kind}`;
        const id = record.containers[container.name]?.containerId as ContainerId;
        wanted.add(key);
        if (this.#loops.get(key)?.containerId === id) continue;
        this.#loops.get(key)?.abort.abort();
        const loop: Loop = { containerId: id, abort: new AbortController() };
        this.#loops.set(key, loop);
        void this.#run(container, kind, probe, loop).catch(() => undefined);
      }
    }
    for (const [key, loop] of this.#loops) {
      if (wanted.has(key)) continue;
      loop.abort.abort();
      this.#loops.delete(key);
    }
  }

  close(): void {
    for (const { abort } of this.#loops.values()) abort.abort();
    this.#loops.clear();
  }

  /** The probes that a container is to have now. */
  #probesOf(container: Container): [Kind, Probe][] {
    const { record } = this.#options;
    const progress = record.containers[container.name];
    if (!isAlive(progress) || progress?.startedAtNs === undefined) return [];
    const { startupProbe, livenessProbe, readinessProbe } = container;
    const isEnding = record.deletion !== undefined || record.end !== undefined;
    const probes: [Kind, Probe][] = [];
    if (startupProbe && !progress.isStarted) return isEnding ? [] : [["startup", startupProbe]];
    // What is being stopped is not killed for it; it can still become unready.
    if (livenessProbe && !isEnding) probes.push(["liveness", livenessProbe]);
    if (readinessProbe) probes.push(["readiness", readinessProbe]);
    return probes;
  }

  async #run(container: Container, kind: Kind, probe: Probe, { containerId, abort }: Loop): Promise<void> {
    const { record, runtime } = this.#options;
    const periodMs = (probe.periodSeconds ?? 10) * 1000;
    const startedAtMs = Number(BigInt(record.containers[container.name]?.startedAtNs ?? 0) / 1_000_000n);
    const dueInMs = startedAtMs + (probe.initialDelaySeconds ?? 0) * 1000 - Number(nowNs() / 1_000_000n);
    const wait = { signal: abort.signal, ref: false };
    if (dueInMs > 0) await sleep(dueInMs, undefined, wait);
    let isOkBefore: boolean | undefined;
    let count = 0;
    while (!abort.signal.aborted) {
      const target = { runtime, container, containerId, podIp: this.#options.podIp() };
      const { isOk, message } = await runAction(probe, target, (probe.timeoutSeconds ?? 1) * 1000);
      if (abort.signal.aborted) return;
      if (!isOk) {
        const text = `${TITLES[kind]} probe failed: ${message}`;
        this.#options.event({ type: "Warning", reason: "Unhealthy", message: text, container: container.name });
      }
      count = isOk === isOkBefore ? count + 1 : 1;
      isOkBefore = isOk;
      const threshold = (isOk ? probe.successThreshold : probe.failureThreshold) ?? 1;
      if (count >= threshold && !this.#settle(container.name, kind, isOk, probe)) return;
      await sleep(periodMs, undefined, wait);
    }
  }

  /** Takes a result over. False where this loop has nothing more to ask. */
  #settle(name: string, kind: Kind, isOk: boolean, probe: Probe): boolean {
    const progress = this.#options.record.containers[name];
    if (!progress) return false;
    if (kind === "readiness") {
      if (progress.isReady === isOk) return true;
      progress.isReady = isOk;
      this.#options.changed();
      return true;
    }
    if (isOk) {
      if (kind === "liveness") return true;
      progress.isStarted = true;
      this.#options.changed();
      return false;
    }
    this.#options.event({
      type: "Normal",
      reason: "Killing",
      message: `Container ${name} failed ${kind} probe, will be restarted`,
      container: name,
    });
    this.#options.kill(name, probe.terminationGracePeriodSeconds ?? undefined);
    return false;
  }
}
