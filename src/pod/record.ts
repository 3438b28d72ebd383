/**
 * What is kept of a pod: what was asked for, and how far it has come. Durable class.
 *
 * Progress is kept here and never derived from left-over containers, so a daemon restart runs no
 * init container again and forgets no restart count. Writes of progress are not waited for on the
 * way to a start: until they are in place the runtime's own records say the same
 * (pod-worker.ts adopts from them). They are waited for before such evidence is removed.
 */
import type { ContainerId, PodUid, SandboxId } from "../base/ids.js";
import type { Pod } from "./manifest/defaults.js";
import type { FieldProblem } from "./manifest/problems.js";

/** How one attempt of a container ended. Times are Unix ns, decimal. */
export interface Termination {
  readonly containerId: ContainerId;
  readonly exitCode: number;
  readonly signal: number;
  /** `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`. */
  readonly reason: string;
  readonly message?: string | undefined;
  readonly startedAtNs?: string | undefined;
  readonly finishedAtNs: string;
}

/** Why the newest attempt made no running container, and when the next one is due. */
export interface FailedStart {
  /** Kubernetes' word: `ErrImagePull`, `CreateContainerError`, `RunContainerError`, … */
  readonly reason: string;
  readonly message: string;
  readonly delayMs: number;
  readonly retryAtNs: string;
}

export interface ContainerProgress {
  /** Number of the newest attempt, from 0; -1 before the first. It is the restart count, too. */
  attempt: number;
  /** Attempt of the sandbox that the newest container is in. */
  sandboxAttempt: number;
  containerId?: ContainerId | undefined;
  imageId?: string | undefined;
  startedAtNs?: string | undefined;
  terminated?: Termination | undefined;
  /** How the attempt before the newest ended. */
  last?: Termination | undefined;
  /** An init container that has run to completion in this sandbox. */
  isDone?: boolean | undefined;
  /** The delay that the next restart waits after an exit; absent before the first restart. */
  restartDelay?: { readonly delayMs: number; readonly givenAtNs: string } | undefined;
  failedStart?: FailedStart | undefined;
  /** The startup probe of the newest container has succeeded. */
  isStarted?: boolean | undefined;
  /** What the readiness probe of the newest container has said last; absent: nothing yet. */
  isReady?: boolean | undefined;
}

export interface PodDeletion {
  readonly requestedAtNs: string;
  readonly graceSeconds: number;
}

export interface PodRecord {
  readonly uid: PodUid;
  readonly pod: Pod;
  /** Fields without effect, told again by `describe`. */
  readonly warnings: readonly FieldProblem[];
  readonly createdAtNs: string;
  sandbox?: { readonly id: SandboxId; readonly attempt: number; readonly ips: readonly string[] } | undefined;
  sandboxFailure?: FailedStart | undefined;
  /** First time that a sandbox was ready: `status.startTime`, and where activeDeadlineSeconds counts from. */
  startedAtNs?: string | undefined;
  isInitialized: boolean;
  containers: Record<string, ContainerProgress>;
  /** The pod is over: nothing is started again. */
  end?:
    | {
        readonly phase: "Succeeded" | "Failed";
        readonly reason?: string | undefined;
        readonly message?: string | undefined;
        readonly atNs: string;
      }
    | undefined;
  deletion?: PodDeletion | undefined;
  /** When each condition last changed. */
  conditions: Record<string, { readonly status: "True" | "False"; readonly atNs: string }>;
}

/** The record of a pod that nothing has been done for yet. */
export function newPodRecord(fields: {
  uid: PodUid;
  pod: Pod;
  warnings: readonly FieldProblem[];
  createdAtNs: bigint;
}): PodRecord {
  const containers: Record<string, ContainerProgress> = {};
  for (const { name } of [...(fields.pod.spec.initContainers ?? []), ...fields.pod.spec.containers]) {
    containers[name] = { attempt: -1, sandboxAttempt: -1 };
  }
  return {
    uid: fields.uid,
    pod: fields.pod,
    warnings: fields.warnings,
    createdAtNs: String(fields.createdAtNs),
    isInitialized: false,
    containers,
    conditions: {},
  };
}
