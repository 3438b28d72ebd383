/**
 * Wall-clock and monotonic time. CRI and Kubernetes times are Unix nanoseconds as bigint.
 */

// Wall time at load, so that later readings have sub-millisecond steps and follow the monotonic clock between.
let wallBaseNs = BigInt(Date.now()) * 1_000_000n;
let monotonicBaseNs = process.hrtime.bigint();

/** Unix time in nanoseconds. Follows clock changes of the system within a second. */
export function nowNs(): bigint {
  const monotonicNs = process.hrtime.bigint();
  const ns = wallBaseNs + (monotonicNs - monotonicBaseNs);
  const driftNs = BigInt(Date.now()) * 1_000_000n - ns;
  if (driftNs > 1_000_000_000n || driftNs < -1_000_000_000n) {
    wallBaseNs += driftNs;
    return ns + driftNs;
  }
  return ns;
}

/** Nanoseconds of a clock that never jumps: for durations only. */
export function monotonicNs(): bigint {
  return process.hrtime.bigint();
}

/** RFC 3339 in whole seconds and UTC, as Kubernetes objects carry it. */
export function toRfc3339(unixNs: bigint): string {
  return new Date(Number(unixNs / 1_000_000n)).toISOString().replace(/\.\d{3}Z$/, "Z");
}
