/**
 * One pod's loop: look at the runtime, ask actions.ts what to do, start doing it, look again.
 *
 * Only this class changes a pod's record. A reconcile is synchronous; what takes time runs beside
 * it, under a key in `#busy`, and kicks the loop when it ends, so two things never happen to one
 * container at once and a slow pull holds up nobody else. The runtime's records are the truth for
 * containers that exist; the pod's record for everything that outlives them.
 */
import { nowNs } from "../base/clock.js";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { PodUid, SandboxId } from "../base/ids.js";
import { Timeline } from "../base/timeline.js";
import { type Action, isAlive, nextActions, type SandboxView } from "./actions.js";
import type { StartOutcome } from "./container-starter.js";
import { ContainerStopper } from "./container-stopper.js";
import { type Failure, failedStart } from "./failed-start.js";
import type { Container } from "./manifest/defaults.js";
import { adoptFromRuntime, observeContainers, type ObservedEvent } from "./observe.js";
import { Prober } from "./prober.js";
import type { FailedStart, PodRecord } from "./record.js";
import { RecordWriter } from "./record-writer.js";
import { ExitMessages } from "./exit-messages.js";
import type { WorkerContext } from "./worker-context.js";
import { PodPreparation } from "./pod-preparation.js";
import { PodRemoval } from "./pod-removal.js";
import { makePodSandbox } from "./pod-sandbox.js";
import { PodVolumes } from "./pod-volumes.js";
import { UnderWay } from "./under-way.js";

const MAX_TIMER_MS = 2_147_483_647;
/** The first start is what people ask about; of later restarts only the newest steps are kept. */
const MAX_SPANS = 256;
const FIRST_SPANS_KEPT = 128;
/** How long work that failed waits before it is tried again. */
const RETRY_MS = 2_000;
/** How long a close waits for what heeds no abort. */
const MAKING_ENDS_MS = 2_000;

export class PodWorker {
  readonly record: PodRecord;
  /** Steps of the pod's way up, for `describe`. */
  readonly timeline = new Timeline();
  readonly #context: WorkerContext;
  readonly #busy = new Set<string>();
  readonly #underWay = new UnderWay();
  readonly #writer: RecordWriter;
  readonly #stopper: ContainerStopper;
  readonly #prober: Prober;
  readonly #messages: ExitMessages;
  readonly #podVolumes: PodVolumes;
  readonly #removal: PodRemoval;
  readonly #preparation: PodPreparation;
  #abort = new AbortController();
  #volumes: ReadonlyMap<string, string> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #kicked = false;
  #isClosed = false;

