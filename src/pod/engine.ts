/**
 * All pods of one daemon: what is desired is a durable record each, and a worker brings it about.
 *
 * This is the pod side's only door: the API server calls it, nothing else. At open it takes over
 * what an earlier daemon left (no init container runs again, exits that happened meanwhile are
 * seen) and removes sandboxes and volumes of pods that nobody desires any more.
 */
import { randomUUID } from "node:crypto";
import { nowNs } from "../base/clock.js";
import { RuntimeError } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import type { PodUid, SandboxId } from "../base/ids.js";
import type { Logger } from "../base/log.js";
import type { Span } from "../base/timeline.js";
import type { Runtime } from "../runtime/runtime.js";
import type { Paths } from "../settings/paths.js";
import type { RecordStore } from "../state/store.js";
import { type TmpfsMounts, Volumes } from "../volume/volumes.js";
import type { ConfigObjects, ConfigSource } from "./config-objects.js";
import { ContainerStarter } from "./container-starter.js";
import { type EventJson, PodEvents } from "./events.js";
import { readHostDns } from "./host-dns.js";
import { hostIps } from "./host-ips.js";
import { checkHostPorts } from "./host-port-clash.js";
import { type HistoryRecord, PodHistory } from "./history.js";
import type { Images } from "./images.js";
import type { Pod } from "./manifest/defaults.js";
import type { FieldProblem } from "./manifest/problems.js";
import { openLog, type PodLogOptions, readySandbox, type RunningContainer, runningContainer } from "./pod-access.js";
import { removeUnknown } from "./left-overs.js";
import { type PodChange, PodFeed } from "./pod-feed.js";
import { PodWorker } from "./pod-worker.js";
import type { WorkerContext } from "./worker-context.js";
import { newPodRecord, type PodRecord } from "./record.js";
import type { PodJson } from "./status.js";
import { refersTo } from "./volume-files.js";

export interface PodSettings {
  /** Delay before the second restart of a container, doubled for each further one. */
  readonly restartBackoffBaseMs: number;
  readonly restartBackoffMaxMs: number;
  /** A container's log is rotated when it is larger. */
  readonly logMaxBytes: number;
  /** Rotated files kept beside the one that is written. */
  readonly logMaxFiles: number;
}

/** As a kubelet: 10 s to 300 s; logs of 10 MiB, five of them. */
export const DEFAULT_POD_SETTINGS: PodSettings = {
  restartBackoffBaseMs: 10_000,
  restartBackoffMaxMs: 300_000,
  logMaxBytes: 10 * 1024 * 1024,
  logMaxFiles: 4,
};

export interface PodEngineOptions {
  readonly runtime: Runtime;
  readonly images: Images;
  readonly store: RecordStore<PodRecord>;
  readonly history: RecordStore<HistoryRecord>;
  readonly paths: Paths;
  readonly configMaps: ConfigObjects;
  readonly secrets: ConfigObjects;
  readonly mounts: TmpfsMounts;
  readonly settings?: Partial<PodSettings> | undefined;
  readonly log: Logger;
}

export class PodEngine {
  readonly #runtime: Runtime;
  readonly #store: RecordStore<PodRecord>;
  readonly #paths: Paths;
  readonly #context: WorkerContext;
  readonly #configs: { readonly configMaps: ConfigObjects; readonly secrets: ConfigObjects };
  readonly #volumes: Volumes;
  readonly #log: Logger;
  readonly #events = new PodEvents();
  readonly #history: PodHistory;
  readonly #workers = new Map<PodUid, PodWorker>();
  readonly #uids = new Map<string, PodUid>();
  readonly #feed: PodFeed;
  readonly #goneWaiters = new Map<PodUid, (() => void)[]>();
  readonly #unsubscribe: () => void;

