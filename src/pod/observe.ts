/**
 * What the runtime says about a pod's containers, written into the pod's record.
 */
import { nowNs } from "../base/clock.js";
import type { ContainerId } from "../base/ids.js";
import type { Runtime } from "../runtime/runtime.js";
import type { ContainerStatus } from "../state/container.js";
import { isAlive, isSidecar } from "./actions.js";
import type { ContainerProgress, PodRecord, Termination } from "./record.js";

/** Exit code where nobody knows it (kubelet ContainerStatusUnknown). */
const UNKNOWN_EXIT_CODE = 137;

export interface ObservedEvent {
  readonly type: "Normal" | "Warning";
  readonly reason: string;
  readonly message: string;
  readonly container?: string;
}

/**
 * Notes every container that has ended since the last look. True where something changed.
 *
 * @param busy names of containers that are being started: theirs is not looked at
 */
export function observeContainers(
  record: PodRecord,
  runtime: Runtime,
  busy: ReadonlySet<string>,
  event: (e: ObservedEvent) => void,
): boolean {
  let hasChanged = false;
  const once = new Set((record.pod.spec.initContainers ?? []).filter((c) => !isSidecar(c)).map(({ name }) => name));
  for (const [name, progress] of Object.entries(record.containers)) {
    if (busy.has(name) || !isAlive(progress) || progress.containerId === undefined) continue;
    const end = terminationOf(statusOf(runtime, progress.containerId), progress);
    if (!end) continue;
    progress.terminated = end;
    if (once.has(name) && end.exitCode === 0) progress.isDone = true;
    if (end.exitCode !== 0)
      event({
        type: "Warning",
        reason: end.reason,
        message: `Container ${name} ended with exit code ${end.exitCode}`,
        container: name,
      });
    hasChanged = true;
  }
  return hasChanged;
}

function statusOf(runtime: Runtime, id: ContainerId): ContainerStatus | undefined {
  try {
    return runtime.containerStatus(id);
  } catch {
    return undefined;
  }
}

/** How a container ended, or `undefined` while it runs. One that nobody knows any more has ended. */
function terminationOf(status: ContainerStatus | undefined, progress: ContainerProgress): Termination | undefined {
  const containerId = progress.containerId as ContainerId;
  if (!status) {
    return {
      containerId,
      exitCode: UNKNOWN_EXIT_CODE,
      signal: 0,
      reason: "ContainerStatusUnknown",
      message: "the container is gone, and nobody saw it end",
      startedAtNs: progress.startedAtNs,
      finishedAtNs: String(nowNs()),
    };
  }
  if (status.state !== "exited" && status.state !== "removing") return undefined;
  const { exit, startError } = status;
  if (exit) {
    const fallback = exit.oomKilled ? "OOMKilled" : exit.exitCode === 0 ? "Completed" : "Error";
    return {
      containerId,
      exitCode: exit.unknown === undefined ? exit.exitCode : UNKNOWN_EXIT_CODE,
      signal: exit.signal,
      reason: exit.unknown === undefined ? (status.reason ?? fallback) : "ContainerStatusUnknown",
      message: exit.unknown ?? status.message,
      startedAtNs: exit.startedAtNs,
      finishedAtNs: exit.finishedAtNs,
    };
  }
  return {
    containerId,
    exitCode: startError?.exitCode ?? UNKNOWN_EXIT_CODE,
    signal: 0,
    reason: startError ? "StartError" : (status.reason ?? "ContainerStatusUnknown"),
    message: startError?.message ?? status.message,
    startedAtNs: status.startedAtNs,
    finishedAtNs: String(nowNs()),
  };
}

/**
 * After a daemon start: takes over a sandbox and containers that were made when the record had
 * not been written yet, and lets go of a container that was made and never started.
 */
export async function adoptFromRuntime(record: PodRecord, runtime: Runtime): Promise<void> {
  for (const sandbox of runtime.listSandboxes("pod")) {
    const { uid, attempt } = sandbox.config.metadata;
    if (uid !== record.uid || sandbox.state !== "ready" || attempt <= (record.sandbox?.attempt ?? -1)) continue;
    record.sandbox = { id: sandbox.id, attempt, ips: sandbox.network?.ips ?? [] };
    record.startedAtNs ??= sandbox.createdAtNs;
    record.isInitialized = false;
  }
  const { sandbox } = record;
  if (!sandbox) return;
  for (const status of runtime.listContainers("pod", sandbox.id)) {
    const { name, attempt } = status.config.metadata;
    const progress = record.containers[name];
    if (!progress) continue;
    if (status.state === "created" || status.state === "removing") {
      await runtime.removeContainer(status.id);
      if (progress.containerId === status.id) undoAttempt(progress);
    } else if (attempt > progress.attempt) {
      if (progress.terminated) progress.last = progress.terminated;
      Object.assign(progress, {
        attempt,
        sandboxAttempt: sandbox.attempt,
        containerId: status.id,
        imageId: status.imageId,
        startedAtNs: status.startedAtNs,
      });
      progress.terminated = undefined;
      progress.failedStart = undefined;
    } else if (progress.containerId === status.id) {
      progress.startedAtNs ??= status.startedAtNs;
    }
  }
}

/** Forgets the newest attempt, which never ran: its number is given again. */
function undoAttempt(progress: ContainerProgress): void {
  progress.attempt -= 1;
  progress.containerId = progress.last?.containerId;
  progress.terminated = progress.last;
  progress.last = undefined;
  progress.startedAtNs = progress.terminated?.startedAtNs;
}
