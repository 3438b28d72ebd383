/**
 * exec, attach and portforward: WebSocket upgrades of the pod routes.
 */
import type { IncomingMessage, Server } from "node:http";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";
import { toRuntimeError } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { PodEngine } from "../pod/engine.js";
import {
  channelFrame,
  type ChannelSession,
  MAX_MESSAGE_BYTES,
  serveChannels,
  STREAM_PROTOCOLS,
} from "../streaming/channels.js";
import { count, flag, invalidRequest, requestUrl, toJson } from "./request.js";
import { toStatusObject } from "./status-object.js";

const ROUTE = /^\/api\/v1\/namespaces\/([^/]+)\/pods\/([^/]+)\/(exec|attach|portforward)$/;
const PORT_PROTOCOLS = ["v4.channel.k8s.io", "portforward.k8s.io"];
const MAX_PORTS = 64;

export function acceptStreams(server: Server, engine: PodEngine, log: Logger): void {
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_MESSAGE_BYTES,
    perMessageDeflate: false,
    handleProtocols: (offered, request) =>
      (isPortForward(request) ? PORT_PROTOCOLS : STREAM_PROTOCOLS).find((name) => offered.has(name)) ?? false,
  });
  server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on("error", () => socket.destroy());
    void open(sockets, engine, request, socket, head).catch((err: unknown) => {
      const status = toStatusObject(err);
      if (status.code >= 500) {
        const { kind, code, message } = toRuntimeError(err);
        log.error({ url: request.url, kind, code, message }, "stream failed");
      }
      refuse(socket, status.code, toJson(status));
    });
  });
}

const isPortForward = (request: IncomingMessage): boolean =>
  ROUTE.exec(requestUrl(request).pathname)?.[3] === "portforward";

/** The session is opened before the upgrade is answered, so that a failure is an HTTP error. */
async function open(
  sockets: WebSocketServer,
  engine: PodEngine,
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  const { pathname, searchParams: query } = requestUrl(request);
  const [, namespace, name, verb] = ROUTE.exec(pathname) ?? [];
  if (namespace === undefined || name === undefined) throw invalidRequest(`upgrade of ${pathname}: no such resource`);
  const offered = (request.headers["sec-websocket-protocol"] ?? "").split(",").map((text) => text.trim());
  const known: readonly string[] = verb === "portforward" ? PORT_PROTOCOLS : STREAM_PROTOCOLS;
  if (!offered.some((text) => known.includes(text)))
    throw invalidRequest(`upgrade of ${pathname}: the protocols offered are not supported; use ${known.join(" or ")}`);
  if (verb === "portforward") {
    const id = engine.readySandbox(namespace, name);
    const ports = parsePorts(query);
    return sockets.handleUpgrade(request, socket, head, (webSocket) => {
      void forwardPorts(webSocket, ports, (port) => engine.runtime.dialPort(id, port));
    });
  }
  const container = engine.runningContainer(namespace, name, query.get("container") ?? "");
  const selection = { stdin: flag(query, "stdin"), stdout: flag(query, "stdout"), stderr: flag(query, "stderr") };
  let session: ChannelSession;
  if (verb === "exec") {
    const command = query.getAll("command");
    if (command.length === 0) throw invalidRequest("parameter command: required");
    const [columns, rows] = [count(query, "columns"), count(query, "rows")];
    const size = columns && rows ? { columns, rows } : undefined;
    session = await engine.runtime.exec(container.id, {
      command,
      tty: flag(query, "tty"),
      stdin: selection.stdin,
      size,
    });
  } else {
    session = await engine.runtime.attach(container.id);
  }
  // The client may have gone while the process was being started.
  if (socket.destroyed) return session.close();
  sockets.handleUpgrade(request, socket, head, (webSocket) => {
    void serveChannels(webSocket, session, selection, toStatusObject);
  });
}

function parsePorts(query: URLSearchParams): number[] {
  const ports = query
    .getAll("ports")
    .flatMap((text) => text.split(","))
    .map(Number);
  if (
    ports.length === 0 ||
    ports.length > MAX_PORTS ||
    !ports.every((port) => Number.isInteger(port) && port > 0 && port < 65536)
  ) {
    throw invalidRequest(`parameter ports: 1 to ${MAX_PORTS} port numbers are needed`);
  }
  return ports;
}

/**
 * Two channels a port, data and error, each beginning with the port (kubelet portforward/websocket.go).
 * Ends when every connection has ended.
 */
async function forwardPorts(
  webSocket: WebSocket,
  ports: readonly number[],
  dial: (port: number) => Promise<Duplex>,
): Promise<void> {
  webSocket.on("error", () => webSocket.close());
  // What a client sends before its connection stands waits in the socket.
  webSocket.pause();
  const connections = await Promise.all(ports.map((port, index) => openPort(webSocket, index, port, dial)));
  const open = connections.filter((connection) => connection !== undefined);
  webSocket.on("close", () => open.forEach((connection) => connection.destroy()));
  webSocket.on("message", (message: Buffer) => {
    const connection = connections[(message[0] ?? 0) / 2];
    if (!connection || connection.write(message.subarray(1))) return;
    webSocket.pause();
    const resume = () => webSocket.resume();
    connection.once("drain", resume);
    connection.once("close", resume);
  });
  webSocket.resume();
  await Promise.all(
    connections.map(async (connection, index) => {
      if (connection) await copyOut(webSocket, index * 2, connection);
    }),
  );
  webSocket.close(1000);
}

async function openPort(
  webSocket: WebSocket,
  index: number,
  port: number,
  dial: (port: number) => Promise<Duplex>,
): Promise<Duplex | undefined> {
  const prefix = Buffer.from([port & 0xff, port >> 8]);
  await sendOn(webSocket, index * 2, prefix);
  await sendOn(webSocket, index * 2 + 1, prefix);
  try {
    const connection = await dial(port);
    connection.on("error", () => connection.destroy());
    return connection;
  } catch (err) {
    await sendOn(webSocket, index * 2 + 1, Buffer.from(toRuntimeError(err).message));
    return undefined;
  }
}

async function copyOut(webSocket: WebSocket, channel: number, connection: Duplex): Promise<void> {
  try {
    for await (const chunk of connection) await sendOn(webSocket, channel, chunk as Buffer);
  } catch {
    // A connection that breaks has ended: the protocol has no other word for it.
  }
}

function sendOn(webSocket: WebSocket, channel: number, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    if (webSocket.readyState !== webSocket.OPEN) return resolve();
    webSocket.send(channelFrame(channel, bytes), () => resolve());
  });
}

function refuse(socket: Duplex, code: number, body: string): void {
  if (socket.destroyed) return;
  socket.end(
    `HTTP/1.1 ${code} Refused\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}
