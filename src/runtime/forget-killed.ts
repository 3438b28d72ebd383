/**
 * Lets a monitor forget a container that was killed, once it has written how that ended: until then
 * the exit file may still come into the container's folder, and one that is being removed would stay.
 *
 * For containers without a record, whose exit nobody waits for. Others: container-exit.ts.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { toRuntimeError } from "../base/errors.js";
import type { ContainerId } from "../base/ids.js";
import type { MonitorClient } from "../monitor/monitor-client.js";
import { answerOf } from "./monitor-answer.js";

const KILL_DEADLINE_MS = 10_000;
const POLL_MS = 10;

/**
 * Resolves when the monitor has forgotten it.
 *
 * @throws RuntimeError `failed-precondition` CONTAINER_RUNNING: it has not ended within 10 s; `unavailable` MONITOR_HUNG
 */
export async function forgetKilled(
  monitor: MonitorClient,
  containerId: ContainerId,
  deadlineMs: number = KILL_DEADLINE_MS,
): Promise<void> {
  for (const giveUpAt = performance.now() + deadlineMs; ; await sleep(POLL_MS)) {
    try {
      return await answerOf(monitor, monitor.forget({ containerId }));
    } catch (err) {
      if (toRuntimeError(err).code !== "CONTAINER_RUNNING" || performance.now() > giveUpAt) throw err;
    }
  }
}
