/**
 * What a probe or a lifecycle hook does once: run a command in the container, or ask one of its ports.
 *
 * Ports are asked from the host at the pod's address, so an image needs no tool for it
 * (Kubernetes, "Configure Liveness, Readiness and Startup Probes").
 */
import { Agent as HttpAgent, request as httpRequest } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { createConnection } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { ContainerId } from "../base/ids.js";
import type { Runtime } from "../runtime/runtime.js";
import { askHealth } from "./grpc-health.js";
import type { Container } from "./manifest/defaults.js";
import type { Hook, Probe } from "./manifest/schema.js";
import { actionPort } from "./manifest/validate-actions.js";

export interface ActionTarget {
  readonly runtime: Runtime;
  readonly container: Container;
  readonly containerId: ContainerId;
  /** Where the container's ports are. */
  readonly podIp: string;
}

export interface ActionResult {
  readonly isOk: boolean;
  /** What was seen, for an event: bounded. */
  readonly message: string;
}

/** As much of an answer as an event shows. */
const MESSAGE_LIMIT_BYTES = 1024;

/** Does it. Never rejects: what goes wrong is the result. */
export async function runAction(action: Probe | Hook, target: ActionTarget, timeoutMs: number): Promise<ActionResult> {
  try {
    if (action.exec) return await runExec(action.exec.command, target, timeoutMs);
    if (action.httpGet) return await getHttp(action.httpGet, target, timeoutMs);
    if (action.tcpSocket) return await connectTcp(action.tcpSocket, target, timeoutMs);
    if ("grpc" in action && action.grpc) {
      return await askHealth(hostPort(target.podIp, action.grpc.port), action.grpc.service ?? "", timeoutMs);
    }
    if ("sleep" in action && action.sleep) await sleep(Math.min(action.sleep.seconds * 1000, timeoutMs));
    return { isOk: true, message: "" };
  } catch (err) {
    return { isOk: false, message: bounded(toRuntimeError(err).message) };
  }
}

async function runExec(command: readonly string[], target: ActionTarget, timeoutMs: number): Promise<ActionResult> {
  const { exitCode, stdout, stderr } = await target.runtime.execSync(target.containerId, command, timeoutMs);
  const output = bounded(Buffer.concat([stdout, stderr]).toString("utf8"));
  return { isOk: exitCode === 0, message: output || `the command ended with exit code ${exitCode}` };
}

async function getHttp(
  get: NonNullable<Probe["httpGet"]>,
  target: ActionTarget,
  timeoutMs: number,
): Promise<ActionResult> {
  const port = actionPort(target.container, get.port);
  const isHttps = get.scheme === "HTTPS";
  const headers: Record<string, string> = { "user-agent": "minke-probe", accept: "*/*" };
  for (const { name, value } of get.httpHeaders ?? []) headers[name.toLowerCase()] = value;
  // A probe that is late counts as failed, whatever step it hangs in.
  const signal = AbortSignal.timeout(timeoutMs);
  const path = (get.path ?? "/").startsWith("/") ? (get.path ?? "/") : `/${get.path}`;
  const options = { host: get.host ?? target.podIp, port, path, headers, signal };
  try {
    return await new Promise<ActionResult>((resolve, reject) => {
      // No certificate of a pod is one that the host would trust (kubelet prober/http).
      const request = isHttps
        ? httpsRequest({ ...options, agent: new HttpsAgent({ keepAlive: false }), rejectUnauthorized: false })
        : httpRequest({ ...options, agent: new HttpAgent({ keepAlive: false }) });
      request.once("response", (response) => {
        const status = response.statusCode ?? 0;
        response.destroy();
        resolve({ isOk: status >= 200 && status < 400, message: `HTTP probe failed with statuscode: ${status}` });
      });
      request.once("error", reject);
      request.end();
    });
  } catch (err) {
    throw signal.aborted ? late(timeoutMs) : err;
  }
}

async function connectTcp(
  { port, host }: NonNullable<Probe["tcpSocket"]>,
  target: ActionTarget,
  timeoutMs: number,
): Promise<ActionResult> {
  const socket = createConnection({
    host: host ?? target.podIp,
    port: actionPort(target.container, port) ?? 0,
    timeout: timeoutMs,
  });
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
      socket.once("timeout", () => reject(late(timeoutMs)));
    });
    return { isOk: true, message: "" };
  } finally {
    socket.destroy();
  }
}

const hostPort = (ip: string, port: number): string => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);

function late(timeoutMs: number): RuntimeError {
  return new RuntimeError(`no answer within ${timeoutMs / 1000} s`, {
    kind: "deadline-exceeded",
    code: "EXEC_TIMEOUT",
  });
}

function bounded(text: string): string {
  return Buffer.from(text).subarray(0, MESSAGE_LIMIT_BYTES).toString("utf8").trim();
}
