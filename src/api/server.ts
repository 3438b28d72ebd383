/**
 * The API server: Kubernetes-shaped HTTP/1.1 on a unix socket, and minke's own routes under /minke/v1.
 *
 * An edge: errors become Status objects here and nowhere else, and are logged here once. Who may
 * talk to us is decided by the socket's mode and directory (main.ts, `listenOnSocket`).
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { toRuntimeError } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { PodEngine } from "../pod/engine.js";
import { configRoutes } from "./config-objects.js";
import { discovery } from "./discovery.js";
import { type ImageCareOptions, imageCareRoutes } from "./image-care.js";
import { type ImageService, listImages, loadImages, pullImage } from "./images.js";
import { createPod, deletePod, listPods, sendLog } from "./pods.js";
import { type ApiRequest, answer, flag, invalidRequest, requestUrl } from "./request.js";
import { listStats, type StatsRuntime } from "./stats.js";
import { toStatusObject } from "./status-object.js";
import { acceptStreams } from "./streams.js";

export interface ApiServerOptions {
  readonly engine: PodEngine;
  readonly images: ImageService;
  readonly runtime: StatsRuntime;
  readonly imageCare: ImageCareOptions;
  /** minke's own version: `0.1.0`. */
  readonly version: string;
  /** The findings of the doctor, as JSON. */
  readonly doctor: () => Promise<object>;
  /** Stops the daemon; with `pods`, deletes every pod first. Called once the request is answered. */
  readonly stop: (options: { readonly pods: boolean }) => Promise<void>;
  readonly log: Logger;
}

const HEADERS_TIMEOUT_MS = 10_000;
const MAX_CONNECTIONS = 1024;

type Route = (request: ApiRequest, response: ServerResponse, parts: readonly string[]) => Promise<void> | void;

export function createApiServer(options: ApiServerOptions): Server {
  const routes = routeTable(options);
  const server = createServer({ keepAliveTimeout: 30_000 }, (message, response) => {
    void serve(routes, options.log, message, response);
  });
  server.headersTimeout = HEADERS_TIMEOUT_MS;
  // Logs, watches and pulls last as long as they last.
  server.requestTimeout = 0;
  server.maxConnections = MAX_CONNECTIONS;
  acceptStreams(server, options.engine, options.log);
  return server;
}

async function serve(
  routes: readonly [string, string, Route][],
  log: Logger,
  message: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  response.on("error", () => response.destroy());
  const method = message.method ?? "GET";
  try {
    const { pathname: path, searchParams: query } = requestUrl(message);
    const request: ApiRequest = { message, method, path, query };
    const found = findRoute(routes, method, path);
    if (!found) throw invalidRequest(`${method} ${path}: no such resource`);
    await found.route(request, response, found.parts);
  } catch (err) {
    const status = toStatusObject(err);
    const { kind, code, message: text } = toRuntimeError(err);
    if (status.code >= 500) log.error({ method, url: message.url, kind, code, message: text }, "request failed");
    if (response.headersSent) response.destroy();
    else answer(response, code === "INVALID_REQUEST" && text.endsWith("no such resource") ? 404 : status.code, status);
  }
}

/** `:x` matches one segment and hands it on, decoded. */
function findRoute(
  routes: readonly [string, string, Route][],
  method: string,
  path: string,
): { route: Route; parts: string[] } | undefined {
  const segments = path.split("/");
  for (const [routeMethod, pattern, route] of routes) {
    const wanted = pattern.split("/");
    if (routeMethod !== method || wanted.length !== segments.length) continue;
    const parts: string[] = [];
    const matches = wanted.every((want, i) => {
      if (!want.startsWith(":")) return want === segments[i];
      parts.push(decodeSegment(segments[i] ?? ""));
      return parts.at(-1) !== "";
    });
    if (matches) return { route, parts };
  }
  return undefined;
}

function decodeSegment(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    throw invalidRequest(`path: "${segment}" is not well encoded`);
  }
}

function routeTable({
  engine,
  images,
  runtime,
  imageCare,
  version,
  doctor,
  stop,
  log,
}: ApiServerOptions): [string, string, Route][] {
  const ok: Route = (_request, response) => {
    response.writeHead(200, { "content-type": "text/plain" });
    response.end("ok");
  };
  const pod = "/api/v1/namespaces/:ns/pods/:name";
  const eventList = (namespace: string | undefined, request: ApiRequest, response: ServerResponse) => {
    const uid = /involvedObject\.uid=([^,]+)/.exec(request.query.get("fieldSelector") ?? "")?.[1];
    const name = /involvedObject\.name=([^,]+)/.exec(request.query.get("fieldSelector") ?? "")?.[1];
    const items = engine
      .events(namespace)
      .filter(
        ({ involvedObject: o }) => (uid === undefined || o.uid === uid) && (name === undefined || o.name === name),
      );
    answer(response, 200, {
      kind: "EventList",
      apiVersion: "v1",
      metadata: { resourceVersion: engine.resourceVersion },
      items,
    });
  };
  return [
    ["GET", "/healthz", ok],
    ["GET", "/livez", ok],
    ["GET", "/readyz", ok],
    ...discovery(version, () => [...new Set(["default", ...engine.list().map(({ metadata }) => metadata.namespace)])]),
    ["GET", "/api/v1/pods", (request, response) => listPods(engine, undefined, request, response)],
    ["GET", "/api/v1/namespaces/:ns/pods", (request, response, [ns]) => listPods(engine, ns, request, response)],
    ["POST", "/api/v1/namespaces/:ns/pods", (request, response, [ns = ""]) => createPod(engine, ns, request, response)],
    ["GET", pod, (_request, response, [ns = "", name = ""]) => answer(response, 200, engine.get(ns, name))],
    ["DELETE", pod, (request, response, [ns = "", name = ""]) => deletePod(engine, ns, name, request, response)],
    ["GET", `${pod}/log`, (request, response, [ns = "", name = ""]) => sendLog(engine, ns, name, request, response)],
    ...configRoutes("configmaps", "ConfigMap", engine.configs.configMaps),
    ...configRoutes("secrets", "Secret", engine.configs.secrets),
    ["GET", "/api/v1/events", (request, response) => eventList(undefined, request, response)],
    ["GET", "/api/v1/namespaces/:ns/events", (request, response, [ns]) => eventList(ns, request, response)],
    ["GET", "/minke/v1/stats", (request, response) => listStats(engine, runtime, request, response)],
    ["GET", "/minke/v1/images", (_request, response) => listImages(images, response)],
    ["POST", "/minke/v1/images/pull", (request, response) => pullImage(images, request, response)],
    ["POST", "/minke/v1/images/load", (request, response) => loadImages(images, request, response)],
    ...imageCareRoutes(imageCare),
    [
      "GET",
      "/minke/v1/timeline/:ns/:name",
      (_request, response, [ns = "", name = ""]) =>
        answer(response, 200, { items: engine.timeline(ns, name), warnings: engine.warnings(ns, name) }),
    ],
    ["GET", "/minke/v1/doctor", async (_request, response) => answer(response, 200, await doctor())],
    [
      "POST",
      "/minke/v1/stop",
      async (request, response) => {
        const pods = flag(request.query, "pods");
        if (pods) await engine.deleteAll();
        response.on("close", () => {
          stop({ pods }).catch((err: unknown) =>
            log.error({ message: toRuntimeError(err).message }, "the daemon could not stop"),
          );
        });
        response.setHeader("connection", "close");
        answer(response, 200, { pid: process.pid });
      },
    ],
  ];
}
