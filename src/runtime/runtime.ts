/**
 * The verbs of minke, as `cri` and `pod` call them. Each verb is a file of this folder.
 *
 * Knows sandboxes and containers; knows no Pod, no gRPC and no HTTP. Stop and Remove are
 * idempotent: an unknown or finished id succeeds (CRI api.proto). All others throw
 * RuntimeError `not-found` SANDBOX_NOT_FOUND or CONTAINER_NOT_FOUND.
 */
import type { Duplex, Readable, Writable } from "node:stream";
import type { ContainerId, SandboxId } from "../base/ids.js";
import type { ContainerConfig, ContainerResources, ContainerStatus, ExitRecord } from "../state/container.js";
import type { Owner, SandboxConfig, SandboxStatus } from "../state/sandbox.js";
import type { ContainerFigures, SandboxFigures } from "./figures.js";
import type { ContainerUsage, SandboxUsage } from "./usage.js";

export type RuntimeEvent =
  | {
      readonly type: "sandbox-ready" | "sandbox-stopped" | "sandbox-removed";
      readonly sandboxId: SandboxId;
      readonly owner: Owner;
    }
  | {
      readonly type: "container-created" | "container-started" | "container-removed";
      readonly sandboxId: SandboxId;
      readonly containerId: ContainerId;
      readonly owner: Owner;
    }
  | {
      readonly type: "container-exited";
      readonly sandboxId: SandboxId;
      readonly containerId: ContainerId;
      readonly owner: Owner;
      readonly exit: ExitRecord;
    };

export interface ExecRequest {
  readonly command: readonly string[];
  readonly tty: boolean;
  readonly stdin: boolean;
  /** TERM and size of the caller's terminal, where tty. */
  readonly size?: { readonly columns: number; readonly rows: number } | undefined;
}

export interface ExecSyncResult {
  readonly exitCode: number;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** True where the cap cut stdout or stderr. */
  readonly isTruncated: boolean;
}

/** A running exec, or an attachment to a container, with its streams. */
export interface ExecSession {
  /** `undefined` where stdin was not asked for. End it to close the process's stdin. */
  readonly stdin: Writable | undefined;
  readonly stdout: Readable;
  /** `undefined` with a terminal. */
  readonly stderr: Readable | undefined;
  resize(columns: number, rows: number): void;
  /** Settles when the process has ended and its output is drained; for attach, with the container's exit. */
  readonly exited: Promise<{ readonly exitCode: number }>;
  /** Detaches; an exec without an attached client is killed with all its processes. */
  close(): void;
}

export interface Runtime {
  /**
   * Names are unique by (namespace, name, uid, attempt): a second call while the first runs joins it.
   * An aborted call answers at once; its work is undone at the next step, unless it is joined before.
   */
  runSandbox(config: SandboxConfig, signal?: AbortSignal): Promise<SandboxId>;
  /** Kills what still runs, tears the network down. */
  stopSandbox(id: SandboxId): Promise<void>;
  /** Stops, then removes every container and every trace. */
  removeSandbox(id: SandboxId): Promise<void>;
  sandboxStatus(id: SandboxId): SandboxStatus;
  listSandboxes(owner: Owner, id?: SandboxId): SandboxStatus[];

  /** Writes the record and the OCI bundle; starts nothing. */
  createContainer(sandboxId: SandboxId, config: ContainerConfig, signal?: AbortSignal): Promise<ContainerId>;
  /**
   * @throws RuntimeError `not-found` COMMAND_NOT_FOUND, `permission-denied` COMMAND_NOT_EXECUTABLE,
   *   `failed-precondition` CONTAINER_NOT_CREATED: it has been started before
   */
  startContainer(id: ContainerId): Promise<void>;
  /** @param graceMs between the stop signal and SIGKILL of the whole cgroup; the monitor keeps the deadline */
  stopContainer(id: ContainerId, graceMs: number): Promise<void>;
  removeContainer(id: ContainerId): Promise<void>;
  containerStatus(id: ContainerId): ContainerStatus;
  listContainers(owner: Owner, sandboxId?: SandboxId): ContainerStatus[];
  /** New limits in place; what is `undefined` stays as it is. Of a container that has ended: CONTAINER_NOT_RUNNING. */
  updateContainerResources(id: ContainerId, changes: ContainerResources): Promise<void>;
  /** The limits of the pod's cgroup, which is the caller's: @param sum of all its containers */
  updateSandboxResources(id: SandboxId, overhead: ContainerResources, sum: ContainerResources): Promise<void>;
  containerUsage(id: ContainerId): Promise<ContainerUsage>;
  sandboxUsage(id: SandboxId): Promise<SandboxUsage>;
  /** Everything that is counted; dearer than `containerUsage`. */
  containerFigures(id: ContainerId): Promise<ContainerFigures>;
  sandboxFigures(id: SandboxId): Promise<SandboxFigures>;

  /**
   * @param timeoutMs 0: none
   * @param signal when it aborts, the process is killed with everything it started
   * @throws RuntimeError `deadline-exceeded` EXEC_TIMEOUT; everything it started is dead then
   */
  execSync(
    id: ContainerId,
    command: readonly string[],
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<ExecSyncResult>;
  exec(id: ContainerId, request: ExecRequest): Promise<ExecSession>;
  attach(id: ContainerId): Promise<ExecSession>;
  reopenContainerLog(id: ContainerId): Promise<void>;
  /** A connection to the pod's localhost, IPv4 then IPv6. */
  dialPort(id: SandboxId, port: number): Promise<Duplex>;

  /** Calls back for every event from now on, in order. Returns how to stop it. */
  subscribe(listener: (event: RuntimeEvent) => void): () => void;
}