  constructor(context: WorkerContext, record: PodRecord) {
    this.#context = context;
    // A copy: what a store hands out is its own.
    this.record = structuredClone(record);
    const { runtime, log } = context;
    const shared = {
      runtime,
      podIp: () => this.#podIp(),
      event: (event: ObservedEvent) => context.events.record(this.#reference, event),
    };
    this.#writer = new RecordWriter(this.record, context.store, log);
    this.#messages = new ExitMessages(this.record, context.paths, () => this.#touch(), log);
    this.#podVolumes = new PodVolumes(this.record, context);
    this.#removal = new PodRemoval(context, this.record, this.#podVolumes, this.#writer);
    this.#preparation = new PodPreparation(context, {
      uid: record.uid,
      makeSandbox: () => this.#runSandbox(),
      stop: () => this.#stopWork(new RuntimeError("the pod was refused", { kind: "cancelled", code: "CANCELLED" })),
      remove: () => this.#writer.close().then(() => this.#removal.removeParts()),
    });
    this.#stopper = new ContainerStopper({ ...shared, kick: () => this.kick(), log });
    this.#prober = new Prober({
      ...shared,
      record: this.record,
      changed: () => {
        this.#touch();
        this.kick();
      },
      kill: (name, graceSeconds) =>
        this.#stop(name, (graceSeconds ?? this.record.pod.spec.terminationGracePeriodSeconds) * 1000),
    });
  }

  get uid(): PodUid {
    return this.record.uid;
  }

  get #reference() {
    return { namespace: this.record.pod.metadata.namespace, name: this.record.pod.metadata.name, uid: this.record.uid };
  }

  /** Takes over what the runtime holds for this pod; before the first kick after a daemon start. */
  async adopt(): Promise<void> {
    await adoptFromRuntime(this.record, this.#context.runtime);
    this.#writer.note();
  }

  /** Makes the sandbox of a pod that is not recorded yet; `accept` or `refuse` follows. */
  prepare(): void {
    this.#spawn("@sandbox", () => this.#underWay.add(this.#preparation.begin()));
  }

  /** True from `prepare` to `accept`: nobody is told of its changes. */
  get isPrepared(): boolean {
    return this.#preparation.isUnderWay;
  }

  /** The pod is recorded: it goes on. */
  accept(): void {
    this.#preparation.accept();
    this.kick();
  }

  /** The pod could not be recorded: takes back what was prepared. */
  refuse(): Promise<void> {
    return this.#preparation.refuse();
  }

  /** Looks at the pod again soon. Any number of calls before that are one. */
  kick(): void {
    if (this.#kicked || this.#isClosed || this.isPrepared) return;
    this.#kicked = true;
    setImmediate(() => {
      this.#kicked = false;
      if (!this.#isClosed) this.#reconcile();
    });
  }

  /** Begins the deletion, or shortens the grace period of one under way. */
  async delete(graceSeconds: number): Promise<void> {
    const requestedAtNs = String(nowNs());
    const { deletion } = this.record;
    if (
      deletion &&
      BigInt(deletion.requestedAtNs) + BigInt(deletion.graceSeconds) * 1_000_000_000n <=
        BigInt(requestedAtNs) + BigInt(graceSeconds) * 1_000_000_000n
    )
      return;
    this.record.deletion = { requestedAtNs, graceSeconds };
    this.#context.events.record(this.#reference, { type: "Normal", reason: "Killing", message: "Stopping the pod" });
    this.#abort.abort(new RuntimeError("the pod is being deleted", { kind: "cancelled", code: "CANCELLED" }));
    this.#touch();
    try {
      await this.#writer.flush();
    } catch (err) {
      // What is deleted gives space back; the record is written, or gone, as soon as there is some.
      if (toRuntimeError(err).code !== "NO_SPACE") throw err;
    } finally {
      this.kick();
    }
  }

  /** Stops looking; containers go on. Waits for what is being made, which the abort ends soon, and written. */
  async close(): Promise<void> {
    this.#stopWork(new RuntimeError("the daemon is stopping", { kind: "cancelled", code: "CANCELLED" }));
    await this.#underWay.ended(MAKING_ENDS_MS);
    await this.#writer.flush().catch(() => undefined);
  }

  #stopWork(reason: RuntimeError): void {
    this.#isClosed = true;
    this.#prober.close();
    clearTimeout(this.#timer);
    this.#abort.abort(reason);
  }

  #reconcile(): void {
    clearTimeout(this.#timer);
    const atNs = nowNs();
    if (
      observeContainers(this.record, this.#context.runtime, this.#busy, (event) =>
        this.#context.events.record(this.#reference, event),
      )
    )
      this.#touch();
    this.#messages.readNew();
    this.#prober.sync();
    const actions = nextActions({
      record: this.record,
      sandbox: this.#sandboxView(),
      busy: this.#busy,
      nowNs: atNs,
      limits: this.#context.limits,
    });
    let wakeAtNs: bigint | undefined;
    for (const action of actions) {
      if (action.type === "wait") {
        if (wakeAtNs === undefined || action.untilNs < wakeAtNs) wakeAtNs = action.untilNs;
      } else {
        this.#act(action, atNs);
      }
    }
    if (wakeAtNs !== undefined) {
      const delayMs = Number((wakeAtNs - nowNs()) / 1_000_000n) + 1;
      this.#timer = setTimeout(() => this.kick(), Math.min(Math.max(delayMs, 1), MAX_TIMER_MS));
      // A pod's timer alone must not keep a process alive that has closed its engine.
      this.#timer.unref();
    }
  }

  #sandboxView(): SandboxView {
    const { sandbox } = this.record;
    if (!sandbox) return "none";
    try {
      const { state } = this.#context.runtime.sandboxStatus(sandbox.id);
      return state === "ready" || state === "stopping" ? state : "stopped";
    } catch {
      return "stopped";
    }
  }

  #act(action: Exclude<Action, { type: "wait" }>, atNs: bigint): void {
    switch (action.type) {
      case "run-sandbox":
        return this.#spawn("@sandbox", () => this.#underWay.add(this.#runSandbox()));
      case "start":
        return this.#spawn(action.container.name, () => this.#underWay.add(this.#start(action.container)));
      case "initialized":
        this.record.isInitialized = true;
        this.#touch();
        return this.kick();
      case "end": {
        const { type: _, ...end } = action;
        this.record.end = { ...end, atNs: String(atNs) };
        if (end.reason)
          this.#context.events.record(this.#reference, {
            type: "Warning",
            reason: end.reason,
            message: end.message ?? end.phase,
          });
        this.#touch();
        return this.kick();
      }
      case "stop":
        return this.#stop(action.name, action.graceMs);
      case "stop-sandbox":
        return this.#spawn("@sandbox", async () =>
          this.#context.runtime.stopSandbox((this.record.sandbox as { id: SandboxId }).id),
        );
      case "remove":
        if (!this.#removal.isDue(atNs)) return;
        return this.#spawn("@remove", () => this.#remove());
    }
  }

  /** Runs work under a key; the loop looks again when it ends. Work reports its own failures. */
  #spawn(key: string, work: () => Promise<void>): void {
    if (this.#busy.has(key)) return;
    this.#busy.add(key);
    const end = () => {
      this.#busy.delete(key);
      this.#context.changed(this);
      this.kick();
    };
    work().then(end, (err: unknown) => {
      const { kind, code, message } = toRuntimeError(err);
      this.#context.log.error({ podUid: this.uid, step: key, kind, code, message }, "a step of a pod failed");
      setTimeout(end, RETRY_MS).unref();
    });
  }

  async #runSandbox(): Promise<void> {
    const made = await makePodSandbox({
      ...this.#context,
      record: this.record,
      volumes: this.#podVolumes,
      timeline: this.timeline,
      signal: this.#abort.signal,
      flush: () => this.#writer.flush(),
    });
    if (!made.failure) {
      this.#volumes = made.volumes;
      this.record.sandbox = made.sandbox;
      this.record.sandboxFailure = undefined;
      this.record.startedAtNs ??= String(nowNs());
      // Init containers run again in every new sandbox (Kubernetes, "Init Containers", pod restart reasons).
      this.record.isInitialized = false;
    } else {
      if (this.#abort.signal.aborted) return;
      this.record.sandboxFailure = this.#failed({ ...made.failure, before: this.record.sandboxFailure });
    }
    this.#touch();
  }

  /** An object that the pod's volumes are made from has changed: brings them up to date, all at one instant each. */
  refreshVolumes(): void {
    // What waits for the object need not wait on.
    if (this.record.sandboxFailure?.reason === "FailedMount")
      this.record.sandboxFailure = { ...this.record.sandboxFailure, retryAtNs: "0" };
    this.kick();
    if (!this.record.sandbox || this.#isClosed || this.record.deletion) return;
    this.#underWay.add(this.#podVolumes.prepare()).catch((err: unknown) => {
      const { message } = toRuntimeError(err);
      this.#context.events.record(this.#reference, { type: "Warning", reason: "FailedMount", message });
    });
  }

  async #start(container: Container): Promise<void> {
    const progress = this.record.containers[container.name];
    const { sandbox } = this.record;
    if (!progress || !sandbox) return;
    let outcome: StartOutcome;
    try {
      this.#volumes ??= await this.#podVolumes.prepare();
      outcome = await this.#context.starter.start({
        record: this.record,
        container,
        volumes: this.#volumes,
        timeline: this.timeline,
        signal: this.#abort.signal,
        flush: () => this.#writer.flush(),
        changed: () => this.#touch(),
        event: (event) => this.#context.events.record(this.#reference, event),
      });
    } catch (err) {
      outcome = { failure: { reason: "CreateContainerError", error: toRuntimeError(err) } };
    }
    if (outcome.failure && !this.#abort.signal.aborted) {
      const { reason, error } = outcome.failure;
      progress.failedStart = this.#failed({
        reason,
        err: error,
        before: progress.failedStart,
        container: container.name,
      });
    } else {
      progress.failedStart = undefined;
    }
    const tooMany = this.timeline.spans.length - MAX_SPANS;
    if (tooMany > 0) this.timeline.spans.splice(FIRST_SPANS_KEPT, tooMany);
    this.#touch();
  }

  #failed(failure: Failure): FailedStart {
    const { failed, event } = failedStart(failure, this.#context.limits);
    this.#context.events.record(this.#reference, event);
    return failed;
  }

  #stop(name: string, graceMs: number): void {
    const container = this.#containers().find((one) => one.name === name);
    const id = this.record.containers[name]?.containerId;
    if (container && id) this.#stopper.stop(container, id, graceMs);
  }

  #containers(): Container[] {
    const { spec } = this.record.pod;
    return [...(spec.initContainers ?? []), ...spec.containers];
  }

  #podIp(): string {
    const { record } = this;
    const ips = record.pod.spec.hostNetwork ? this.#context.hostIps() : record.sandbox?.ips;
    return ips?.[0] ?? "127.0.0.1";
  }

  async #remove(): Promise<void> {
    const retryInMs = await this.#removal.remove(() => (this.#isClosed = true));
    if (retryInMs !== undefined) {
      this.#isClosed = false;
      setTimeout(() => this.kick(), retryInMs + 1).unref();
      return;
    }
    this.#prober.close();
    this.#context.events.forget(this.uid);
    this.#context.gone(this);
  }

  /** The record has changed: tell watchers, and write it when there is time. */
  #touch(): void {
    this.#context.changed(this);
    this.#writer.touch();
  }

  /** The id and attempts of a container that exists, by name; for logs and streams. */
  isRunning(name: string): boolean {
    const progress = this.record.containers[name];
    return isAlive(progress) && progress?.startedAtNs !== undefined;
  }

  get isSandboxReady(): boolean {
    return this.#sandboxView() === "ready";
  }
}
