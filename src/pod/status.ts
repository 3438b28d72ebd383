/**
 * A pod as Kubernetes shows it: phase, conditions and container statuses, from the record alone.
 *
 * Phase: kubelet getPhase. Conditions: kubelet status/generate.go. Names, reasons and JSON shape
 * are Kubernetes'; nothing here is ours.
 */
import { nowNs, toRfc3339 } from "../base/clock.js";
import { isAlive, isSidecar, shouldRestart, startDueNs } from "./actions.js";
import type { BackoffLimits } from "./backoff.js";
import { qosClass } from "./convert.js";
import type { Container, Pod } from "./manifest/defaults.js";
import type { ContainerProgress, PodRecord, Termination } from "./record.js";

export interface ContainerStateJson {
  waiting?: { reason: string; message?: string };
  running?: { startedAt: string };
  terminated?: {
    exitCode: number;
    signal?: number;
    reason: string;
    message?: string;
    startedAt: string | null;
    finishedAt: string;
    containerID: string;
  };
}

export interface ContainerStatusJson {
  name: string;
  state: ContainerStateJson;
  lastState: ContainerStateJson;
  ready: boolean;
  restartCount: number;
  image: string;
  imageID: string;
  containerID?: string;
  started: boolean;
}

export type Phase = "Pending" | "Running" | "Succeeded" | "Failed" | "Unknown";

export interface ConditionJson {
  type: string;
  status: "True" | "False";
  reason?: string;
  message?: string;
  lastProbeTime: null;
  lastTransitionTime: string;
}

export interface PodStatusJson {
  phase: Phase;
  reason?: string;
  message?: string;
  conditions: ConditionJson[];
  hostIP?: string;
  hostIPs?: { ip: string }[];
  podIP?: string;
  podIPs?: { ip: string }[];
  startTime?: string;
  initContainerStatuses?: ContainerStatusJson[];
  containerStatuses: ContainerStatusJson[];
  qosClass: string;
}

/** A Pod object of the API. */
export interface PodJson {
  apiVersion: "v1";
  kind: "Pod";
  metadata: Pod["metadata"] & { uid: string; creationTimestamp: string; resourceVersion: string };
  spec: Pod["spec"] & { nodeName: string };
  status: PodStatusJson;
}

export interface StatusFacts {
  readonly isSandboxReady: boolean;
  readonly hostIps: readonly string[];
  readonly nodeName: string;
  readonly limits: BackoffLimits;
  readonly resourceVersion: string;
}

const time = (ns: string): string => toRfc3339(BigInt(ns));

export function toPodJson(record: PodRecord, facts: StatusFacts): PodJson {
  const { pod, deletion } = record;
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      ...pod.metadata,
      uid: record.uid,
      creationTimestamp: time(record.createdAtNs),
      resourceVersion: facts.resourceVersion,
      ...(deletion && {
        deletionTimestamp: toRfc3339(BigInt(deletion.requestedAtNs) + BigInt(deletion.graceSeconds) * 1_000_000_000n),
        deletionGracePeriodSeconds: deletion.graceSeconds,
      }),
    },
    spec: { ...pod.spec, nodeName: facts.nodeName },
    status: podStatus(record, facts),
  };
}

function podStatus(record: PodRecord, facts: StatusFacts): PodStatusJson {
  const { spec } = record.pod;
  const inits = (spec.initContainers ?? []).map((container) => containerStatus(container, record, facts));
  const containers = spec.containers.map((container) => containerStatus(container, record, facts));
  const podIps = spec.hostNetwork ? facts.hostIps : (record.sandbox?.ips ?? []);
  return {
    phase: podPhase(record),
    ...(record.end?.reason && { reason: record.end.reason }),
    ...(record.end?.message && { message: record.end.message }),
    conditions: podConditions(record, facts, inits, containers),
    ...(facts.hostIps[0] !== undefined && { hostIP: facts.hostIps[0], hostIPs: facts.hostIps.map((ip) => ({ ip })) }),
    ...(podIps[0] !== undefined && { podIP: podIps[0], podIPs: podIps.map((ip) => ({ ip })) }),
    ...(record.startedAtNs !== undefined && { startTime: time(record.startedAtNs) }),
    ...(inits.length > 0 && { initContainerStatuses: inits }),
    containerStatuses: containers,
    qosClass: qosClass(record.pod),
  };
}

/** Kubelet getPhase, with what a restart policy makes of an end. */
export function podPhase(record: PodRecord): Phase {
  if (record.end) return record.end.phase;
  if (!record.isInitialized) return "Pending";
  const { spec } = record.pod;
  for (const { name } of spec.containers) {
    const progress = record.containers[name];
    if (progress?.containerId === undefined && !progress?.last) return "Pending";
    if (isAlive(progress) && progress.startedAtNs === undefined && !progress.last) return "Pending";
  }
  return "Running";
}

/** Which containers are ready: those that run and whose probes are content; an init container, once it is done. */
function isReady(container: Container, progress: ContainerProgress | undefined, isInit: boolean): boolean {
  if (isInit && !isSidecar(container)) return progress?.isDone === true;
  if (!hasStarted(container, progress)) return false;
  return !container.readinessProbe || progress?.isReady === true;
}

