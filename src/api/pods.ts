/**
 * The pod routes: list, get, create, delete, watch and log, with Kubernetes' paths and shapes.
 */
import type { ServerResponse } from "node:http";
import { RuntimeError } from "../base/errors.js";
import type { PodEngine } from "../pod/engine.js";
import type { PodChange } from "../pod/pod-feed.js";
import { readManifest } from "../pod/manifest/read.js";
import { parseYamlDocuments } from "../pod/manifest/yaml.js";
import type { PodJson } from "../pod/status.js";
import {
  type ApiRequest,
  answer,
  clientSignal,
  count,
  flag,
  invalidRequest,
  readBody,
  readJsonObject,
  toJson,
  writeBounded,
} from "./request.js";
import { toStatusObject } from "./status-object.js";

/** A watcher that leaves this much unread is disconnected; it can list again. */
const WATCH_BACKLOG_BYTES = 4 * 1024 * 1024;
const MAX_WARNINGS = 50;

export function listPods(
  engine: PodEngine,
  namespace: string | undefined,
  request: ApiRequest,
  response: ServerResponse,
): void {
  const isSelected = selector(request.query);
  if (flag(request.query, "watch")) return watchPods(engine, namespace, isSelected, request, response);
  const items = engine.list(namespace).filter(isSelected);
  answer(response, 200, {
    kind: "PodList",
    apiVersion: "v1",
    metadata: { resourceVersion: engine.resourceVersion },
    items,
  });
}

export async function createPod(
  engine: PodEngine,
  namespace: string,
  request: ApiRequest,
  response: ServerResponse,
): Promise<void> {
  const body = await readBody(request.message);
  const documents = parseYamlDocuments(body.toString("utf8"), "request");
  const [document] = documents;
  if (documents.length !== 1) throw invalidRequest(`request body: ${documents.length} documents, and one is needed`);
  const strict = request.query.get("fieldValidation") === "Strict";
  const { pods, warnings } = readManifest([document], { source: "request", namespace, strict });
  const [pod] = pods;
  if (!pod) throw invalidRequest("request body: not a Pod");
  if (pod.metadata.namespace !== namespace) {
    throw invalidRequest(`the pod's namespace "${pod.metadata.namespace}" is not the request's "${namespace}"`);
  }
  const created = await engine.run(pod, warnings);
  const shown = warnings
    .slice(0, MAX_WARNINGS)
    .map(({ path, message }) => `299 minke ${JSON.stringify(`${path}: ${message}`.replace(/[^\x20-\x7e]/g, "?"))}`);
  if (shown.length > 0) response.setHeader("warning", shown);
  answer(response, 201, created);
}

export async function deletePod(
  engine: PodEngine,
  namespace: string,
  name: string,
  request: ApiRequest,
  response: ServerResponse,
): Promise<void> {
  const body = await readJsonObject(request.message);
  const fromBody = body.gracePeriodSeconds;
  const graceSeconds =
    count(request.query, "gracePeriodSeconds") ??
    (typeof fromBody === "number" && fromBody >= 0 ? Math.trunc(fromBody) : undefined);
  const { preconditions } = body;
  const uid =
    typeof preconditions === "object" &&
    preconditions !== null &&
    "uid" in preconditions &&
    typeof preconditions.uid === "string"
      ? preconditions.uid
      : undefined;
  answer(response, 200, await engine.delete(namespace, name, { graceSeconds, uid }));
}