  private constructor(options: PodEngineOptions) {
    const settings = { ...DEFAULT_POD_SETTINGS, ...options.settings };
    const limits = { baseMs: settings.restartBackoffBaseMs, maxMs: settings.restartBackoffMaxMs };
    const { runtime, images, paths } = options;
    this.#feed = new PodFeed(limits);
    this.#runtime = runtime;
    this.#store = options.store;
    this.#paths = paths;
    this.#log = options.log;
    this.#volumes = new Volumes(paths, options.mounts);
    const { logMaxBytes, logMaxFiles } = settings;
    const { configMaps, secrets } = options;
    this.#configs = { configMaps, secrets };
    const configs: ConfigSource = {
      content: (kind, namespace, name, part) =>
        (kind === "Secret" ? secrets : configMaps).content(namespace, name, part),
    };
    for (const objects of [configMaps, secrets]) {
      objects.onChange((kind, namespace, name) => {
        for (const worker of this.#workers.values()) {
          const { pod } = worker.record;
          if (pod.metadata.namespace === namespace && refersTo(pod, kind, name)) worker.refreshVolumes();
        }
      });
    }
    this.#history = new PodHistory(options.history, (uid) => this.#historyOf(uid), options.log);
    this.#events.onChange = (uid) => this.#history.touch(uid);
    this.#context = {
      runtime,
      starter: new ContainerStarter({ runtime, images, paths, limits, logMaxBytes, logMaxFiles, hostIps, configs }),
      configs,
      volumes: this.#volumes,
      store: options.store,
      paths,
      limits,
      events: this.#events,
      history: this.#history,
      log: options.log,
      hostDns: readHostDns,
      hostIps,
      changed: (worker) => this.#noteChange(worker),
      gone: (worker) => this.#forget(worker),
    };
    this.#unsubscribe = runtime.subscribe((event) => {
      if (event.owner !== "pod") return;
      for (const worker of this.#workers.values()) {
        if (worker.record.sandbox?.id !== event.sandboxId) continue;
        worker.kick();
        if (event.type.startsWith("sandbox-")) this.#noteChange(worker);
      }
    });
  }

  /** Takes over what is there, then starts every worker. */
  static async open(options: PodEngineOptions): Promise<PodEngine> {
    const engine = new PodEngine(options);
    const workers: PodWorker[] = [];
    for (const { body } of options.store.list()) {
      const worker = engine.#addWorker(body);
      const { events, spans } = engine.#history.load(worker.uid);
      engine.#events.restore(worker.uid, events);
      worker.timeline.spans.push(...spans);
      workers.push(worker);
    }
    await engine.#history.keepOnly(new Set(workers.map(({ uid }) => uid)));
    await Promise.all(workers.map((worker) => worker.adopt()));
    await removeUnknown(new Set(engine.#workers.keys()), engine.#runtime, engine.#volumes, options.paths, options.log);
    for (const worker of workers) worker.kick();
    return engine;
  }

  /**
   * Accepts a pod: from here on it is desired, over a power cut too.
   *
   * @param warnings fields without effect, shown again by `describe`
   * @throws RuntimeError `already-exists` POD_EXISTS, `failed-precondition` HOST_PORT_IN_USE
   */
  async run(pod: Pod, warnings: readonly FieldProblem[]): Promise<PodJson> {
    const name = pod.metadata.name || `${pod.metadata.generateName ?? ""}${randomUUID().slice(0, 5)}`;
    const named: Pod = { ...pod, metadata: { ...pod.metadata, name } };
    const key = podKey(named.metadata.namespace, name);
    const existing = this.#uids.get(key);
    if (existing !== undefined) {
      const isGoing = this.#workers.get(existing)?.record.deletion !== undefined;
      throw new RuntimeError(
        `pod "${name}" in namespace "${named.metadata.namespace}" ${isGoing ? "is still being deleted" : "exists already"}`,
        { kind: "already-exists", code: "POD_EXISTS" },
      );
    }
    const uid = (named.metadata.uid ?? randomUUID()) as PodUid;
    if (this.#workers.has(uid))
      throw new RuntimeError(`a pod with uid "${uid}" exists already`, { kind: "already-exists", code: "POD_EXISTS" });
    checkHostPorts(
      named,
      [...this.#workers.values()].map(({ record }) => record),
    );
    const record = newPodRecord({ uid, pod: named, warnings, createdAtNs: nowNs() });
    const worker = this.#addWorker(record);
    try {
      failpoint("record pod");
      const recorded = this.#store.put(uid, record);
      // A disk takes milliseconds to confirm a write, in which the sandbox can be made.
      worker.prepare();
      await recorded;
      failpoint("after record pod");
    } catch (err) {
      await worker.refuse();
      this.#forget(worker);
      // It may be in place although it was not confirmed; a pod that was refused must not come back.
      await this.#store.remove(uid).catch((undo: unknown) => {
        this.#log.error({ podUid: uid, err: String(undo) }, "the record of a refused pod could not be removed");
      });
      throw err;
    }
    for (const warning of warnings) {
      this.#events.record(
        { namespace: named.metadata.namespace, name, uid },
        { type: "Warning", reason: "FieldIgnored", message: `${warning.path}: ${warning.message}` },
      );
    }
    const shown = this.#feed.add(worker);
    worker.accept();
    return shown;
  }

  /**
   * Begins to delete a pod and returns it as it is then; `waitGone` tells when it is over.
   *
   * @param graceSeconds `undefined`: the pod's own
   * @param uid only this one; another pod of that name is POD_NOT_FOUND
   * @throws RuntimeError `not-found` POD_NOT_FOUND
   */
  async delete(
    namespace: string,
    name: string,
    options: { graceSeconds?: number | undefined; uid?: string | undefined } = {},
  ): Promise<PodJson> {
    const worker = this.#worker(namespace, name);
    if (options.uid !== undefined && options.uid !== worker.uid) throw notFound(namespace, name);
    await worker.delete(options.graceSeconds ?? worker.record.pod.spec.terminationGracePeriodSeconds);
    return this.#feed.show(worker);
  }

  /** Resolves when nothing is left of the pod; at once where there is none. */
  waitGone(uid: string): Promise<void> {
    if (!this.#workers.has(uid as PodUid)) return Promise.resolve();
    return new Promise((resolve) => {
      const waiters = this.#goneWaiters.get(uid as PodUid) ?? [];
      waiters.push(resolve);
      this.#goneWaiters.set(uid as PodUid, waiters);
    });
  }

  /** Deletes every pod and waits until all are gone: `minke daemon stop --pods`. */
  async deleteAll(graceSeconds?: number): Promise<void> {
    const uids = [...this.#workers.values()].map((worker) => {
      void worker.delete(graceSeconds ?? worker.record.pod.spec.terminationGracePeriodSeconds).catch(() => undefined);
      return worker.uid;
    });
    await Promise.all(uids.map((uid) => this.waitGone(uid)));
  }

  /** @throws RuntimeError `not-found` POD_NOT_FOUND */
  get(namespace: string, name: string): PodJson {
    return this.#feed.show(this.#worker(namespace, name));
  }

  /** @param namespace `undefined`: all */
  list(namespace?: string): PodJson[] {
    const pods = [...this.#workers.values()].filter(
      ({ record }) => namespace === undefined || record.pod.metadata.namespace === namespace,
    );
    return pods
      .map((worker) => this.#feed.show(worker))
      .sort((a, b) =>
        podKey(a.metadata.namespace, a.metadata.name) < podKey(b.metadata.namespace, b.metadata.name) ? -1 : 1,
      );
  }

  get resourceVersion(): string {
    return this.#feed.resourceVersion;
  }

  /** Calls back for every change from now on, in order. Returns how to stop it. */
  watch(listener: (change: PodChange) => void): () => void {
    return this.#feed.watch(listener);
  }

  /**
   * What a watcher missed that last saw `version`, or `undefined` where that is too long ago to know.
   */
  changesSince(version: string): PodChange[] | undefined {
    return this.#feed.changesSince(version, this.list());
  }

  /** Events of the pods of a namespace, or of all. */
  events(namespace?: string): EventJson[] {
    return this.#events.list(namespace);
  }

  /** Steps of a pod's way up, the sandbox's own among them, oldest first. */
  timeline(namespace: string, name: string): Span[] {
    return this.#timelineOf(this.#worker(namespace, name));
  }

  #historyOf(uid: PodUid) {
    const worker = this.#workers.get(uid);
    return worker && { events: this.#events.of(uid), spans: this.#timelineOf(worker) };
  }

  /** After a daemon restart the sandbox's own steps are in the pod's history alone. */
  #timelineOf(worker: PodWorker): Span[] {
    const { sandbox } = worker.record;
    let inner: readonly Span[] = [];
    try {
      if (sandbox) inner = this.#runtime.sandboxStatus(sandbox.id).spans;
    } catch {
      // The sandbox is gone; the pod's own steps remain.
    }
    return [...worker.timeline.spans, ...inner].sort((a, b) => (a.startedAtNs < b.startedAtNs ? -1 : 1));
  }

  warnings(namespace: string, name: string): readonly FieldProblem[] {
    return this.#worker(namespace, name).record.warnings;
  }

  /**
   * The log of a container of a pod.
   *
   * @param container empty: the only one
   * @throws RuntimeError `not-found` POD_NOT_FOUND, CONTAINER_NOT_FOUND, LOG_NOT_FOUND
   */
  logs(namespace: string, name: string, container: string, options: PodLogOptions): AsyncIterable<Buffer> {
    const worker = this.#worker(namespace, name);
    return openLog(worker, this.#paths, container, options, () => this.#workers.has(worker.uid));
  }

  /**
   * The running container to exec in or attach to.
   *
   * @throws RuntimeError `not-found` POD_NOT_FOUND, CONTAINER_NOT_FOUND; `failed-precondition` CONTAINER_NOT_RUNNING
   */
  runningContainer(namespace: string, name: string, container: string): RunningContainer {
    return runningContainer(this.#worker(namespace, name), container);
  }

  /** The sandbox to forward ports to. @throws RuntimeError as `runningContainer` */
  readySandbox(namespace: string, name: string): SandboxId {
    return readySandbox(this.#worker(namespace, name));
  }

  /** What pods are configured by. */
  get configs(): { readonly configMaps: ConfigObjects; readonly secrets: ConfigObjects } {
    return this.#configs;
  }

  /** The verbs, for streams of the API. */
  get runtime(): Runtime {
    return this.#runtime;
  }

  /** Lets go of every pod; they go on running. */
  async close(): Promise<void> {
    this.#unsubscribe();
    await this.#history.flush();
    await Promise.all([...this.#workers.values()].map((worker) => worker.close()));
    this.#feed.close();
  }

  #addWorker(record: PodRecord): PodWorker {
    const worker = new PodWorker(this.#context, record);
    this.#workers.set(worker.uid, worker);
    this.#uids.set(podKey(record.pod.metadata.namespace, record.pod.metadata.name), worker.uid);
    return worker;
  }

  #worker(namespace: string, name: string): PodWorker {
    const uid = this.#uids.get(podKey(namespace, name));
    const worker = uid && this.#workers.get(uid);
    if (!worker) throw notFound(namespace, name);
    return worker;
  }

  #noteChange(worker: PodWorker): void {
    if (this.#workers.get(worker.uid) !== worker || worker.isPrepared) return;
    this.#history.touch(worker.uid);
    this.#feed.note(worker);
  }

  #forget(worker: PodWorker): void {
    if (this.#workers.get(worker.uid) !== worker) return;
    const { namespace, name } = worker.record.pod.metadata;
    this.#workers.delete(worker.uid);
    this.#uids.delete(podKey(namespace, name));
    this.#feed.forget(worker);
    for (const resolve of this.#goneWaiters.get(worker.uid) ?? []) resolve();
    this.#goneWaiters.delete(worker.uid);
  }
}

const podKey = (namespace: string, name: string): string => `${namespace}/${name}`;

function notFound(namespace: string, name: string): RuntimeError {
  return new RuntimeError(`pod "${name}" not found in namespace "${namespace}"`, {
    kind: "not-found",
    code: "POD_NOT_FOUND",
  });
}
