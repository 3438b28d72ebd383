/** What is logged of the collection of images, pass by pass. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Logger } from "../../../src/base/log.js";
import { collectImages } from "../../../src/image/collect-images.js";
import type { ImageStore } from "../../../src/image/image-store.js";
import { DEFAULT_SETTINGS } from "../../../src/settings/settings.js";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

test("what is collected is logged, a disk that stays full once until it is over, and a pass that fails", async () => {
  const passes = [
    { collected: [{ id: "a" }], isStarved: true },
    { collected: [], isStarved: true },
    { collected: [], isStarved: false },
    { collected: undefined, isStarved: false },
    { collected: [], isStarved: true },
  ];
  let pass = -1;
  const collector = {
    run: async () => {
      pass++;
      const { collected } = passes[pass] ?? {};
      if (!collected) throw new Error("no statfs");
      return collected;
    },
    get isStarved() {
      return passes[pass]?.isStarved;
    },
    save: async () => undefined,
  };
  const said: string[] = [];
  const log = {
    info: (_: object, text: string) => said.push(`${pass} info ${text}`),
    warn: (_: object, text: string) => said.push(`${pass} warn ${text.split(":")[0]}`),
  };
  const store = { care: { collector: () => collector } } as unknown as ImageStore;
  const stop = collectImages(store, DEFAULT_SETTINGS.images.collection, log as unknown as Logger);
  for (const _ of passes) await vi.advanceTimersByTimeAsync(DEFAULT_SETTINGS.images.collection.intervalMs);
  await stop();
  expect(said).toEqual([
    "0 info an unused image was collected",
    "0 warn the disk stays above the low threshold",
    "3 warn could not collect images, trying again at the next interval",
    "4 warn the disk stays above the low threshold",
  ]);
});
