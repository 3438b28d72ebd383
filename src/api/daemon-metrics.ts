/**
 * The daemon's own metrics, in Prometheus' text format: what it is, what it runs, what it was asked and how
 * long that took. Off unless the settings say where to listen. Names no pod: labels are few and bounded.
 */
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { type IntervalHistogram, monitorEventLoopDelay } from "node:perf_hooks";
import { hasErrno, RuntimeError, toRuntimeError } from "../base/errors.js";
import type { CleanupStack } from "../base/cleanup.js";
import type { Runtime, RuntimeEvent } from "../runtime/runtime.js";
import type { ContainerState } from "../state/container.js";
import type { SandboxState } from "../state/sandbox.js";
import type { MetricsSettings } from "../settings/socket-settings.js";
import { listenOnSocket } from "./unix-socket.js";

/** Upper bounds in seconds. */
const BUCKETS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60];
const QUANTILES = [50, 99, 100];
/** The delay is measured between two ticks, which are so far apart anyway. */
const LOOP_RESOLUTION_MS = 20;
const OWNERS = ["cri", "pod"] as const;
/** All of them: what there is none of is 0, since a rule over a series that is missing never fires. */
const SANDBOX_STATES = Object.keys({
  creating: true,
  ready: true,
  stopping: true,
  stopped: true,
  removing: true,
} satisfies Record<SandboxState, true>);
const CONTAINER_STATES = Object.keys({
  created: true,
  starting: true,
  running: true,
  exited: true,
  removing: true,
} satisfies Record<ContainerState, true>);

export interface DaemonFacts {
  readonly version: string;
  readonly runtime: Pick<Runtime, "listSandboxes" | "listContainers" | "subscribe">;
  readonly images: () => number;
  readonly nriPlugins: () => number;
}

interface Durations {
  readonly counts: number[];
  sum: number;
  count: number;
}

export class DaemonMetrics {
  readonly #facts: DaemonFacts;
  /** Taken once: every change of it would count as a start. */
  readonly #startedAtS = Math.round(Date.now() / 1000 - process.uptime());
  readonly #loop: IntervalHistogram;
  readonly #requests = new Map<string, number>();
  readonly #durations = new Map<string, Durations>();
  readonly #events = new Map<string, number>();
  readonly #unsubscribe: () => void;

