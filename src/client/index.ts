/**
 * The library: `import { connect } from "minke"`. A typed client of the daemon's API.
 *
 * The command is made of it, so whatever the command can do, a program can. Talks to the daemon
 * through its socket only; starts one where asked to.
 */
import type { IncomingMessage } from "node:http";
import { resolve } from "node:path";
import type { ListedImage } from "../api/images.js";
import type { PodStatsJson } from "../api/stats.js";
import { RuntimeError } from "../base/errors.js";
import { rootFolder, runFolder } from "./folders.js";
import type { ConfigJson } from "../pod/config-objects.js";
import type { PullExplanation } from "../image/pull-explanation.js";
import type { EventJson } from "../pod/events.js";
import type { PodManifest } from "../pod/manifest/schema.js";
import type { PodJson } from "../pod/status.js";
import { lastSettingsFile } from "../settings/last-settings-file.js";
import { Paths } from "../settings/paths.js";
import type { Duplex } from "node:stream";
import { openPort } from "./port-forward.js";
import { ImageClient } from "./images.js";
import { openStreams, type RemoteStreams } from "./exec.js";
import { isDaemonUp, startDaemon } from "./start-daemon.js";
import { errorOfStatus, jsonLines, readText, send, sendForJson } from "./transport.js";

export type { ConfigJson, ListedImage, EventJson, PullExplanation, PodJson, PodManifest, PodStatsJson, RemoteStreams };
export { RuntimeError };

export { DEFAULT_ROOT, DEFAULT_RUN } from "./folders.js";

export interface ConnectOptions {
  /** Where the daemon keeps its data; `MINKE_ROOT`, else /var/lib/minke. */
  readonly root?: string | undefined;
  /** Where its sockets are; `MINKE_RUN`, else /run/minke. */
  readonly run?: string | undefined;
  /** The API socket, where it is not in `run`. */
  readonly api?: string | undefined;
  /** Starts a daemon where none answers; true unless said otherwise. */
  readonly startDaemon?: boolean | undefined;
  /** Called before a daemon is started; `config` is the settings file of the last one there, or MINKE_CONFIG's. */
  readonly onStart?: ((place: { root: string; logPath: string; config: string | undefined }) => void) | undefined;
}

export interface LogRequest {
  readonly container?: string | undefined;
  readonly follow?: boolean | undefined;
  readonly previous?: boolean | undefined;
  readonly timestamps?: boolean | undefined;
  readonly tailLines?: number | undefined;
  readonly sinceSeconds?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ExecRequest {
  readonly command: readonly string[];
  readonly container?: string | undefined;
  readonly stdin?: boolean | undefined;
  readonly tty?: boolean | undefined;
  readonly size?: { readonly columns: number; readonly rows: number } | undefined;
}

export interface PodWatchEvent {
  readonly type: "ADDED" | "MODIFIED" | "DELETED";
  readonly object: PodJson;
}

/** A step of a pod's start; times are Unix ns as decimal strings. */
export interface TimelineSpan {
  readonly name: string;
  readonly subject?: string;
  readonly startedAtNs: string;
  readonly durationNs: string;
}

/** A Pod manifest, as in YAML; the daemon checks it (`PodManifest` is the type of what it knows). */
export interface PodInput {
  readonly metadata: { readonly name?: string | undefined; readonly namespace?: string | undefined };
  readonly spec: object;
}

export interface CreatedPod {
  readonly pod: PodJson;
  /** Fields without effect: `spec.containers[0].livenessProbe: has no effect here, ignored`. */
  readonly warnings: readonly string[];
}

/** @throws RuntimeError `unavailable` DAEMON_UNREACHABLE or DAEMON_START_FAILED, `permission-denied` PERMISSION_DENIED */
export async function connect(options: ConnectOptions = {}): Promise<MinkeClient> {
  const root = rootFolder(options.root);
  const run = runFolder(options.run);
  const paths = new Paths(root, run);
  const socketPath = options.api ? resolve(options.api) : paths.apiSocket;
  if (options.startDaemon !== false && !(await isDaemonUp(socketPath))) {
    const config = process.env.MINKE_CONFIG ?? (await lastSettingsFile(paths));
    options.onStart?.({ root, logPath: `${root}/daemon.log`, config });
    await startDaemon({ root, run, socketPath, config: config && resolve(config) });
  }
  return new MinkeClient(socketPath);
}

const podPath = (namespace: string, name: string, verb = "") =>
  `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(name)}${verb}`;

export type ConfigKind = "configmaps" | "secrets";

/** A ConfigMap or Secret, as in YAML. */
export interface ConfigInput {
  readonly kind: "ConfigMap" | "Secret";
  readonly metadata: { readonly name: string; readonly namespace: string };
}

const configPath = (kind: ConfigKind, namespace: string, name?: string) =>
  `/api/v1/namespaces/${encodeURIComponent(namespace)}/${kind}${name === undefined ? "" : `/${encodeURIComponent(name)}`}`;

export class MinkeClient {
  readonly #socketPath: string;
  /** Images: details, names, archives, verification, prune, disk usage. */
  readonly image: ImageClient;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
    this.image = new ImageClient(socketPath);
  }

