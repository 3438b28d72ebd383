/**
 * A deadline for what a monitor answers at once. A monitor that is stopped or hangs keeps its
 * containers running and answers nothing: whoever asks it must learn that, and not wait for ever.
 */
import { orLate } from "../base/deadline.js";
import { RuntimeError } from "../base/errors.js";
import { parseProcessStat } from "../base/process-stat.js";
import type { MonitorClient } from "../monitor/monitor-client.js";
import { processStat } from "../native/index.js";

/** Far above what a loaded machine needs, far below the patience of a person. */
export const ANSWER_DEADLINE_MS = 5_000;

/** How long an answer may take its time before the monitor is asked whether it answers at all. */
const PATIENCE_MS = 2_000;

/** proc_pid_stat(5), field 3, in words. */
const STATES: Readonly<Record<string, string>> = {
  T: "it is stopped, state T in ps: SIGCONT lets it go on",
  t: "a debugger holds it, state t in ps",
  D: "it waits for the kernel, state D in ps",
};

/**
 * The answer.
 *
 * @param asked a request to that monitor that is under way; it stays so when the deadline passes
 * @throws RuntimeError `unavailable` MONITOR_HUNG: none within `deadlineMs`; and what `asked` throws
 */
export async function answerOf<T>(
  monitor: MonitorClient,
  asked: Promise<T>,
  deadlineMs: number = ANSWER_DEADLINE_MS,
): Promise<T> {
  const outcome = await orLate(asked, deadlineMs);
  if (outcome !== "late") return outcome.value;
  asked.catch(() => undefined);
  const { pid } = monitor.hello;
  const state = parseProcessStat(processStat(pid))?.state ?? "gone";
  throw new RuntimeError(
    `the sandbox's monitor, pid ${pid}, has not answered for ${deadlineMs / 1000} s (${STATES[state] ?? `state ${state} in ps`})`,
    { kind: "unavailable", code: "MONITOR_HUNG" },
  );
}

/**
 * The answer to what may take as long as it likes: asks now and then whether the monitor answers at all.
 *
 * @throws RuntimeError `unavailable` MONITOR_HUNG; and what `asked` throws
 */
export async function answerInTime<T>(monitor: MonitorClient, asked: Promise<T>): Promise<T> {
  for (;;) {
    const outcome = await orLate(asked, PATIENCE_MS);
    if (outcome !== "late") return outcome.value;
    try {
      await answerOf(monitor, monitor.list());
    } catch (err) {
      asked.catch(() => undefined);
      throw err;
    }
  }
}