  constructor(facts: DaemonFacts) {
    this.#facts = facts;
    this.#loop = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION_MS });
    this.#loop.enable();
    this.#unsubscribe = facts.runtime.subscribe((event: RuntimeEvent) => {
      count(this.#events, labels({ type: event.type, owner: event.owner }));
    });
  }

  close(): void {
    this.#loop.disable();
    this.#unsubscribe();
  }

  /** @param outcome `ok`, or the kind of the error */
  criRequest(method: string, outcome: string, durationMs: number): void {
    count(this.#requests, labels({ method, outcome }));
    const name = labels({ method });
    const known = this.#durations.get(name) ?? { counts: BUCKETS_S.map(() => 0), sum: 0, count: 0 };
    this.#durations.set(name, known);
    known.sum += durationMs / 1000;
    known.count++;
    const bucket = BUCKETS_S.findIndex((bound) => durationMs / 1000 <= bound);
    if (bucket >= 0) known.counts[bucket] = (known.counts[bucket] ?? 0) + 1;
  }

  async render(): Promise<string> {
    const { rss, heapUsed } = process.memoryUsage();
    const { user, system } = process.cpuUsage();
    const descriptors = await readdir("/proc/self/fd");
    return [
      family("minke_build_info", "gauge", "The version that runs.", [[labels({ version: this.#facts.version }), 1]]),
      family("process_cpu_seconds_total", "counter", "CPU time of the daemon.", [["", (user + system) / 1e6]]),
      family("process_resident_memory_bytes", "gauge", "Resident memory of the daemon.", [["", rss]]),
      family("process_open_fds", "gauge", "Open file descriptors of the daemon.", [["", descriptors.length]]),
      family("process_start_time_seconds", "gauge", "When the daemon was started.", [["", this.#startedAtS]]),
      family("nodejs_heap_size_used_bytes", "gauge", "Used heap.", [["", heapUsed]]),
      this.#ofEventLoop(),
      ...this.#ofRuntime(),
      ...this.#ofRequests(),
      "",
    ].join("\n");
  }

  /** A summary: only those have quantiles (promtool check metrics). */
  #ofEventLoop(): string {
    const { count: ticks, mean } = this.#loop;
    const delayS = (ns: number): number => (ticks === 0 ? 0 : Math.max(0, ns / 1e9 - LOOP_RESOLUTION_MS / 1000));
    return family("nodejs_eventloop_delay_seconds", "summary", "Delay of the event loop since the start.", [
      ...QUANTILES.map((quantile): [string, number] => [
        labels({ quantile: String(quantile / 100) }),
        delayS(this.#loop.percentile(quantile)),
      ]),
      ["_sum", delayS(mean) * ticks],
      ["_count", ticks],
    ]);
  }

  #ofRuntime(): string[] {
    const { runtime, images, nriPlugins } = this.#facts;
    const [sandboxes, containers] = [new Map<string, number>(), new Map<string, number>()];
    for (const owner of OWNERS) {
      for (const state of SANDBOX_STATES) sandboxes.set(labels({ owner, state }), 0);
      for (const state of CONTAINER_STATES) containers.set(labels({ owner, state }), 0);
      for (const { state } of runtime.listSandboxes(owner)) count(sandboxes, labels({ owner, state }));
      for (const { state } of runtime.listContainers(owner)) count(containers, labels({ owner, state }));
    }
    return [
      family("minke_sandboxes", "gauge", "Sandboxes by owner and state.", [...sandboxes]),
      family("minke_containers", "gauge", "Containers by owner and state.", [...containers]),
      family("minke_images", "gauge", "Images.", [["", images()]]),
      family("minke_nri_plugins", "gauge", "NRI plugins that take part.", [["", nriPlugins()]]),
      family("minke_runtime_events_total", "counter", "What happened to sandboxes and containers.", [...this.#events]),
    ];
  }

  #ofRequests(): string[] {
    const name = "minke_cri_request_duration_seconds";
    const lines = [...this.#durations].flatMap(([method, { counts, sum, count: total }]) => {
      let below = 0;
      const buckets = BUCKETS_S.map((bound, i): [string, number] => {
        below += counts[i] ?? 0;
        return [`_bucket${method.replace("}", `,le="${bound}"}`)}`, below];
      });
      return [
        ...buckets,
        [`_bucket${method.replace("}", ',le="+Inf"}')}`, total] as const,
        [`_sum${method}`, sum] as const,
        [`_count${method}`, total] as const,
      ];
    });
    return [
      family("minke_cri_requests_total", "counter", "Requests over CRI by how they ended.", [...this.#requests]),
      family(name, "histogram", "How long requests over CRI took.", lines),
    ];
  }
}

/** Serves `GET /metrics`; where it listens is the caller's. */
export function createMetricsServer(metrics: Pick<DaemonMetrics, "render">): Server {
  return createServer({ keepAliveTimeout: 5_000 }, (request, response) => {
    request.resume();
    if ((request.method !== "GET" && request.method !== "HEAD") || request.url?.split("?")[0] !== "/metrics") {
      response.writeHead(404, { "content-type": "text/plain" }).end("only GET /metrics\n");
      return;
    }
    metrics.render().then(
      (text) => response.writeHead(200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" }).end(text),
      () => response.destroy(),
    );
  });
}

/** @throws RuntimeError `failed-precondition` SOCKET_IN_USE, SOCKET_UNUSABLE */
export async function listenOnPort(
  server: Server,
  place: { readonly host: string; readonly port: number },
): Promise<void> {
  try {
    server.listen(place);
    await once(server, "listening");
  } catch (err) {
    throw new RuntimeError(`serve metrics on ${place.host} port ${place.port}: ${toRuntimeError(err).message}`, {
      kind: "failed-precondition",
      code: hasErrno(err, "EADDRINUSE") ? "SOCKET_IN_USE" : "SOCKET_UNUSABLE",
      cause: err,
    });
  }
}

/** Nothing is counted where nobody can read it. */
export async function openMetrics(
  { socketPath, listen }: MetricsSettings,
  parts: CleanupStack,
  facts: DaemonFacts,
): Promise<DaemonMetrics | undefined> {
  if (socketPath === undefined && listen === undefined) return undefined;
  const metrics = new DaemonMetrics(facts);
  parts.push("close the metrics", () => metrics.close());
  if (socketPath !== undefined) {
    const listening = await listenOnSocket(createMetricsServer(metrics), socketPath);
    parts.push("close the metrics socket", () => listening.close());
  }
  if (listen !== undefined) {
    const server = createMetricsServer(metrics);
    parts.push("close the metrics port", () => server.close().closeAllConnections());
    await listenOnPort(server, listen);
  }
  return metrics;
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function labels(values: Readonly<Record<string, string>>): string {
  const escape = (text: string) => text.replace(/[\\"\n]/g, (found) => (found === "\n" ? "\\n" : `\\${found}`));
  return `{${Object.entries(values)
    .map(([key, value]) => `${key}="${escape(value)}"`)
    .join(",")}}`;
}

function family(
  name: string,
  type: "counter" | "gauge" | "histogram" | "summary",
  help: string,
  samples: readonly (readonly [string, number])[],
): string {
  return [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    ...samples.map(([key, value]) => `${name}${key} ${value}`),
  ].join("\n");
}
