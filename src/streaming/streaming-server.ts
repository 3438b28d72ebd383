/**
 * The HTTP server behind the URLs that Exec, Attach and PortForward answer with: each URL serves one
 * session, once, within a minute, over SPDY/3.1 or WebSocket as the client asks.
 *
 * The token of a URL is the only credential, so it is random, short-lived and used up by the
 * first request for it. Knows no container: what a session does is given with it.
 */
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { createWebSocketStream, WebSocketServer } from "ws";
import { RuntimeError, withContext } from "../base/errors.js";
import {
  type ChannelSelection,
  type ChannelSession,
  MAX_MESSAGE_BYTES,
  serveChannels,
  STREAM_PROTOCOLS,
} from "./channels.js";
import { PORT_FORWARD_PROTOCOL, type PortForward, PortForwardStreams, servePortForward } from "./port-forward.js";
import {
  REMOTE_COMMAND_PROTOCOLS,
  type RemoteCommandProtocol,
  RemoteCommandStreams,
  serveRemoteCommand,
} from "./remote-command.js";
import { SpdyConnection } from "./spdy/connection.js";

const TOKEN_LIFETIME_MS = 60_000;
const MAX_WAITING = 1000;
/** Of a connection without a byte in either direction (kubelet, "streamingConnectionIdleTimeout"). */
const IDLE_MS = 4 * 60 * 60_000;

/** Before a session is open: to say what is asked for, and to take a refusal. */
const REQUEST_MS = 10_000;

/** SPDY within WebSocket messages (KEP-4006, port-forward). */
const TUNNEL_PROTOCOL = `SPDY/3.1+${PORT_FORWARD_PROTOCOL}`;

/** An exec or attach that waits for its client. */
export interface CommandSession {
  readonly kind: "exec" | "attach";
  readonly selection: ChannelSelection;
  readonly tty: boolean;
  open(): Promise<ChannelSession>;
}

export interface PortForwardSession extends PortForward {
  readonly kind: "portforward";
}

export type StreamingSession = CommandSession | PortForwardSession;

export interface StreamingServerOptions {
  /** An IP address; loopback unless somebody beyond this machine must reach it. */
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  /** Files; without it the streams, and the tokens that open them, are not encrypted. */
  readonly tls?: StreamingTls | undefined;
  /** Before a connection must have asked for a session. Default: 10 s. */
  readonly requestMs?: number | undefined;
  /** A failure as a Kubernetes `Status` object, for the client. */
  readonly failure: (err: unknown) => { readonly message?: string };
}

/** PEM files, absolute paths. */
export interface StreamingTls {
  readonly certificate: string;
  readonly key: string;
  /** Who signs clients' certificates; with it a client must have one. */
  readonly clientCa?: string | undefined;
}

