/**
 * The sockets that the daemon answers on: CRI with its streaming server, the API, and NRI's.
 */
import { rm } from "node:fs/promises";
import { createServer } from "node:net";
import type { DaemonMetrics } from "./api/daemon-metrics.js";
import { createApiServer } from "./api/server.js";
import { listenOnSocket } from "./api/unix-socket.js";
import type { CleanupStack } from "./base/cleanup.js";
import type { Logger } from "./base/log.js";
import type { Introspection } from "./cri/introspection.js";
import { createCriServer } from "./cri/server.js";
import { criVerbs } from "./cri/service.js";
import { failureStatus } from "./cri/streams.js";
import { runDoctor } from "./doctor/doctor.js";
import type { ImageStore } from "./image/image-store.js";
import type { Networks } from "./network/networks.js";
import type { Nri } from "./nri/nri.js";
import type { PodEngine } from "./pod/engine.js";
import { originsOf } from "./runtime/figure-sources.js";
import type { Host } from "./runtime/host.js";
import type { OpenedRuntime } from "./runtime/open-runtime.js";
import { BUILT_IN_HANDLERS, type RuntimeHandler } from "./runtime/runtime-handlers.js";
import type { Paths } from "./settings/paths.js";
import type { Settings } from "./settings/settings.js";
import { VERSION } from "./settings/version.js";
import { StreamingServer } from "./streaming/streaming-server.js";

export interface StopRequest {
  /** Delete every pod and sandbox first, and leave nothing but the images. */
  readonly pods: boolean;
}

/** What is open already, and is asked through the sockets. */
export interface Daemon {
  readonly settings: Settings;
  readonly paths: Paths;
  readonly host: Host;
  readonly images: ImageStore;
  readonly log: Logger;
  readonly runtime: OpenedRuntime;
  readonly engine: PodEngine;
  readonly runtimeHandlers: ReadonlyMap<string, RuntimeHandler>;
  readonly network: Networks;
  readonly metrics: DaemonMetrics | undefined;
  /** True once every pod is gone: bridge, rules, cgroups and sockets go too, images stay under the root. */
  leavesNothing: boolean;
  /** Called by the API's stop route; settles `stopRequested`. */
  onStop: (request: StopRequest) => void;
}

export async function openNri(nri: Nri, socketPath: string, parts: CleanupStack): Promise<void> {
  const listening = await listenOnSocket(
    createServer((socket) => void nri.accept(socket)),
    socketPath,
  );
  parts.push("close the NRI socket", async () => {
    await nri.close();
    await listening.close();
  });
}

/** Sockets come last: what answers is ready. */
export async function openSockets(
  daemon: Daemon,
  sockets: { readonly cri: string; readonly api: string },
  parts: CleanupStack,
): Promise<void> {
  await openCri(daemon, sockets.cri, parts);
  await openApi(daemon, sockets.api, parts);
  daemon.log.info({ version: VERSION, root: daemon.paths.root, run: daemon.paths.run }, "ready");
}

async function openCri(daemon: Daemon, socketPath: string, parts: CleanupStack): Promise<void> {
  const { settings, paths, images, metrics, log } = daemon;
  const streaming = await StreamingServer.listen({ ...settings.streaming, failure: failureStatus });
  parts.push("close the streaming server", () => streaming.close());
  const cri = await createCriServer({
    socketPath,
    observe: metrics && ((...request) => metrics.criRequest(...request)),
    verbs: criVerbs({
      runtime: daemon.runtime.runtime,
      images,
      streaming,
      root: paths.root,
      missedEvents: daemon.runtime.missedEvents,
      introspection: introspectionOf(daemon),
      figureOrigins: originsOf(daemon.host.figureSources),
    }),
    log,
  });
  parts.push("close the CRI socket", () => cri.close());
}

function introspectionOf({ paths, host, network, runtimeHandlers }: Daemon): Introspection {
  const holds = { holds: true, reason: "", message: "" };
  return {
    version: VERSION,
    runtimeReady: () => holds,
    networkReady: () => network.readiness(),
    runtimeHandlers: [
      ...BUILT_IN_HANDLERS.map((name) => ({
        name,
        hasUserNamespaces: host.abilities.hasUserNamespaces,
        hasRecursiveReadonlyMounts: true,
      })),
      ...[...runtimeHandlers.values()].map(({ name, hasRecursiveReadonlyMounts }) => ({
        name,
        hasUserNamespaces: false,
        hasRecursiveReadonlyMounts,
      })),
    ],
    configuration: () => ({
      stateDir: paths.root,
      runDir: paths.run,
      cgroupMount: host.cgroups.mount,
      cgroupControllers: [...host.cgroups.controllers],
      appArmor: appArmorStatus(host),
      seLinux: host.abilities.hasSeLinux ? "on" : "off: labels have no effect",
      figuresFrom: originsOf(host.figureSources),
    }),
  };
}

async function openApi(daemon: Daemon, socketPath: string, parts: CleanupStack): Promise<void> {
  const { settings, images, log } = daemon;
  const server = createApiServer({
    engine: daemon.engine,
    images,
    runtime: daemon.runtime.runtime,
    imageCare: {
      care: images.care,
      knownNames: () => ({
        containers: daemon.runtime.containerNames(),
        pods: new Map(
          daemon.engine.list().map(({ metadata: { uid, namespace, name } }) => [uid, `pod ${namespace}/${name}`]),
        ),
      }),
      prunesCri: settings.images.collection.cri,
    },
    version: VERSION,
    doctor: runDoctor,
    stop: async (request) => daemon.onStop(request),
    log,
  });
  await listenOnSocket(server, socketPath);
  parts.push("close the API socket", async () => {
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
      // Watches and followed logs never end by themselves; the answer to a stop request still goes out.
      setTimeout(() => server.closeAllConnections(), 200);
    });
    await rm(socketPath, { force: true });
  });
}

function appArmorStatus({ appArmor }: Host): string {
  if (!appArmor) return "off";
  const { last } = appArmor;
  if (last === "loading") return "the default profile is being loaded";
  return "profile" in last ? `on, by default ${last.profile}` : `on, without the default profile: ${last.why}`;
}