export async function sendLog(
  engine: PodEngine,
  namespace: string,
  name: string,
  request: ApiRequest,
  response: ServerResponse,
): Promise<void> {
  const { query } = request;
  const sinceSeconds = count(query, "sinceSeconds");
  const sinceTime = query.get("sinceTime");
  const sinceMs =
    sinceSeconds !== undefined ? Date.now() - sinceSeconds * 1000 : sinceTime ? Date.parse(sinceTime) : undefined;
  if (Number.isNaN(sinceMs)) throw invalidRequest(`parameter sinceTime: "${sinceTime}" is not a time`);
  const log = engine.logs(namespace, name, query.get("container") ?? "", {
    follow: flag(query, "follow"),
    previous: flag(query, "previous"),
    timestamps: flag(query, "timestamps"),
    tailLines: count(query, "tailLines"),
    limitBytes: count(query, "limitBytes"),
    sinceMs,
    signal: clientSignal(response),
  });
  const chunks = log[Symbol.asyncIterator]();
  // The first piece decides between a log and an error; with follow there may be none for long.
  if (!flag(query, "follow")) {
    const first = await chunks.next();
    response.writeHead(200, { "content-type": "text/plain; charset=utf-8" });
    if (first.done) return void response.end();
    await writeBounded(response, first.value);
  } else {
    response.writeHead(200, { "content-type": "text/plain; charset=utf-8" });
    response.flushHeaders();
  }
  for (let next = await chunks.next(); !next.done; next = await chunks.next()) {
    if (!(await writeBounded(response, next.value))) {
      await chunks.return?.();
      return;
    }
  }
  response.end();
}

function watchPods(
  engine: PodEngine,
  namespace: string | undefined,
  isSelected: (pod: PodJson) => boolean,
  { query }: ApiRequest,
  response: ServerResponse,
): void {
  const version = query.get("resourceVersion");
  const send = ({ type, pod }: PodChange) => {
    if ((namespace !== undefined && pod.metadata.namespace !== namespace) || !isSelected(pod)) return;
    if (response.writableLength > WATCH_BACKLOG_BYTES) response.destroy();
    else response.write(`${toJson({ type, object: pod })}\n`);
  };
  const missed =
    version && /^\d{1,30}$/.test(version) && version !== "0"
      ? engine.changesSince(version)
      : engine.list(namespace).map((pod): PodChange => ({ type: "ADDED", pod }));
  response.writeHead(200, { "content-type": "application/json" });
  if (!missed) {
    const gone = {
      ...toStatusObject(new RuntimeError("too old resource version", { kind: "aborted", code: "INVALID_REQUEST" })),
      reason: "Expired",
      code: 410,
    };
    response.end(`${toJson({ type: "ERROR", object: gone })}\n`);
    return;
  }
  response.flushHeaders();
  for (const change of missed) send(change);
  const stop = engine.watch(send);
  const seconds = count(query, "timeoutSeconds");
  const timer = seconds === undefined ? undefined : setTimeout(() => response.end(), seconds * 1000);
  response.on("close", () => {
    clearTimeout(timer);
    stop();
  });
}

/** `fieldSelector` by name, namespace and phase; `labelSelector` with `=`, `==`, `!=` and existence. */
function selector(query: URLSearchParams): (pod: PodJson) => boolean {
  const tests: ((pod: PodJson) => boolean)[] = [];
  for (const term of (query.get("fieldSelector") ?? "").split(",").filter(Boolean)) {
    const [, field = "", operator, value = ""] = /^([^=!]+)(==|=|!=)(.*)$/.exec(term) ?? [];
    const read = FIELDS[field];
    if (!read) throw invalidRequest(`parameter fieldSelector: "${term}" is not supported`);
    tests.push((pod) => (read(pod) === value) === (operator !== "!="));
  }
  for (const term of (query.get("labelSelector") ?? "").split(",").filter(Boolean)) {
    const [, key, operator, value = ""] = /^([^=!]+)(==|=|!=)(.*)$/.exec(term) ?? [];
    if (key !== undefined) tests.push((pod) => (pod.metadata.labels?.[key] === value) === (operator !== "!="));
    else if (/^!?[\w./-]+$/.test(term))
      tests.push((pod) => (pod.metadata.labels?.[term.replace("!", "")] !== undefined) !== term.startsWith("!"));
    else throw invalidRequest(`parameter labelSelector: "${term}" is not supported`);
  }
  return (pod) => tests.every((test) => test(pod));
}

const FIELDS: Readonly<Record<string, (pod: PodJson) => string>> = {
  "metadata.name": ({ metadata }) => metadata.name,
  "metadata.namespace": ({ metadata }) => metadata.namespace,
  "metadata.uid": ({ metadata }) => metadata.uid,
  "spec.nodeName": ({ spec }) => spec.nodeName,
  "status.phase": ({ status }) => status.phase,
};
