/**
 * The daemon's side of one monitor: requests and their answers, events, and streams.
 *
 * Knows the protocol, nothing of records or verbs. Created by src/runtime for each sandbox, from
 * the socketpair of a monitor just started or by the path of one that is being adopted. When the
 * connection ends, `onClose` is called once and every request under way is refused; the monitor
 * and its containers may well live on.
 */
import { EventEmitter } from "node:events";
import type { Socket } from "node:net";
import type { ContainerId, ExecId } from "../base/ids.js";
import type { Fd } from "../native/fd.js";
import type { ExitRecord } from "../state/container.js";
import { connectSocket, type Greeted, greet, socketFromFd } from "./connect.js";
import { encodeJson } from "./frames.js";
import { MonitorRequestError, monitorUnreachable } from "./monitor-error.js";
import { type MonitorStream, openMonitorStream } from "./monitor-stream.js";
import type {
  CaptureResult,
  ExecParams,
  ListedContainer,
  MonitorEvent,
  MonitorFailure,
  MonitorHello,
  StartParams,
  StartResult,
  StreamTarget,
} from "./protocol.js";

export type { MonitorStream } from "./monitor-stream.js";
export type { CaptureResult, ExecParams, ListedContainer, StartParams, StartResult, StreamTarget } from "./protocol.js";

interface ClientEvents {
  readonly exit: [ExitRecord, boolean];
  readonly execExit: [ExecId, number, number];
  readonly oom: [ContainerId];
  readonly close: [Error | undefined];
}

interface Pending {
  readonly resolve: (result: unknown) => void;
  readonly reject: (err: Error) => void;
}

export class MonitorClient {
  readonly hello: MonitorHello;
  readonly #socket: Socket;
  readonly #greeted: Greeted;
  readonly #pending = new Map<number, Pending>();
  readonly #events = new EventEmitter<ClientEvents>();
  #nextId = 1;
  #isClosed = false;
  #isEnding = false;

