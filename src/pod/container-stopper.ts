/**
 * The end of a container that is asked for: its preStop hook, the stop signal, and SIGKILL when the
 * grace period, which the hook is part of, is over.
 *
 * Called again with every look at the pod; only a deadline that is nearer changes anything. The
 * signal's deadline is the monitor's to keep; a hook is run again by a daemon that was killed in it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { nowNs } from "../base/clock.js";
import { toRuntimeError } from "../base/errors.js";
import type { ContainerId } from "../base/ids.js";
import type { Logger } from "../base/log.js";
import type { Runtime } from "../runtime/runtime.js";
import { runAction } from "./container-action.js";
import type { Container } from "./manifest/defaults.js";
import type { ObservedEvent } from "./observe.js";

export interface StopperOptions {
  readonly runtime: Runtime;
  readonly podIp: () => string;
  readonly event: (event: ObservedEvent) => void;
  /** The pod is to be looked at again. */
  readonly kick: () => void;
  readonly log: Logger;
}

interface Stop {
  readonly id: ContainerId;
  readonly deadlineNs: bigint;
  /** Settles when the preStop hook has; there is one run of it, however often it is stopped. */
  readonly hook: Promise<void>;
}

const NS_PER_MS = 1_000_000n;
/** What the container has after its hook, whatever the hook took (kubelet minimumGracePeriodInSeconds). */
const AFTER_HOOK_MS = 2_000;
const RETRY_MS = 2_000;

export class ContainerStopper {
  readonly #options: StopperOptions;
  readonly #stops = new Map<string, Stop>();

  constructor(options: StopperOptions) {
    this.#options = options;
  }

  /** @param graceMs from now on; 0: no hook, and killed at once */
  stop(container: Container, id: ContainerId, graceMs: number): void {
    const { name } = container;
    const deadlineNs = nowNs() + BigInt(Math.round(graceMs)) * NS_PER_MS;
    const known = this.#stops.get(name);
    const before = known?.id === id ? known : undefined;
    // A few milliseconds of slack: the same deadline, counted again, is not a new one.
    if (before && before.deadlineNs <= deadlineNs + 5n * NS_PER_MS) return;
    if (!before)
      this.#options.event({
        type: "Normal",
        reason: "Killing",
        message: `Stopping container ${name}`,
        container: name,
      });
    const hook = before?.hook ?? (graceMs > 0 ? this.#runHook(container, id, graceMs) : Promise.resolve());
    const stop: Stop = { id, deadlineNs, hook };
    this.#stops.set(name, stop);
    this.#carryOut(stop, graceMs).then(this.#options.kick, (err: unknown) => {
      const { kind, code, message } = toRuntimeError(err);
      this.#options.log.error(
        { containerId: id, kind, code, message },
        "a container could not be stopped, retrying in 2 s",
      );
      this.#options.event({ type: "Warning", reason: "FailedKillPod", message, container: name });
      const retry = () => {
        if (this.#stops.get(name) === stop) this.#stops.delete(name);
        this.#options.kick();
      };
      setTimeout(retry, RETRY_MS).unref();
    });
  }

  async #carryOut({ id, deadlineNs, hook }: Stop, graceMs: number): Promise<void> {
    await Promise.race([hook, sleep(graceMs, undefined, { ref: false })]);
    const leftMs = Number((deadlineNs - nowNs()) / NS_PER_MS);
    await this.#options.runtime.stopContainer(
      id,
      graceMs === 0 ? 0 : Math.max(leftMs, Math.min(AFTER_HOOK_MS, graceMs)),
    );
  }

  async #runHook(container: Container, containerId: ContainerId, graceMs: number): Promise<void> {
    const hook = container.lifecycle?.preStop;
    if (!hook) return;
    const { runtime, podIp, event } = this.#options;
    const { isOk, message } = await runAction(hook, { runtime, container, containerId, podIp: podIp() }, graceMs);
    if (isOk) return;
    event({
      type: "Warning",
      reason: "FailedPreStopHook",
      message: `PreStop hook failed: ${message}`,
      container: container.name,
    });
  }
}
