/** CPU use per second between readings. */
import { expect, test } from "vitest";
import { CpuRates } from "../../../src/cri/stats.js";

const S = 1_000_000_000n;

test("the first reading has the rate since the start, later ones the rate since the one before", () => {
  const rates = new CpuRates();
  expect(rates.nanoCores("a", { atNs: 14n * S, cpuNs: 2n * S }, 10n * S)).toBe(S / 2n);
  expect(rates.nanoCores("a", { atNs: 15n * S, cpuNs: 3n * S }, 10n * S)).toBe(S);
});

test("a reading within 100 ms repeats the rate, and is not what the next one is measured from", () => {
  const rates = new CpuRates();
  rates.nanoCores("a", { atNs: S, cpuNs: 0n }, 0n);
  expect(rates.nanoCores("a", { atNs: 2n * S, cpuNs: S }, 0n)).toBe(S);
  expect(rates.nanoCores("a", { atNs: 2n * S + 50_000_000n, cpuNs: S }, 0n)).toBe(S);
  expect(rates.nanoCores("a", { atNs: 3n * S, cpuNs: S }, 0n)).toBe(0n);
});

test("there is no rate without a start, and none where the count went back", () => {
  const rates = new CpuRates();
  expect(rates.nanoCores("a", { atNs: S, cpuNs: S })).toBeUndefined();
  expect(rates.nanoCores("a", { atNs: 2n * S, cpuNs: 0n })).toBeUndefined();
});
