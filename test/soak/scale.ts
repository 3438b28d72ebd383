/**
 * The share of the whole counts that a soak test does: MINKE_SOAK_SCALE, 1 without it. CI takes a sample.
 */
const scale = Number(process.env["MINKE_SOAK_SCALE"] ?? 1);
if (!(scale > 0))
  throw new Error(`MINKE_SOAK_SCALE is "${process.env["MINKE_SOAK_SCALE"]}"; a positive number is needed`);

/** @returns `count` times the scale, at least 1. */
export function scaled(count: number): number {
  return Math.max(1, Math.round(count * scale));
}