export class StreamingServer {
  readonly #options: StreamingServerOptions;
  readonly #server: Server;
  readonly #waiting = new Map<string, { readonly session: StreamingSession; readonly timer: NodeJS.Timeout }>();
  readonly #open = new Set<Duplex>();
  readonly #channels = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_MESSAGE_BYTES,
    perMessageDeflate: false,
    handleProtocols: (offered) => STREAM_PROTOCOLS.find((name) => offered.has(name)) ?? false,
  });
  readonly #tunnels = new WebSocketServer({ noServer: true, maxPayload: MAX_MESSAGE_BYTES, perMessageDeflate: false });

  private constructor(options: StreamingServerOptions, tls: TlsFiles | undefined) {
    this.#options = options;
    const { requestMs = REQUEST_MS } = options;
    const times = {
      headersTimeout: requestMs,
      requestTimeout: requestMs,
      connectionsCheckingInterval: Math.min(requestMs, 1000),
    };
    const answer = (request: IncomingMessage, response: ServerResponse) => {
      // A body, of any length, means nothing here: nobody waits for its end.
      response.once("finish", () => setTimeout(() => request.socket.destroy(), 1000).unref());
      response.writeHead(this.#take(request) ? 400 : 404, { "content-type": "text/plain", connection: "close" });
      response.end("this address serves one session, over SPDY/3.1 or WebSocket\n");
    };
    this.#server = tls
      ? createTlsServer({ ...times, ...tls, handshakeTimeout: requestMs, minVersion: "TLSv1.2" }, answer)
      : createServer(times, answer);
    this.#server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) =>
      this.#upgrade(request, socket, head),
    );
    this.#tunnels.on("headers", (headers) => headers.push(`Sec-WebSocket-Protocol: ${TUNNEL_PROTOCOL}`));
  }

  /** @throws RuntimeError `internal` with the errno, where the address cannot be listened on or a file not be read */
  static async listen(options: StreamingServerOptions): Promise<StreamingServer> {
    const streaming = new StreamingServer(options, options.tls && (await readTls(options.tls)));
    await new Promise<void>((resolve, reject) => {
      streaming.#server.once("error", (err) =>
        reject(withContext(err, `listen for streams on ${options.host}:${options.port}`)),
      );
      streaming.#server.listen(options.port, options.host, resolve);
    });
    return streaming;
  }

  /** Sessions that are open now. */
  get openCount(): number {
    return this.#open.size;
  }

  /**
   * The URL at which a client finds this session: once, and for a minute.
   *
   * @throws RuntimeError `resource-exhausted` TOO_MANY_SESSIONS: a thousand wait already
   */
  offer(session: StreamingSession): string {
    if (this.#waiting.size >= MAX_WAITING) {
      throw new RuntimeError(`${MAX_WAITING} streaming sessions wait for their clients`, {
        kind: "resource-exhausted",
        code: "TOO_MANY_SESSIONS",
      });
    }
    const token = randomBytes(24).toString("base64url");
    const timer = setTimeout(() => this.#waiting.delete(token), TOKEN_LIFETIME_MS);
    timer.unref();
    this.#waiting.set(token, { session, timer });
    const { address, family, port } = this.#server.address() as AddressInfo;
    const host = family === "IPv6" ? `[${address}]` : address;
    return `${this.#options.tls ? "https" : "http"}://${host}:${port}/${session.kind}/${token}`;
  }

  /** Ends all sessions. */
  async close(): Promise<void> {
    for (const { timer } of this.#waiting.values()) clearTimeout(timer);
    this.#waiting.clear();
    for (const socket of this.#open) socket.destroy();
    this.#channels.close();
    this.#tunnels.close();
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
      this.#server.closeAllConnections();
    });
  }

  /** The session of a request, which is used up by it. */
  #take(request: IncomingMessage): StreamingSession | undefined {
    const [, kind, token, ...rest] = (request.url ?? "").split("?", 1)[0]?.split("/") ?? [];
    const waiting = token === undefined || rest.length > 0 ? undefined : this.#waiting.get(token);
    if (!waiting || token === undefined || waiting.session.kind !== kind) return undefined;
    clearTimeout(waiting.timer);
    this.#waiting.delete(token);
    return waiting.session;
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on("error", () => undefined);
    const session = this.#take(request);
    if (!session)
      return refuse(socket, 404, "no session waits at this address: each serves one client, within a minute\n");
    this.#open.add(socket);
    socket.once("close", () => this.#open.delete(socket));
    if ("setTimeout" in socket && typeof socket.setTimeout === "function")
      socket.setTimeout(IDLE_MS, () => socket.destroy());
    const upgrade = request.headers.upgrade?.toLowerCase();
    if (upgrade === "spdy/3.1") this.#serveSpdy(request, socket, head, session);
    else if (upgrade === "websocket") this.#serveWebSocket(request, socket, head, session);
    else refuse(socket, 400, "upgrade to SPDY/3.1 or websocket\n");
  }

  #serveSpdy(request: IncomingMessage, socket: Duplex, head: Buffer, session: StreamingSession): void {
    const offered = String(request.headers["x-stream-protocol-version"] ?? "")
      .split(",")
      .map((name) => name.trim());
    const known: readonly string[] =
      session.kind === "portforward" ? [PORT_FORWARD_PROTOCOL] : REMOTE_COMMAND_PROTOCOLS;
    const protocol = known.find((name) => offered.includes(name));
    if (protocol === undefined) {
      const accepted = known.map((name) => `X-Accepted-Stream-Protocol-Versions: ${name}\r\n`).join("");
      return refuse(
        socket,
        403,
        `none of the protocols "${offered.join(", ")}" is known; known are ${known.join(", ")}\n`,
        accepted,
      );
    }
    socket.write(
      `HTTP/1.1 101 ${STATUS_CODES[101]}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: ${protocol}\r\n\r\n`,
    );
    if (session.kind === "portforward") return servePorts(socket, head, session);
    const command = {
      ...session,
      open: () => session.open(),
      protocol: protocol as RemoteCommandProtocol,
      failure: this.#options.failure,
    };
    const streams = new RemoteCommandStreams(command);
    const connection = new SpdyConnection(socket, head, { onStream: (stream) => streams.take(stream) });
    void serveRemoteCommand(connection, streams, command);
  }

  #serveWebSocket(request: IncomingMessage, socket: Duplex, head: Buffer, session: StreamingSession): void {
    const offered = (request.headers["sec-websocket-protocol"] ?? "").split(",").map((name) => name.trim());
    if (session.kind === "portforward") {
      if (!offered.includes(TUNNEL_PROTOCOL))
        return refuse(socket, 403, `the WebSocket protocol must be ${TUNNEL_PROTOCOL}\n`);
      // The name holds a slash, which RFC 6455 does not allow and ws refuses; it is answered by hand.
      delete request.headers["sec-websocket-protocol"];
      this.#tunnels.handleUpgrade(request, socket, head, (webSocket) =>
        servePorts(createWebSocketStream(webSocket), Buffer.alloc(0), session),
      );
      return;
    }
    if (!STREAM_PROTOCOLS.some((name) => offered.includes(name))) {
      return refuse(socket, 403, `the WebSocket protocol must be one of ${STREAM_PROTOCOLS.join(", ")}\n`);
    }
    this.#channels.handleUpgrade(request, socket, head, (webSocket) => {
      const { failure } = this.#options;
      // The client may speak first: nothing is read until somebody listens.
      webSocket.pause();
      session.open().then(
        (opened) => {
          webSocket.resume();
          void serveChannels(webSocket, opened, session.selection, failure);
        },
        (err: unknown) => {
          const status = Buffer.concat([Buffer.from([3]), Buffer.from(JSON.stringify(failure(err)))]);
          webSocket.resume();
          webSocket.send(status, () => webSocket.close(1000));
        },
      );
    });
  }
}

interface TlsFiles {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca?: Buffer;
  readonly requestCert?: boolean;
}

async function readTls({ certificate, key, clientCa }: StreamingTls): Promise<TlsFiles> {
  const read = (path: string) =>
    readFile(path).catch((err: unknown) => {
      throw withContext(err, `read "${path}" for the streaming server`);
    });
  return {
    cert: await read(certificate),
    key: await read(key),
    ...(clientCa !== undefined && { ca: await read(clientCa), requestCert: true }),
  };
}

function servePorts(socket: Duplex, head: Buffer, session: PortForwardSession): void {
  const streams = new PortForwardStreams(session);
  const connection = new SpdyConnection(socket, head, { onStream: (stream) => streams.take(stream) });
  void servePortForward(connection, streams);
}

function refuse(socket: Duplex, status: number, text: string, headers = ""): void {
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: ${Buffer.byteLength(text)}\r\n${headers}\r\n${text}`,
  );
  // A client that sends on, or never closes, must not hold the connection.
  socket.resume();
  setTimeout(() => socket.destroy(), 1000).unref();
}
