/**
 * One attempt to start one container of a pod: image, config, create, start, and the way back.
 *
 * Says with Kubernetes' words why an attempt failed; when to try again is the worker's matter.
 */
import { readdir, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { nowNs } from "../base/clock.js";
import { hasErrno, type RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import type { ContainerId, SandboxId } from "../base/ids.js";
import type { Timeline } from "../base/timeline.js";
import { removeTree } from "../native/index.js";
import type { Runtime } from "../runtime/runtime.js";
import type { Paths } from "../settings/paths.js";
import type { ContainerConfig, ContainerMount } from "../state/container.js";
import { type BackoffLimits, nextRestartDelay } from "./backoff.js";
import type { ConfigSource } from "./config-objects.js";
import { runAction } from "./container-action.js";
import { toContainerConfig } from "./convert.js";
import type { EnsuredImage, Images } from "./images.js";
import type { Container } from "./manifest/defaults.js";
import type { ObservedEvent } from "./observe.js";
import type { ContainerProgress, PodRecord } from "./record.js";
import { makeMessageFile } from "./termination-message.js";
import { imageVolumesOf, type OpenMounts, openMounts } from "./volume-requests.js";

export interface StartRequest {
  readonly record: PodRecord;
  readonly container: Container;
  readonly volumes: ReadonlyMap<string, string>;
  readonly timeline: Timeline;
  readonly signal: AbortSignal;
  /** Writes the pod's record; resolves when it is in place. */
  readonly flush: () => Promise<void>;
  readonly changed: () => void;
  readonly event: (event: ObservedEvent) => void;
}

export interface StartOutcome {
  readonly failure?: { readonly reason: string; readonly error: RuntimeError } | undefined;
}

export interface StarterOptions {
  readonly runtime: Runtime;
  readonly images: Images;
  readonly paths: Paths;
  readonly limits: BackoffLimits;
  readonly logMaxBytes: number;
  readonly logMaxFiles: number;
  readonly hostIps: () => readonly string[];
  readonly configs: ConfigSource;
}

/** A hook that takes longer has failed: nothing waits for ever. */
const HOOK_LIMIT_MS = 600_000;

export class ContainerStarter {
  readonly #options: StarterOptions;

  constructor(options: StarterOptions) {
    this.#options = options;
  }

  async start(request: StartRequest): Promise<StartOutcome> {
    const { record, container, timeline } = request;
    const progress = record.containers[container.name] as ContainerProgress;
    let image: EnsuredImage;
    try {
      image = await timeline.step("image", () => this.#ensureImage(request), container.name);
    } catch (err) {
      const error = toRuntimeError(err);
      const isNamed = error.message.includes(`"${container.image}"`);
      return failed(pullReason(error), isNamed ? error : withContext(error, `image "${container.image}"`));
    }
    const volumeImages = await this.#ensureVolumeImages(request);
    if ("failure" in volumeImages) return volumeImages;
    let open: OpenMounts;
    let config: ContainerConfig;
    const attempt = progress.attempt + 1;
    try {
      open = await openMounts(container, record.pod, request.volumes, volumeImages.ids);
    } catch (err) {
      return failed("CreateContainerConfigError", err);
    }
    try {
      try {
        const message = await makeMessageFile(this.#options.paths, record.uid, container, attempt);
        const isTaken = open.mounts.some(({ containerPath }) => containerPath === message.containerPath);
        config = this.#config(request, image, isTaken ? open.mounts : [...open.mounts, message], attempt);
      } catch (err) {
        return failed("CreateContainerConfigError", err);
      }
      return await this.#createAndStart(request, image, config);
    } finally {
      await open.close();
    }
  }

  async #createAndStart(request: StartRequest, image: EnsuredImage, config: ContainerConfig): Promise<StartOutcome> {
    const { record, container, timeline } = request;
    const { runtime, limits } = this.#options;
    const { name } = container;
    const sandbox = record.sandbox as NonNullable<PodRecord["sandbox"]>;
    const progress = record.containers[name] as ContainerProgress;
    const previousId = progress.containerId;
    let id: ContainerId;
    try {
      if (progress.failedStart) await this.#removeUnclaimed(sandbox.id, name, config.metadata.attempt);
      id = await timeline.step("create", () => runtime.createContainer(sandbox.id, config, request.signal), name);
    } catch (err) {
      return failed("CreateContainerError", err);
    }
    request.event({ type: "Normal", reason: "Created", message: `Container created: ${name}`, container: name });
    if (progress.terminated) {
      progress.last = progress.terminated;
      // A container that ran and ended has its next restart delayed; one that could not start is delayed already.
      if (progress.last.reason !== "StartError") progress.restartDelay = nextRestartDelay(progress, nowNs(), limits);
    }
    progress.terminated = undefined;
    progress.startedAtNs = undefined;
    progress.isDone = false;
    progress.isStarted = undefined;
    progress.isReady = undefined;
    progress.containerId = id;
    progress.imageId = image.digestReference;
    progress.attempt = config.metadata.attempt;
    progress.sandboxAttempt = sandbox.attempt;
    try {
      await timeline.step("start", () => runtime.startContainer(id), name);
    } catch (err) {
      const error = toRuntimeError(err);
      progress.terminated = {
        containerId: id,
        exitCode: 128,
        signal: 0,
        reason: "StartError",
        message: error.message,
        finishedAtNs: String(nowNs()),
      };
      this.#dropPrevious(request, progress, previousId);
      return failed("RunContainerError", error);
    }
    progress.startedAtNs = runtime.containerStatus(id).startedAtNs ?? String(nowNs());
    request.event({ type: "Normal", reason: "Started", message: `Container started: ${name}`, container: name });
    await this.#postStart(request, id);
    this.#dropPrevious(request, progress, previousId);
    return {};
  }

  /** Kubernetes' hook after the start: until it is done the next container waits; its failure is the container's. */
  async #postStart({ record, container, signal, changed, event }: StartRequest, id: ContainerId): Promise<void> {
    const hook = container.lifecycle?.postStart;
    if (!hook) return;
    changed();
    const { runtime, hostIps } = this.#options;
    const podIp = (record.pod.spec.hostNetwork ? hostIps() : record.sandbox?.ips)?.[0] ?? "127.0.0.1";
    const aborted = new Promise<undefined>((resolve) => signal.addEventListener("abort", () => resolve(undefined)));
    const target = { runtime, container, containerId: id, podIp };
    const result = signal.aborted ? undefined : await Promise.race([runAction(hook, target, HOOK_LIMIT_MS), aborted]);
    if (!result || result.isOk) return;
    const message = `PostStart hook failed: ${result.message}`;
    event({ type: "Warning", reason: "FailedPostStartHook", message, container: container.name });
    await runtime.stopContainer(id, record.pod.spec.terminationGracePeriodSeconds * 1000);
  }

  /** A create that failed late may have left its container: its name must be free for this attempt. */
  async #removeUnclaimed(sandboxId: SandboxId, name: string, attempt: number): Promise<void> {
    const { runtime } = this.#options;
    for (const { id, config } of runtime.listContainers("pod", sandboxId)) {
      if (config.metadata.name === name && config.metadata.attempt === attempt) await runtime.removeContainer(id);
    }
  }

  #config(
    { record, container }: StartRequest,
    image: EnsuredImage,
    mounts: readonly ContainerMount[],
    attempt: number,
  ): ContainerConfig {
    const { logMaxBytes, logMaxFiles, hostIps } = this.#options;
    const host = hostIps();
    return toContainerConfig(container, record.pod, {
      uid: record.uid,
      podIps: record.pod.spec.hostNetwork ? host : (record.sandbox?.ips ?? []),
      hostIps: host,
      nodeName: hostname(),
      attempt,
      image,
      mounts,
      configs: this.#options.configs,
      seccompDir: this.#options.paths.seccompProfiles,
      logMaxBytes,
      logMaxFiles,
    });
  }

  /** As a kubelet: before each start, by the volume's own policy, and a failure is the container's. */
  async #ensureVolumeImages({
    record,
    container,
    timeline,
    signal,
  }: StartRequest): Promise<{ readonly ids: ReadonlyMap<string, string> } | Required<StartOutcome>> {
    const ids = new Map<string, string>();
    for (const [name, { reference = "", pullPolicy = "IfNotPresent" }] of imageVolumesOf(container, record.pod)) {
      try {
        const ensure = () => this.#options.images.ensure(reference, pullPolicy, signal);
        ids.set(name, (await timeline.step("volume image", ensure, name)).id);
      } catch (err) {
        const error = withContext(err, `image of volume "${name}"`);
        return { failure: { reason: pullReason(error), error } };
      }
    }
    return { ids };
  }

  async #ensureImage({ container, signal, event }: StartRequest): Promise<EnsuredImage> {
    const { name, image, imagePullPolicy } = container;
    const startedAt = performance.now();
    const ensured = await this.#options.images.ensure(image, imagePullPolicy, signal);
    const message = ensured.wasPulled
      ? `Pulled image "${image}" in ${Math.round(performance.now() - startedAt)} ms`
      : `Image "${image}" is already present`;
    event({ type: "Normal", reason: "Pulled", message, container: name });
    return ensured;
  }

  /**
   * Removes the container of the attempt before: how it ended is in the record, which is in place
   * first. Logs of the attempt before stay readable, older ones go.
   */
  #dropPrevious(
    { record, container, flush, changed, event }: StartRequest,
    progress: ContainerProgress,
    previousId: ContainerId | undefined,
  ): void {
    changed();
    if (previousId === undefined) return;
    const drop = async () => {
      await flush();
      await this.#options.runtime.removeContainer(previousId);
      await this.#dropOldLogs(record, container.name, progress.attempt - 1);
    };
    drop().catch((err: unknown) => {
      // The sandbox's removal takes it along at the latest.
      event({
        type: "Warning",
        reason: "FailedRemove",
        message: `previous container: ${toRuntimeError(err).message}`,
        container: container.name,
      });
    });
  }

  async #dropOldLogs(record: PodRecord, name: string, firstKept: number): Promise<void> {
    const directory = join(this.#logs(record), name);
    const files = await readdir(directory).catch((err: unknown) => {
      if (hasErrno(err, "ENOENT")) return [];
      throw err;
    });
    for (const file of files) {
      const attempt = /^(\d+)\.log/.exec(file)?.[1];
      if (attempt !== undefined && Number(attempt) < firstKept) await rm(join(directory, file), { force: true });
    }
  }

  removeLogs(record: PodRecord): Promise<void> {
    return removeTree(this.#logs(record));
  }

  #logs({ pod, uid }: PodRecord): string {
    return this.#options.paths.podLogs(pod.metadata.namespace, pod.metadata.name, uid);
  }
}

function failed(reason: string, err: unknown): StartOutcome {
  return { failure: { reason, error: toRuntimeError(err) } };
}

/** The waiting reason of a kubelet for a failed pull. */
function pullReason(error: RuntimeError): string {
  if (error.kind === "invalid-argument") return "InvalidImageName";
  return error.message.includes("imagePullPolicy Never") ? "ErrImageNeverPull" : "ErrImagePull";
}
