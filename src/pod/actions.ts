/**
 * What to do next for a pod: a pure function of its record and of what runs.
 *
 * The worker calls it after every event and timer, does what it says, and calls it again; so it
 * must be right from any state, also from the one that a daemon finds after a crash. Order of
 * init containers, sidecars and termination: Kubernetes, "Pod Lifecycle" and "Sidecar Containers".
 */
import { type BackoffLimits, restartDueNs } from "./backoff.js";
import type { Container, Pod } from "./manifest/defaults.js";
import type { ContainerProgress, PodRecord } from "./record.js";

/** `stopping`: on its way to `stopped`, or a stop that failed half-way and has to be finished. */
export type SandboxView = "none" | "ready" | "stopping" | "stopped";

export interface PodView {
  readonly record: PodRecord;
  readonly sandbox: SandboxView;
  /** Work under way: `@sandbox`, `@remove`, or the name of a container that is being started. */
  readonly busy: ReadonlySet<string>;
  readonly nowNs: bigint;
  readonly limits: BackoffLimits;
}

export type Action =
  | { readonly type: "run-sandbox" }
  | { readonly type: "start"; readonly container: Container }
  | { readonly type: "initialized" }
  | {
      readonly type: "end";
      readonly phase: "Succeeded" | "Failed";
      readonly reason?: string;
      readonly message?: string;
    }
  | { readonly type: "stop"; readonly name: string; readonly graceMs: number }
  | { readonly type: "stop-sandbox" }
  | { readonly type: "remove" }
  | { readonly type: "wait"; readonly untilNs: bigint };

const NS_PER_S = 1_000_000_000n;
const NS_PER_MS = 1_000_000n;
/** Every container gets this long between the stop signal and SIGKILL, unless the pod is to go at once (kubelet). */
const MIN_GRACE_MS = 2_000;

export const isSidecar = (container: Container): boolean => container.restartPolicy === "Always";

/** True while a container of the newest attempt exists and has not ended. */
export function isAlive(progress: ContainerProgress | undefined): boolean {
  return progress?.containerId !== undefined && progress.terminated === undefined;
}

export function nextActions(view: PodView): Action[] {
  const { record, nowNs } = view;
  if (record.deletion) {
    const { requestedAtNs, graceSeconds } = record.deletion;
    const deadlineNs = BigInt(requestedAtNs) + BigInt(graceSeconds) * NS_PER_S;
    const stops = windDown(view, graceSeconds === 0 ? undefined : deadlineNs);
    return stops ?? [{ type: "remove" }];
  }
  if (record.end) {
    const graceNs = BigInt(record.pod.spec.terminationGracePeriodSeconds) * NS_PER_S;
    const stops = windDown(view, BigInt(record.end.atNs) + graceNs);
    const hasSandbox = view.sandbox === "ready" || view.sandbox === "stopping";
    return stops ?? (hasSandbox ? [{ type: "stop-sandbox" }] : []);
  }
  const actions: Action[] = [];
  const { activeDeadlineSeconds } = record.pod.spec;
  if (activeDeadlineSeconds !== undefined && record.startedAtNs !== undefined) {
    const deadlineNs = BigInt(record.startedAtNs) + BigInt(activeDeadlineSeconds) * NS_PER_S;
    if (nowNs >= deadlineNs) {
      return [
        {
          type: "end",
          phase: "Failed",
          reason: "DeadlineExceeded",
          message: "Pod was active on the node longer than the specified deadline",
        },
      ];
    }
    actions.push({ type: "wait", untilNs: deadlineNs });
  }
  const ending = endOf(record);
  if (ending) return [ending];
  // How its containers ended is known once it is stopped; only then comes the next one.
  if (view.sandbox === "stopping") return [...actions, { type: "stop-sandbox" }];
  if (view.sandbox !== "ready") return [...actions, ...sandboxActions(view)];
  return [...actions, ...containerActions(view)];
}

function sandboxActions({ record, busy, nowNs }: PodView): Action[] {
  if (busy.size > 0) return [];
  const retryAtNs = BigInt(record.sandboxFailure?.retryAtNs ?? 0);
  return retryAtNs > nowNs ? [{ type: "wait", untilNs: retryAtNs }] : [{ type: "run-sandbox" }];
}

