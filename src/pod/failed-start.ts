/**
 * A start that failed, as the pod's record keeps it and as an event tells it: when it is tried again, and
 * the reason in Kubernetes' words.
 */
import { nowNs } from "../base/clock.js";
import { toRuntimeError } from "../base/errors.js";
import { type BackoffLimits, nextFailureDelayMs } from "./backoff.js";
import type { ObservedEvent } from "./observe.js";
import type { FailedStart } from "./record.js";

export interface Failure {
  /** Why a container waits: `ErrImagePull`. */
  readonly reason: string;
  readonly err: unknown;
  /** The failure before this one, of the same thing. */
  readonly before: FailedStart | undefined;
  /** Absent: the sandbox's. */
  readonly container?: string;
}

export function failedStart(
  { reason, err, before, container }: Failure,
  limits: BackoffLimits,
): { readonly failed: FailedStart; readonly event: ObservedEvent } {
  const { message } = toRuntimeError(err);
  const delayMs = nextFailureDelayMs(before?.delayMs, limits);
  // A kubelet says ErrImagePull once, and ImagePullBackOff while it waits again.
  const shown = reason === "ErrImagePull" && before ? "ImagePullBackOff" : reason;
  return {
    failed: { reason: shown, message, delayMs, retryAtNs: String(nowNs() + BigInt(delayMs) * 1_000_000n) },
    event: { type: "Warning", reason: EVENT_BY_REASON[reason] ?? reason, message, ...(container && { container }) },
  };
}

/** Kubernetes' event reasons, where they are not the waiting reason's. */
const EVENT_BY_REASON: Readonly<Record<string, string>> = {
  CreateContainerConfigError: "Failed",
  CreateContainerError: "Failed",
  ErrImageNeverPull: "ErrImageNeverPull",
  ErrImagePull: "Failed",
  InvalidImageName: "InspectFailed",
  RunContainerError: "Failed",
};
