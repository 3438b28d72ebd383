/**
 * The ways into a pod: a container's log, the container to exec in, the sandbox to forward ports to.
 */
import { join } from "node:path";
import { RuntimeError } from "../base/errors.js";
import type { ContainerId, SandboxId } from "../base/ids.js";
import type { Paths } from "../settings/paths.js";
import { isAlive } from "./actions.js";
import { containerLogPath } from "./convert.js";
import { type LogOptions, readLog } from "./logs.js";
import type { Container, Pod } from "./manifest/defaults.js";
import type { PodWorker } from "./pod-worker.js";
import type { PodRecord } from "./record.js";

export interface PodLogOptions extends Omit<LogOptions, "hasEnded"> {
  /** The attempt before the newest one. */
  readonly previous: boolean;
}

export interface RunningContainer {
  readonly id: ContainerId;
  readonly name: string;
  readonly tty: boolean;
  readonly stdin: boolean;
}

/** @param isThere false once the pod is gone */
export function openLog(
  worker: PodWorker,
  paths: Paths,
  container: string,
  options: PodLogOptions,
  isThere: () => boolean,
): AsyncIterable<Buffer> {
  const { record } = worker;
  const { namespace, name } = record.pod.metadata;
  const containerName = nameOf(record, container);
  const attempt = (record.containers[containerName]?.attempt ?? -1) - (options.previous ? 1 : 0);
  if (attempt < 0) {
    const what = options.previous ? "has not been restarted" : "has not started yet";
    throw new RuntimeError(`container "${containerName}" of pod "${name}" ${what}`, {
      kind: "not-found",
      code: "LOG_NOT_FOUND",
    });
  }
  const hasEnded = () => {
    const now = record.containers[containerName];
    return !isThere() || now?.attempt !== attempt || !isAlive(now);
  };
  return readLog(join(paths.podLogs(namespace, name, worker.uid), containerLogPath(containerName, attempt)), {
    ...options,
    follow: options.follow && !options.previous,
    hasEnded,
  });
}

export function runningContainer(worker: PodWorker, container: string): RunningContainer {
  const { record } = worker;
  const name = nameOf(record, container);
  const id = record.containers[name]?.containerId;
  if (id === undefined || !worker.isRunning(name)) {
    throw notRunning(`container "${name}" of pod "${record.pod.metadata.name}" is not running`);
  }
  const spec = allContainers(record.pod).find((one) => one.name === name);
  return { id, name, tty: spec?.tty ?? false, stdin: spec?.stdin ?? false };
}

export function readySandbox({ record, isSandboxReady }: PodWorker): SandboxId {
  if (!record.sandbox || !isSandboxReady) throw notRunning(`pod "${record.pod.metadata.name}" is not running`);
  return record.sandbox.id;
}

function notRunning(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "failed-precondition", code: "CONTAINER_NOT_RUNNING" });
}

const allContainers = ({ spec }: Pod): Container[] => [...(spec.initContainers ?? []), ...spec.containers];

/** @param asked empty: the one that the pod's annotation names, else the first */
function nameOf({ pod }: PodRecord, asked: string): string {
  if (asked === "") {
    const annotated = pod.metadata.annotations?.["kubectl.kubernetes.io/default-container"];
    return annotated ?? pod.spec.containers[0]?.name ?? "";
  }
  const names = allContainers(pod).map(({ name }) => name);
  if (names.includes(asked)) return asked;
  throw new RuntimeError(`pod "${pod.metadata.name}" has no container "${asked}"; it has ${names.join(", ")}`, {
    kind: "not-found",
    code: "CONTAINER_NOT_FOUND",
  });
}