function containerActions(view: PodView): Action[] {
  const { record } = view;
  const actions: Action[] = [];
  const { spec } = record.pod;
  let isBlocked = false;
  for (const container of spec.initContainers ?? []) {
    const progress = record.containers[container.name];
    if (isSidecar(container)) {
      // A sidecar counts as started once it runs; when it ends later it is restarted beside the others.
      if (!isCurrent(progress, record) || !isAlive(progress)) actions.push(...startWhenDue(view, container));
      if (!record.isInitialized && (!hasStarted(container, progress, record) || view.busy.has(container.name)))
        isBlocked = true;
    } else if (!record.isInitialized && !(progress?.isDone && isCurrent(progress, record))) {
      if (!isCurrent(progress, record) || !isAlive(progress)) actions.push(...startWhenDue(view, container));
      isBlocked = true;
    }
    if (isBlocked) return actions;
  }
  if (!record.isInitialized) return [{ type: "initialized" }];
  for (const container of spec.containers) {
    const progress = record.containers[container.name];
    if (isCurrent(progress, record) && isAlive(progress)) continue;
    if (progress?.terminated && !shouldRestart(record.pod, progress.terminated.exitCode)) continue;
    actions.push(...startWhenDue(view, container));
  }
  return actions;
}

/** True where the newest container belongs to the sandbox of now, not to one that was lost. */
function isCurrent(progress: ContainerProgress | undefined, record: PodRecord): boolean {
  return progress !== undefined && progress.sandboxAttempt === record.sandbox?.attempt;
}

/** True once a sidecar has run in this sandbox, and its startup probe is content: it no longer holds back those after it. */
function hasStarted(container: Container, progress: ContainerProgress | undefined, record: PodRecord): boolean {
  if (!isCurrent(progress, record) || progress?.startedAtNs === undefined) return false;
  return !container.startupProbe || progress.isStarted === true;
}

function startWhenDue({ record, busy, nowNs, limits }: PodView, container: Container): Action[] {
  if (busy.has(container.name)) return [];
  const dueNs = startDueNs(record.containers[container.name], limits);
  return dueNs > nowNs ? [{ type: "wait", untilNs: dueNs }] : [{ type: "start", container }];
}

/** When a container may be started (again), Unix ns; 0 for at once. */
export function startDueNs(progress: ContainerProgress | undefined, limits: BackoffLimits): bigint {
  if (progress?.failedStart) return BigInt(progress.failedStart.retryAtNs);
  if (progress?.terminated) return restartDueNs(progress, limits);
  return 0n;
}

export function shouldRestart(pod: Pod, exitCode: number): boolean {
  const policy = pod.spec.restartPolicy;
  return policy === "Always" || (policy === "OnFailure" && exitCode !== 0);
}

/** The pod's end, where its containers have come to one. */
function endOf(record: PodRecord): Action | undefined {
  const { spec } = record.pod;
  if (!record.isInitialized && spec.restartPolicy === "Never") {
    for (const container of spec.initContainers ?? []) {
      const { terminated } = record.containers[container.name] ?? {};
      if (!isSidecar(container) && terminated && terminated.exitCode !== 0) {
        return {
          type: "end",
          phase: "Failed",
          reason: "InitContainerFailed",
          message: `init container "${container.name}" ended with exit code ${terminated.exitCode}`,
        };
      }
    }
  }
  const ends = spec.containers.map(({ name }) => record.containers[name]?.terminated);
  if (!ends.every((end) => end !== undefined && !shouldRestart(record.pod, end.exitCode))) return undefined;
  return { type: "end", phase: ends.every((end) => end?.exitCode === 0) ? "Succeeded" : "Failed" };
}

/**
 * Stops what runs: containers together, then sidecars one by one, the last first. Returns
 * `undefined` once nothing runs and no work is under way.
 *
 * @param deadlineNs when the grace period ends; `undefined`: kill at once
 */
function windDown({ record, busy, nowNs }: PodView, deadlineNs: bigint | undefined): Action[] | undefined {
  const { spec } = record.pod;
  const remainingMs = deadlineNs === undefined ? 0 : Number((deadlineNs - nowNs) / NS_PER_MS);
  const graceMs = deadlineNs === undefined ? 0 : Math.max(remainingMs, MIN_GRACE_MS);
  const alive = (container: Container) => isAlive(record.containers[container.name]);
  const first = [...spec.containers, ...(spec.initContainers ?? []).filter((c) => !isSidecar(c))].filter(alive);
  // One that is being started is stopped once that has settled; until then it may not exist yet.
  const stop = (containers: readonly Container[]): Action[] =>
    containers.filter(({ name }) => !busy.has(name)).map(({ name }) => ({ type: "stop", name, graceMs }));
  if (first.length > 0) return stop(first);
  const sidecar = (spec.initContainers ?? []).filter(isSidecar).findLast(alive);
  if (sidecar) return stop([sidecar]);
  return busy.size > 0 ? [] : undefined;
}
