/**
 * Kubernetes quantities: `500m`, `1.5`, `64Mi`, `1e3` (apimachinery resource.Quantity).
 */
import type { Quantity } from "./schema.js";

const PATTERN = /^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei))?$/;

/** Powers of ten and of two, as [base, exponent]. */
const SUFFIX: Readonly<Record<string, readonly [number, number]>> = {
  n: [10, -9],
  u: [10, -6],
  m: [10, -3],
  k: [10, 3],
  M: [10, 6],
  G: [10, 9],
  T: [10, 12],
  P: [10, 15],
  E: [10, 18],
  Ki: [2, 10],
  Mi: [2, 20],
  Gi: [2, 30],
  Ti: [2, 40],
  Pi: [2, 50],
  Ei: [2, 60],
};

/** The value of a quantity, or `undefined` where it is not one. */
export function parseQuantity(quantity: Quantity): number | undefined {
  const match = PATTERN.exec(String(quantity).trim());
  if (!match) return undefined;
  const [, digits, exponent, suffix] = match;
  const [base, power] = (suffix && SUFFIX[suffix]) || [10, 0];
  const value = Number(`${digits}${exponent ?? ""}`);
  // Division keeps 100m exactly 0.1, which multiplying by 1e-3 does not.
  return power < 0 ? value / base ** -power : value * base ** power;
}

/** A quantity in whole units, rounded up as Kubernetes does (Quantity.Value). */
export function quantityValue(quantity: Quantity): number {
  return Math.ceil(parseQuantity(quantity) ?? 0);
}

/** A quantity in thousandths, rounded up (Quantity.MilliValue): what cpu is counted in. */
export function quantityMillis(quantity: Quantity): number {
  const value = (parseQuantity(quantity) ?? 0) * 1000;
  const nearest = Math.round(value);
  return Math.abs(value - nearest) < 1e-6 ? nearest : Math.ceil(value);
}
