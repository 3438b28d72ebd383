import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { WhenQuiet } from "../../../src/base/when-quiet.js";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test("WhenQuiet waits until its causes have paused, and works once for all of them", () => {
  const work = vi.fn<() => void>();
  const quiet = new WhenQuiet(100, work);
  quiet.touch();
  vi.advanceTimersByTime(90);
  quiet.touch();
  vi.advanceTimersByTime(90);
  expect(work).not.toHaveBeenCalled();
  vi.advanceTimersByTime(10);
  expect(work).toHaveBeenCalledTimes(1);
  vi.advanceTimersByTime(1000);
  expect(work).toHaveBeenCalledTimes(1);
});

test("WhenQuiet works again after the next cause", () => {
  const work = vi.fn<() => void>();
  const quiet = new WhenQuiet(100, work);
  quiet.touch();
  vi.advanceTimersByTime(100);
  quiet.touch();
  vi.advanceTimersByTime(100);
  expect(work).toHaveBeenCalledTimes(2);
});

test("WhenQuiet that is closed does not work any more", () => {
  const work = vi.fn<() => void>();
  const quiet = new WhenQuiet(100, work);
  quiet.touch();
  quiet.close();
  vi.advanceTimersByTime(1000);
  expect(work).not.toHaveBeenCalled();
});