/** Runs, and its startup probe, where it has one, is content. */
function hasStarted(container: Container, progress: ContainerProgress | undefined): boolean {
  if (!isAlive(progress) || progress?.startedAtNs === undefined) return false;
  return !container.startupProbe || progress.isStarted === true;
}

function containerStatus(container: Container, record: PodRecord, facts: StatusFacts): ContainerStatusJson {
  const progress = record.containers[container.name] ?? { attempt: -1, sandboxAttempt: -1 };
  const isInit = record.pod.spec.initContainers?.includes(container) ?? false;
  const state = containerState(container, progress, record, facts, isInit);
  // A waiting container shows how its newest attempt ended as its last state, as a kubelet does.
  const last = state.terminated ? progress.last : (progress.terminated ?? progress.last);
  return {
    name: container.name,
    state,
    lastState: last ? { terminated: terminatedState(last) } : {},
    ready: isReady(container, progress, isInit),
    restartCount: Math.max(progress.attempt, 0),
    image: container.image,
    imageID: progress.imageId ?? "",
    ...(progress.containerId && { containerID: `minke://${progress.containerId}` }),
    started: hasStarted(container, progress),
  };
}

function containerState(
  container: Container,
  progress: ContainerProgress,
  record: PodRecord,
  facts: StatusFacts,
  isInit: boolean,
): ContainerStateJson {
  if (isAlive(progress) && progress.startedAtNs !== undefined)
    return { running: { startedAt: time(progress.startedAtNs) } };
  const { terminated, failedStart } = progress;
  const isOver = record.end !== undefined || record.deletion !== undefined || progress.isDone === true;
  const restarts =
    terminated !== undefined &&
    !isOver &&
    (isSidecar(container) ||
      (isInit ? initRestarts(record.pod, terminated) : shouldRestart(record.pod, terminated.exitCode)));
  if (terminated && !restarts) return { terminated: terminatedState(terminated) };
  if (failedStart) return { waiting: { reason: failedStart.reason, message: failedStart.message } };
  if (terminated) {
    const leftMs = Number((startDueNs(progress, facts.limits) - nowNs()) / 1_000_000n);
    if (leftMs <= 0) return { terminated: terminatedState(terminated) };
    const delay = progress.restartDelay ? `back-off ${progress.restartDelay.delayMs / 1000}s ` : "";
    return {
      waiting: {
        reason: "CrashLoopBackOff",
        message: `${delay}restarting failed container=${container.name} pod=${record.pod.metadata.name}_${record.pod.metadata.namespace}(${record.uid})`,
      },
    };
  }
  // Of every container that has not run, its own image pull included (kubelet convertToAPIContainerStatuses).
  const hasInits = (record.pod.spec.initContainers ?? []).length > 0;
  return { waiting: { reason: hasInits ? "PodInitializing" : "ContainerCreating" } };
}

const initRestarts = (pod: Pod, { exitCode }: Termination): boolean =>
  exitCode !== 0 && pod.spec.restartPolicy !== "Never";

function terminatedState(end: Termination): NonNullable<ContainerStateJson["terminated"]> {
  return {
    exitCode: end.exitCode,
    ...(end.signal > 0 && { signal: end.signal }),
    reason: end.reason,
    ...(end.message && { message: end.message }),
    startedAt: end.startedAtNs ? time(end.startedAtNs) : null,
    finishedAt: time(end.finishedAtNs),
    containerID: `minke://${end.containerId}`,
  };
}

function podConditions(
  record: PodRecord,
  facts: StatusFacts,
  inits: readonly ContainerStatusJson[],
  containers: readonly ContainerStatusJson[],
): ConditionJson[] {
  const isOver = record.end !== undefined;
  const done = record.end?.phase === "Succeeded" ? "PodCompleted" : "PodFailed";
  const unready = containers.filter(({ ready }) => !ready).map(({ name }) => name);
  const incomplete = inits.filter(({ ready }) => !ready).map(({ name }) => name);
  const notReady = isOver
    ? { reason: done }
    : { reason: "ContainersNotReady", message: `containers with unready status: [${unready.join(" ")}]` };
  const sidecarsReady = inits.every(({ ready }) => ready);
  const areReady = !isOver && record.isInitialized && unready.length === 0 && sidecarsReady;
  const failure = record.sandboxFailure;
  return [
    condition(
      record,
      "PodReadyToStartContainers",
      facts.isSandboxReady,
      failure ? { reason: failure.reason, message: failure.message } : {},
    ),
    condition(record, "Initialized", record.isInitialized, {
      reason: "ContainersNotInitialized",
      message: `containers with incomplete status: [${incomplete.join(" ")}]`,
    }),
    condition(record, "Ready", areReady && !record.deletion, notReady),
    condition(record, "ContainersReady", areReady, notReady),
    condition(record, "PodScheduled", true, {}),
  ];
}

function condition(
  record: PodRecord,
  type: string,
  holds: boolean,
  otherwise: { reason?: string; message?: string },
): ConditionJson {
  const status = holds ? "True" : "False";
  const before = record.conditions[type];
  const since =
    before?.status === status ? before : ({ status, atNs: before ? String(nowNs()) : record.createdAtNs } as const);
  record.conditions[type] = since;
  return { type, status, ...(holds ? {} : otherwise), lastProbeTime: null, lastTransitionTime: time(since.atNs) };
}
