/**
 * A Runtime in memory, for tests of who calls it: containers run until a test ends them.
 */
import { PassThrough } from "node:stream";
import { nowNs } from "../../../src/base/clock.js";
import { RuntimeError } from "../../../src/base/errors.js";
import { type ContainerId, newContainerId, newSandboxId, type SandboxId } from "../../../src/base/ids.js";
import type { ExecRequest, ExecSession, Runtime, RuntimeEvent } from "../../../src/runtime/runtime.js";
import type { ContainerConfig, ContainerStatus, ExitRecord } from "../../../src/state/container.js";
import type { SandboxConfig, SandboxStatus } from "../../../src/state/sandbox.js";
import type { RecordStore } from "../../../src/state/store.js";

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export class MemoryRuntime implements Runtime {
  readonly sandboxes = new Map<SandboxId, Mutable<SandboxStatus>>();
  readonly containers = new Map<ContainerId, Mutable<ContainerStatus>>();
  /** What was called, in order: `start web`, `stop web`. */
  readonly calls: string[] = [];
  /** Exit code by container name: such a container ends as soon as it has started. */
  readonly endsWith = new Map<string, number>();
  /** Container names whose start fails. */
  readonly startFails = new Map<string, RuntimeError>();
  sandboxFails: RuntimeError | undefined;
  /** Names of containers that do not react to the stop signal before their grace period is over. */
  readonly stubborn = new Set<string>();
  /** What the stop of a container fails with, until it is taken out. */
  readonly stopFails = new Map<string, RuntimeError>();
  readonly #listeners = new Set<(event: RuntimeEvent) => void>();

  async runSandbox(config: SandboxConfig): Promise<SandboxId> {
    this.calls.push("run sandbox");
    if (this.sandboxFails) throw this.sandboxFails;
    const id = newSandboxId();
    this.sandboxes.set(id, {
      id,
      bootId: "boot",
      config,
      state: "ready",
      createdAtNs: String(nowNs()),
      cgroupPath: "",
      network: { interface: "eth0", ips: ["10.205.0.2", "fd00:205::2"] },
      spans: [],
    });
    this.#emit({ type: "sandbox-ready", sandboxId: id, owner: "pod" });
    return id;
  }

  async stopSandbox(id: SandboxId): Promise<void> {
    const sandbox = this.sandboxes.get(id);
    if (!sandbox || sandbox.state === "stopped") return;
    this.calls.push("stop sandbox");
    for (const container of this.containers.values())
      if (container.sandboxId === id) this.end(container.config.metadata.name, 137);
    sandbox.state = "stopped";
    this.#emit({ type: "sandbox-stopped", sandboxId: id, owner: "pod" });
  }

  async removeSandbox(id: SandboxId): Promise<void> {
    if (!this.sandboxes.has(id)) return;
    await this.stopSandbox(id);
    this.calls.push("remove sandbox");
    for (const [containerId, { sandboxId }] of this.containers)
      if (sandboxId === id) this.containers.delete(containerId);
    this.sandboxes.delete(id);
  }

  sandboxStatus(id: SandboxId): SandboxStatus {
    const found = this.sandboxes.get(id);
    if (!found) throw new RuntimeError("no such sandbox", { kind: "not-found", code: "POD_NOT_FOUND" });
    return found;
  }

  listSandboxes(): SandboxStatus[] {
    return [...this.sandboxes.values()];
  }

  async createContainer(sandboxId: SandboxId, config: ContainerConfig): Promise<ContainerId> {
    this.calls.push(`create ${config.metadata.name} ${config.metadata.attempt}`);
    const id = newContainerId();
    this.containers.set(id, {
      id,
      sandboxId,
      bootId: "boot",
      config,
      imageId: "sha256:00" as ContainerStatus["imageId"],
      imageRef: config.image,
      state: "created",
      createdAtNs: String(nowNs()),
      cgroupPath: "",
      logPath: "",
      stopSignal: "SIGTERM",
    });
    return id;
  }

  async startContainer(id: ContainerId): Promise<void> {
    const container = this.containerStatus(id) as Mutable<ContainerStatus>;
    const { name } = container.config.metadata;
    this.calls.push(`start ${name}`);
    const failure = this.startFails.get(name);
    if (failure) {
      container.state = "exited";
      container.startError = { reason: "StartError", message: failure.message, exitCode: 128 };
      throw failure;
    }
    container.state = "running";
    container.startedAtNs = String(nowNs());
    const exitCode = this.endsWith.get(name);
    if (exitCode !== undefined) setImmediate(() => this.end(name, exitCode));
  }

  async stopContainer(id: ContainerId, graceMs: number): Promise<void> {
    const container = this.containers.get(id);
    if (!container || container.state !== "running") return;
    const { name } = container.config.metadata;
    this.calls.push(`stop ${name}`);
    const failure = this.stopFails.get(name);
    if (failure) throw failure;
    if (this.stubborn.has(name)) await new Promise((resolve) => setTimeout(resolve, graceMs));
    this.end(name, this.stubborn.has(name) ? 137 : 0);
  }

  async removeContainer(id: ContainerId): Promise<void> {
    const found = this.containers.get(id);
    if (found) this.calls.push(`remove ${found.config.metadata.name} ${found.config.metadata.attempt}`);
    this.containers.delete(id);
  }

  containerStatus(id: ContainerId): ContainerStatus {
    const found = this.containers.get(id);
    if (!found) throw new RuntimeError("no such container", { kind: "not-found", code: "CONTAINER_NOT_FOUND" });
    return found;
  }

  listContainers(_owner: string, sandboxId?: SandboxId): ContainerStatus[] {
    return [...this.containers.values()].filter((one) => sandboxId === undefined || one.sandboxId === sandboxId);
  }

  async updateContainerResources(): Promise<never> {
    throw new RuntimeError("not in memory", { kind: "unimplemented", code: "INTERNAL" });
  }

  async updateSandboxResources(): Promise<never> {
    throw new RuntimeError("not in memory", { kind: "unimplemented", code: "INTERNAL" });
  }

  async containerFigures(): Promise<never> {
    throw new RuntimeError("not in memory", { kind: "unimplemented", code: "INTERNAL" });
  }

  async sandboxFigures(): Promise<never> {
    throw new RuntimeError("not in memory", { kind: "unimplemented", code: "INTERNAL" });
  }

  async containerUsage(): Promise<never> {
    throw new RuntimeError("not in memory", { kind: "unimplemented", code: "INTERNAL" });
  }

  async sandboxUsage(): Promise<never> {
    throw new RuntimeError("not in memory", { kind: "unimplemented", code: "INTERNAL" });
  }

  async execSync(): Promise<never> {
    throw new RuntimeError("not in memory", { kind: "unimplemented", code: "INTERNAL" });
  }

  /** Echoes stdin, and ends with the number that the command's last word is. */
  async exec(_id: ContainerId, request: ExecRequest): Promise<ExecSession> {
    this.calls.push(`exec ${request.command.join(" ")}`);
    const stdin = new PassThrough();
    const stdout = new PassThrough();
    const stderr = new PassThrough();
    stdin.pipe(stdout);
    stderr.end("from stderr\n");
    const exitCode = Number(request.command.at(-1)) || 0;
    return {
      stdin,
      stdout,
      stderr: request.tty ? undefined : stderr,
      resize: (columns, rows) => void this.calls.push(`resize ${columns}x${rows}`),
      exited: new Promise((resolve) => stdout.once("end", () => resolve({ exitCode }))),
      close: () => void this.calls.push("close"),
    };
  }

  attach(id: ContainerId): Promise<ExecSession> {
    return this.exec(id, { command: ["attach"], tty: false, stdin: true });
  }

  async reopenContainerLog(): Promise<void> {}

  async dialPort(): Promise<PassThrough> {
    return new PassThrough();
  }

  subscribe(listener: (event: RuntimeEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Ends the running container of a name. */
  end(name: string, exitCode: number, fields: Partial<ExitRecord> = {}): void {
    for (const container of this.containers.values()) {
      if (container.config.metadata.name !== name || container.state !== "running") continue;
      const exit: ExitRecord = {
        version: 1,
        containerId: container.id,
        exitCode,
        signal: 0,
        oomKilled: false,
        startedAtNs: container.startedAtNs ?? "0",
        finishedAtNs: String(nowNs()),
        ...fields,
      };
      container.state = "exited";
      container.exit = exit;
      this.#emit({
        type: "container-exited",
        sandboxId: container.sandboxId,
        containerId: container.id,
        owner: "pod",
        exit,
      });
    }
  }

  /** The sandbox's monitor has died: everything in it is gone. */
  loseSandboxes(): void {
    for (const sandbox of this.sandboxes.values()) {
      sandbox.state = "stopped";
      for (const { sandboxId, config } of this.containers.values()) {
        if (sandboxId === sandbox.id) this.end(config.metadata.name, 255, { unknown: "the monitor died" });
      }
      this.#emit({ type: "sandbox-stopped", sandboxId: sandbox.id, owner: "pod" });
    }
  }

  #emit(event: RuntimeEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}

export class MemoryStore<T> implements RecordStore<T> {
  readonly records = new Map<string, T>();

  async put(id: string, body: T): Promise<void> {
    this.records.set(id, structuredClone(body));
  }

  get(id: string): T | undefined {
    return this.records.get(id);
  }

  list(): { id: string; body: T }[] {
    return [...this.records].map(([id, body]) => ({ id, body }));
  }

  async remove(id: string): Promise<void> {
    this.records.delete(id);
  }
}
