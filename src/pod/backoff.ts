/**
 * Restart delays as the kubelet gives them: none before the first restart, then 10 s, doubled
 * for each further one up to 300 s, and forgotten after twice the maximum without a restart
 * (client-go util/flowcontrol/backoff.go; kubelet doBackOff).
 */
import type { ContainerProgress } from "./record.js";

export interface BackoffLimits {
  readonly baseMs: number;
  readonly maxMs: number;
}

const NS_PER_MS = 1_000_000n;

/** When a container that has ended may run again, Unix ns. */
export function restartDueNs(progress: ContainerProgress, limits: BackoffLimits): bigint {
  const finishedAtNs = BigInt(progress.terminated?.finishedAtNs ?? 0);
  const delay = progress.restartDelay;
  if (!delay || isForgotten(delay, finishedAtNs, limits)) return finishedAtNs;
  return finishedAtNs + BigInt(delay.delayMs) * NS_PER_MS;
}

/** The delay to keep when a container is being restarted now. */
export function nextRestartDelay(
  progress: ContainerProgress,
  nowNs: bigint,
  limits: BackoffLimits,
): NonNullable<ContainerProgress["restartDelay"]> {
  const delay = progress.restartDelay;
  const delayMs =
    !delay || isForgotten(delay, nowNs, limits) ? limits.baseMs : Math.min(delay.delayMs * 2, limits.maxMs);
  return { delayMs, givenAtNs: String(nowNs) };
}

/** The delay after one more failure to even start: the base first, then doubled. */
export function nextFailureDelayMs(previousMs: number | undefined, limits: BackoffLimits): number {
  return previousMs === undefined ? limits.baseMs : Math.min(previousMs * 2, limits.maxMs);
}

function isForgotten(
  delay: NonNullable<ContainerProgress["restartDelay"]>,
  atNs: bigint,
  limits: BackoffLimits,
): boolean {
  return atNs - BigInt(delay.givenAtNs) > BigInt(limits.maxMs) * 2n * NS_PER_MS;
}