  private constructor(greeted: Greeted) {
    this.hello = greeted.hello;
    this.#greeted = greeted;
    this.#socket = greeted.socket;
    this.#socket.on("data", (chunk: Buffer) => {
      greeted.reader.push(chunk);
      this.#takeFrames();
    });
    this.#socket.on("error", (err) => this.#end(monitorUnreachable("the connection broke", err)));
    this.#socket.on("close", () =>
      this.#end(this.#isEnding ? undefined : monitorUnreachable("it closed the connection")),
    );
    // What came with the hello is handled after the caller has had a turn to set its listeners.
    setImmediate(() => {
      this.#takeFrames();
      this.#socket.resume();
    });
  }

  /**
   * Talks over our end of the monitor's socketpair. Takes the descriptor, also on failure.
   *
   * @throws RuntimeError `unavailable` MONITOR_UNREACHABLE, `unimplemented` MONITOR_PROTOCOL
   */
  static async fromFd(control: Fd): Promise<MonitorClient> {
    return new MonitorClient(await greet(socketFromFd(control.take())));
  }

  /**
   * Talks to a monitor that listens at a path, of any length.
   *
   * @throws RuntimeError `unavailable` MONITOR_UNREACHABLE: nobody listens there; `unimplemented` MONITOR_PROTOCOL
   */
  static async connect(socketPath: string): Promise<MonitorClient> {
    return new MonitorClient(await greet(await connectSocket(socketPath)));
  }

  /**
   * A container has ended; its exit file is written, its log complete, and its cgroup may be gone already.
   * Events come in the order in which things happened.
   */
  onExit(listener: (exit: ExitRecord, isCgroupGone: boolean) => void): void {
    this.#events.on("exit", listener);
  }

  /** A stream exec's process has ended. */
  onExecExit(listener: (execId: ExecId, exitCode: number, signal: number) => void): void {
    this.#events.on("execExit", listener);
  }

  /** The kernel has killed a process of the container for memory. */
  onOom(listener: (containerId: ContainerId) => void): void {
    this.#events.on("oom", listener);
  }

  /** The connection has ended. `undefined`: `close` was called, or the monitor was shut down. */
  onClose(listener: (reason: Error | undefined) => void): void {
    this.#events.on("close", listener);
  }

  /** @throws RuntimeError `internal` CONTAINER_START_FAILED, with the `step`: `invalid-argument` where the spec is refused; others by errno */
  start(params: StartParams): Promise<StartResult> {
    return this.#request("start", params) as Promise<StartResult>;
  }

  /**
   * A further process in a running container. Its background processes are not waited for.
   *
   * @throws RuntimeError `failed-precondition` CONTAINER_NOT_RUNNING, `internal` EXEC_FAILED, with the `step`
   */
  exec(params: ExecParams & { readonly mode: "capture" }): Promise<CaptureResult>;
  exec(params: ExecParams & { readonly mode: "stream" }): Promise<StartResult>;
  async exec(params: ExecParams): Promise<CaptureResult | StartResult> {
    const answer = await this.#request("exec", params);
    if (params.mode === "stream") return answer as StartResult;
    const result = answer as Omit<CaptureResult, "stdout" | "stderr"> & { stdout: string; stderr: string };
    return { ...result, stdout: Buffer.from(result.stdout, "base64"), stderr: Buffer.from(result.stderr, "base64") };
  }

  /** To the container's first process. @throws RuntimeError `failed-precondition` CONTAINER_NOT_RUNNING */
  async signal(params: { readonly containerId: ContainerId; readonly signal: number }): Promise<void> {
    await this.#request("signal", params);
  }

  /**
   * Sends `signal` and returns; after `graceMs` the monitor kills the whole cgroup, also when this
   * connection is gone by then. A second call can only bring that forward. One that has ended succeeds.
   */
  async stop(params: {
    readonly containerId: ContainerId;
    readonly signal: number;
    readonly graceMs: number;
  }): Promise<void> {
    await this.#request("stop", params);
  }

  /** Kills every process of the container. One that has ended succeeds. */
  async kill(params: { readonly containerId: ContainerId }): Promise<void> {
    await this.#request("kill", params);
  }

  /** Kills every process of an exec: a captured one is answered then. One that has ended succeeds. */
  async killExec(params: { readonly execId: ExecId }): Promise<void> {
    await this.#request("killExec", params);
  }

  /**
   * Starts `minke-init` in a new PID namespace and in `cgroup` (absolute): `/proc/<pid>/ns/pid` is the
   * namespace's path. It ends with the monitor's shutdown, or with its cgroup.
   *
   * @throws RuntimeError `already-exists` INIT_EXISTS, `internal` INIT_FAILED
   */
  startInit(params: { readonly cgroup: string }): Promise<{ readonly pid: number }> {
    return this.#request("startInit", params) as Promise<{ pid: number }>;
  }

  list(): Promise<{ readonly containers: readonly ListedContainer[]; readonly initPid?: number }> {
    return this.#request("list", {}) as Promise<{ containers: ListedContainer[]; initPid?: number }>;
  }

  /** @throws RuntimeError `failed-precondition` NO_TERMINAL */
  async resize(params: StreamTarget & { readonly columns: number; readonly rows: number }): Promise<void> {
    await this.#request("resize", params);
  }

  /** Opens the log's path again, after somebody moved the file away. */
  async reopenLog(params: { readonly containerId: ContainerId }): Promise<void> {
    await this.#request("reopenLog", params);
  }

  /** Drops a container that has ended. @throws RuntimeError `failed-precondition` CONTAINER_RUNNING */
  async forget(params: { readonly containerId: ContainerId }): Promise<void> {
    await this.#request("forget", params);
  }

  /** Ends the monitor. @throws RuntimeError `failed-precondition` CONTAINER_RUNNING: one has not ended */
  async shutdown(): Promise<void> {
    this.#isEnding = true;
    try {
      await this.#request("shutdown", {});
    } catch (err) {
      this.#isEnding = false;
      throw err;
    }
    this.#socket.end();
  }

  /**
   * The streams of a container (attach) or of an exec, over a connection of their own.
   *
   * @throws RuntimeError `not-found` CONTAINER_NOT_FOUND or EXEC_NOT_FOUND, `failed-precondition` EXEC_NOT_ATTACHABLE
   */
  async openStream(target: StreamTarget): Promise<MonitorStream> {
    return openMonitorStream(await greet(await connectSocket(this.hello.socketPath), target));
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Ends the connection; nothing else changes. */
  close(): void {
    this.#isEnding = true;
    this.#socket.destroy();
  }

  #request(method: string, params: object): Promise<unknown> {
    if (this.#isClosed) return Promise.reject(monitorUnreachable("the connection has ended"));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#socket.write(encodeJson({ id, method, params }));
    });
  }

  #takeFrames(): void {
    try {
      for (let frame = this.#greeted.reader.next(); frame; frame = this.#greeted.reader.next()) {
        this.#takeFrame(JSON.parse(frame.toString("utf8")) as object);
      }
    } catch (err) {
      this.#end(monitorUnreachable("it sent what is no frame", err));
    }
  }

  #takeFrame(frame: { id?: number; result?: unknown; error?: MonitorFailure; event?: string }): void {
    if (frame.event !== undefined) {
      this.#emit(frame as MonitorEvent);
    } else if (frame.id === undefined) {
      this.#end(frame.error ? new MonitorRequestError(frame.error) : monitorUnreachable("it sent a frame of no kind"));
    } else {
      const pending = this.#pending.get(frame.id);
      this.#pending.delete(frame.id);
      if (frame.error) pending?.reject(new MonitorRequestError(frame.error));
      else pending?.resolve(frame.result);
    }
  }

  #emit(event: MonitorEvent): void {
    if (event.event === "exit") this.#events.emit("exit", event.exit, event.cgroupRemoved === true);
    else if (event.event === "execExit") this.#events.emit("execExit", event.execId, event.exitCode, event.signal);
    else if (event.event === "oom") this.#events.emit("oom", event.containerId);
  }

  #end(reason: Error | undefined): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#socket.destroy();
    const refusal = reason ?? monitorUnreachable("the connection was closed");
    for (const pending of this.#pending.values()) pending.reject(refusal);
    this.#pending.clear();
    this.#events.emit("close", reason);
  }
}