  /** @param strict a field without effect is an error */
  async createPod(manifest: PodInput, options: { namespace?: string; strict?: boolean } = {}): Promise<CreatedPod> {
    const namespace = manifest.metadata.namespace ?? options.namespace ?? "default";
    const query = options.strict ? "?fieldValidation=Strict" : "";
    const response = await send(this.#socketPath, `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods${query}`, {
      method: "POST",
      body: manifest,
    });
    const warnings = warningTexts(response);
    return { pod: JSON.parse(await readText(response)) as PodJson, warnings };
  }

  getPod(namespace: string, name: string): Promise<PodJson> {
    return sendForJson(this.#socketPath, podPath(namespace, name));
  }

  /** @param namespace `undefined`: all */
  async listPods(namespace?: string): Promise<{ items: PodJson[]; resourceVersion: string }> {
    const path = namespace === undefined ? "/api/v1/pods" : `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods`;
    const list = await sendForJson<{ items: PodJson[]; metadata: { resourceVersion: string } }>(this.#socketPath, path);
    return { items: list.items, resourceVersion: list.metadata.resourceVersion };
  }

  /** @param namespace `undefined`: all */
  async listConfigs(kind: ConfigKind, namespace?: string): Promise<ConfigJson[]> {
    const path = namespace === undefined ? `/api/v1/${kind}` : configPath(kind, namespace);
    return (await sendForJson<{ items: ConfigJson[] }>(this.#socketPath, path)).items;
  }

  getConfig(kind: ConfigKind, namespace: string, name: string): Promise<ConfigJson> {
    return sendForJson(this.#socketPath, configPath(kind, namespace, name));
  }

  /** Creates it, or replaces one of that name; says which. */
  async applyConfig(
    object: ConfigInput,
  ): Promise<{ object: ConfigJson; outcome: "created" | "configured" | "unchanged" }> {
    const { namespace, name } = object.metadata;
    const kind = object.kind === "Secret" ? "secrets" : "configmaps";
    try {
      const made = await sendForJson<ConfigJson>(this.#socketPath, configPath(kind, namespace), {
        method: "POST",
        body: object,
      });
      return { object: made, outcome: "created" };
    } catch (err) {
      if (!(err instanceof RuntimeError) || err.code !== "CONFIG_EXISTS") throw err;
    }
    const before = await this.getConfig(kind, namespace, name);
    const after = await sendForJson<ConfigJson>(this.#socketPath, configPath(kind, namespace, name), {
      method: "PUT",
      body: object,
    });
    const isSame = before.metadata.resourceVersion === after.metadata.resourceVersion;
    return { object: after, outcome: isSame ? "unchanged" : "configured" };
  }

  deleteConfig(kind: ConfigKind, namespace: string, name: string): Promise<ConfigJson> {
    return sendForJson(this.#socketPath, configPath(kind, namespace, name), { method: "DELETE" });
  }

  /** Begins the deletion; `waitGone` waits for its end. */
  deletePod(
    namespace: string,
    name: string,
    options: { graceSeconds?: number | undefined; uid?: string | undefined } = {},
  ): Promise<PodJson> {
    const body = {
      ...(options.graceSeconds !== undefined && { gracePeriodSeconds: options.graceSeconds }),
      ...(options.uid !== undefined && { preconditions: { uid: options.uid } }),
    };
    return sendForJson(this.#socketPath, podPath(namespace, name), { method: "DELETE", body });
  }

  /**
   * Changes of pods: first every pod there is as `ADDED`, then what happens. Ends with the daemon.
   *
   * @param resourceVersion of a list: only what came after it
   */
  async *watchPods(
    options: {
      namespace?: string | undefined;
      name?: string | undefined;
      resourceVersion?: string | undefined;
      signal?: AbortSignal | undefined;
    } = {},
  ): AsyncGenerator<PodWatchEvent> {
    const query = new URLSearchParams({ watch: "true" });
    if (options.name !== undefined) query.set("fieldSelector", `metadata.name=${options.name}`);
    if (options.resourceVersion !== undefined) query.set("resourceVersion", options.resourceVersion);
    const scope =
      options.namespace === undefined
        ? "/api/v1/pods"
        : `/api/v1/namespaces/${encodeURIComponent(options.namespace)}/pods`;
    const response = await send(this.#socketPath, `${scope}?${query.toString()}`, { signal: options.signal });
    try {
      yield* jsonLines<PodWatchEvent>(response);
    } catch (err) {
      if (!options.signal?.aborted) throw err;
    } finally {
      response.destroy();
    }
  }

  /** Resolves when nothing is left of the pod with this UID. */
  async waitGone(namespace: string, name: string, uid: string): Promise<void> {
    const { items } = await this.listPods(namespace);
    const pod = items.find(({ metadata }) => metadata.name === name && metadata.uid === uid);
    if (!pod) return;
    // From just before what the list showed: an end between the list and the watch is told, too.
    const resourceVersion = String(BigInt(pod.metadata.resourceVersion) - 1n);
    for await (const { type, object } of this.watchPods({ namespace, name, resourceVersion })) {
      if (object.metadata.uid !== uid || type === "DELETED") return;
    }
    throw new RuntimeError("the daemon ended before the pod was gone", {
      kind: "unavailable",
      code: "DAEMON_UNREACHABLE",
    });
  }

  async *logs(namespace: string, name: string, request: LogRequest = {}): AsyncGenerator<Buffer> {
    const query = new URLSearchParams();
    for (const [key, value] of Object.entries(request)) {
      if (key !== "signal" && value !== undefined && value !== false) query.set(key, String(value));
    }
    const response = await send(this.#socketPath, `${podPath(namespace, name, "/log")}?${query.toString()}`, {
      signal: request.signal,
    });
    try {
      for await (const chunk of response) yield chunk as Buffer;
    } catch (err) {
      if (!request.signal?.aborted) throw err;
    } finally {
      response.destroy();
    }
  }

  /** Runs a command in a running container. Closing the streams kills it. */
  exec(namespace: string, name: string, request: ExecRequest): Promise<RemoteStreams> {
    const query = new URLSearchParams({
      stdout: "true",
      stderr: String(!request.tty),
      stdin: String(request.stdin ?? false),
      tty: String(request.tty ?? false),
    });
    if (request.container) query.set("container", request.container);
    if (request.size) {
      query.set("columns", String(request.size.columns));
      query.set("rows", String(request.size.rows));
    }
    for (const word of request.command) query.append("command", word);
    return openStreams(this.#socketPath, `${podPath(namespace, name, "/exec")}?${query.toString()}`);
  }

  attach(
    namespace: string,
    name: string,
    request: { container?: string | undefined; stdin?: boolean | undefined; tty?: boolean | undefined } = {},
  ): Promise<RemoteStreams> {
    const query = new URLSearchParams({
      stdout: "true",
      stderr: String(!request.tty),
      stdin: String(request.stdin ?? false),
      tty: String(request.tty ?? false),
    });
    if (request.container) query.set("container", request.container);
    return openStreams(this.#socketPath, `${podPath(namespace, name, "/attach")}?${query.toString()}`);
  }

  /**
   * A connection to a port of a pod, on its localhost. Fails with PORT_NOT_REACHABLE as the stream's
   * error where nobody listens there.
   */
  forwardPort(namespace: string, name: string, port: number): Promise<Duplex> {
    return openPort(this.#socketPath, `${podPath(namespace, name, "/portforward")}?ports=${port}`);
  }

  async events(namespace: string, podUid?: string): Promise<EventJson[]> {
    const query = podUid === undefined ? "" : `?fieldSelector=involvedObject.uid=${encodeURIComponent(podUid)}`;
    return (
      await sendForJson<{ items: EventJson[] }>(
        this.#socketPath,
        `/api/v1/namespaces/${encodeURIComponent(namespace)}/events${query}`,
      )
    ).items;
  }

  timeline(
    namespace: string,
    name: string,
  ): Promise<{ items: TimelineSpan[]; warnings: { path: string; message: string }[] }> {
    return sendForJson(
      this.#socketPath,
      `/minke/v1/timeline/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`,
    );
  }

  /** What running pods use now; of all namespaces where none is given. */
  async stats(which: { namespace?: string | undefined; name?: string | undefined } = {}): Promise<PodStatsJson[]> {
    const query = new URLSearchParams();
    for (const [key, value] of Object.entries(which)) if (value !== undefined) query.set(key, value);
    return (await sendForJson<{ items: PodStatsJson[] }>(this.#socketPath, `/minke/v1/stats?${query}`)).items;
  }

  async images(): Promise<ListedImage[]> {
    return (await sendForJson<{ items: ListedImage[] }>(this.#socketPath, "/minke/v1/images")).items;
  }

  /** @param onProgress called with what the image store says of each layer */
  async pullImage(
    reference: string,
    onProgress?: (progress: object) => void,
    signal?: AbortSignal,
  ): Promise<ListedImage> {
    const response = await send(this.#socketPath, "/minke/v1/images/pull", {
      method: "POST",
      body: { reference },
      signal,
    });
    for await (const line of jsonLines<{ progress?: object; image?: ListedImage; error?: object }>(response)) {
      if (line.error) throw errorOfStatus(line.error, 500);
      if (line.image) return line.image;
      if (line.progress) onProgress?.(line.progress);
    }
    throw new RuntimeError("the connection to the daemon broke before the image was here", {
      kind: "unavailable",
      code: "DAEMON_UNREACHABLE",
    });
  }

  /** What a pull would do, and why; pulls nothing. */
  async explainPull(reference: string): Promise<PullExplanation> {
    return sendForJson<PullExplanation>(this.#socketPath, "/minke/v1/images/pull", {
      method: "POST",
      body: { reference, explain: true },
    });
  }

  /** @param path of an OCI layout, a directory or an archive, on the daemon's machine; absolute */
  async loadImages(path: string): Promise<ListedImage[]> {
    return (
      await sendForJson<{ items: ListedImage[] }>(this.#socketPath, "/minke/v1/images/load", {
        method: "POST",
        body: { path },
      })
    ).items;
  }

  version(): Promise<{ minkeVersion: string; gitVersion: string; platform: string }> {
    return sendForJson(this.#socketPath, "/version");
  }

  doctor(): Promise<Record<string, unknown>> {
    return sendForJson(this.#socketPath, "/minke/v1/doctor");
  }

  /** Stops the daemon and returns its pid. @param pods deletes every pod first; else they go on running */
  stopDaemon(options: { pods?: boolean | undefined } = {}): Promise<{ pid: number }> {
    return sendForJson(this.#socketPath, `/minke/v1/stop${options.pods ? "?pods=true" : ""}`, { method: "POST" });
  }
}

/** Texts of `Warning: 299 minke "…"` headers (RFC 7234 section 5.5). */
function warningTexts(response: IncomingMessage): string[] {
  const header = response.headersDistinct.warning ?? [];
  return header.flatMap((value) => {
    const quoted = /^299 \S+ (".*")$/.exec(value)?.[1];
    return quoted === undefined ? [] : [JSON.parse(quoted) as string];
  });
}
