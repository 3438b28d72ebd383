/**
 * A pod in a line: the STATUS, READY and RESTARTS that kubectl shows (printers.printPod).
 */
import type { PodJson } from "../client/index.js";
import { age, table } from "./table.js";

type ContainerStatus = PodJson["status"]["containerStatuses"][number];

/** The one word for a pod's state: the first container's trouble, else the phase. */
export function podSummary(pod: PodJson): string {
  const { status, metadata } = pod;
  let summary: string = status.reason ?? status.phase;
  const inits = status.initContainerStatuses ?? [];
  const specs = new Map((pod.spec.initContainers ?? []).map((spec) => [spec.name, spec]));
  const isInitialized = status.conditions.some(({ type, status: s }) => type === "Initialized" && s === "True");
  const pending = isInitialized
    ? -1
    : inits.findIndex((init) => !isInitDone(init, specs.get(init.name)?.restartPolicy === "Always"));
  const blocked = inits[pending];
  if (blocked) {
    const word = blocked.state.terminated?.reason ?? blocked.state.waiting?.reason;
    summary =
      word && word !== "PodInitializing" && word !== "ContainerCreating"
        ? `Init:${word}`
        : `Init:${pending}/${inits.length}`;
  } else if (status.phase !== "Succeeded" && status.phase !== "Failed") {
    const reasons = status.containerStatuses.map(({ state }) => state.waiting?.reason ?? state.terminated?.reason);
    summary = reasons.findLast((reason) => reason !== undefined) ?? summary;
    if (summary === "Completed" && status.containerStatuses.some(({ state }) => state.running)) summary = "Running";
  } else if (!status.reason) {
    const reasons = status.containerStatuses.map(({ state }) => state.terminated?.reason);
    summary =
      status.phase === "Succeeded"
        ? "Completed"
        : (reasons.find((reason) => reason && reason !== "Completed") ?? "Error");
  }
  return metadata.deletionTimestamp ? "Terminating" : summary;
}

function isInitDone(init: ContainerStatus, isSidecar: boolean): boolean {
  return isSidecar ? init.started : init.state.terminated?.exitCode === 0;
}

/** Containers that count for READY: the pod's, and its sidecars. */
export function readyCount(pod: PodJson): { ready: number; total: number; restarts: number } {
  const sidecars = new Set(
    (pod.spec.initContainers ?? []).filter((spec) => spec.restartPolicy === "Always").map(({ name }) => name),
  );
  const counted = [
    ...(pod.status.initContainerStatuses ?? []).filter(({ name }) => sidecars.has(name)),
    ...pod.status.containerStatuses,
  ];
  return {
    ready: counted.filter(({ ready }) => ready).length,
    total: counted.length,
    restarts: counted.reduce((sum, { restartCount }) => sum + restartCount, 0),
  };
}

export interface PodTableOptions {
  readonly wide: boolean;
  readonly withNamespace: boolean;
}

export function podHeader({ wide, withNamespace }: PodTableOptions): string[] {
  return [
    ...(withNamespace ? ["NAMESPACE"] : []),
    "NAME",
    "READY",
    "STATUS",
    "RESTARTS",
    "AGE",
    ...(wide ? ["IP", "IPV6", "IMAGES"] : []),
  ];
}

export function podRow(pod: PodJson, { wide, withNamespace }: PodTableOptions): string[] {
  const { ready, total, restarts } = readyCount(pod);
  const ips = (pod.status.podIPs ?? []).map(({ ip }) => ip);
  const wideCells = [
    ips.find((ip) => !ip.includes(":")) ?? "<none>",
    ips.find((ip) => ip.includes(":")) ?? "<none>",
    [...new Set(pod.spec.containers.map(({ image }) => image))].join(","),
  ];
  return [
    ...(withNamespace ? [pod.metadata.namespace] : []),
    pod.metadata.name,
    `${ready}/${total}`,
    podSummary(pod),
    String(restarts),
    age(pod.metadata.creationTimestamp),
    ...(wide ? wideCells : []),
  ];
}

export function podTable(pods: readonly PodJson[], options: PodTableOptions): string {
  return table(
    podHeader(options),
    pods.map((pod) => podRow(pod, options)),
  );
}
