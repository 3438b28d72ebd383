/**
 * One HTTP request to a registry endpoint: connections by TLS settings, proxies of the
 * environment, redirects, retries with back-off. The body is the caller's.
 *
 * A credential and an endpoint's headers go to the endpoint's own origin only: a redirect to
 * another host (a blob store) is followed without them.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Agent as Agents, Dispatcher } from "undici";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import { cancelled } from "./flight.js";
import { isHeaderValue } from "./header-value.js";
import { Agent, ProxyAgent } from "./http-agents.js";
import { proxyOf } from "./proxy.js";
import type { RegistryEndpoint, TlsConfig } from "./registry-endpoint.js";

const MAX_REDIRECTS = 5;
const MAX_ERROR_BODY_BYTES = 4096;
const ERROR_BODY_TIMEOUT_MS = 5000;
const CONNECTIONS_PER_HOST = 8;
const REDIRECTS: readonly number[] = [301, 302, 303, 307, 308];
/** Worth asking again: too many requests, and what a restart or a gateway answers with. */
const TRANSIENT: readonly number[] = [408, 429, 500, 502, 503, 504];

export interface TransportTimes {
  readonly connectMs: number;
  /** From the request to the first line of the answer. */
  readonly headersMs: number;
  /** A body that brings next to nothing in this time is given up: lack of progress, not length. */
  readonly stallMs: number;
  /** Before the first retry; doubled for each one after it. */
  readonly retryBaseMs: number;
  /** The longest wait, also where `Retry-After` asks for more. */
  readonly retryMaxMs: number;
  /** All in all, for one request or without progress of one body. */
  readonly attempts: number;
}

export const DEFAULT_TIMES: TransportTimes = {
  connectMs: 15_000,
  headersMs: 30_000,
  stallMs: 60_000,
  retryBaseMs: 250,
  retryMaxMs: 30_000,
  attempts: 4,
};

export interface RegistryRequest {
  readonly endpoint: RegistryEndpoint;
  readonly url: URL;
  readonly method?: "GET" | "POST" | undefined;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | undefined;
  /** For messages: `manifest "1" of host/name`. */
  readonly subject: string;
  readonly signal: AbortSignal;
  /** Replaces the transport's own number. */
  readonly attempts?: number | undefined;
}

export class RegistryTransport {
  readonly times: TransportTimes;
  readonly #dispatchers = new Map<string, Dispatcher>();

  constructor(times: Partial<TransportTimes> = {}) {
    this.times = { ...DEFAULT_TIMES, ...times };
  }

  /**
   * The answer, whatever its status, once it is none that a retry may change.
   *
   * @throws RuntimeError `unavailable` REGISTRY_UNAVAILABLE, `cancelled` CANCELLED
   */
  async send(request: RegistryRequest): Promise<Dispatcher.ResponseData> {
    const attempts = request.attempts ?? this.times.attempts;
    for (let attempt = 1; ; attempt++) {
      let waitMs: number;
      try {
        const response = await this.#follow(request);
        if (attempt >= attempts || !TRANSIENT.includes(response.statusCode)) return response;
        waitMs = retryAfterMs(header(response, "retry-after")) ?? this.#backoffMs(attempt);
        if (waitMs > this.times.retryMaxMs) return response;
        await discard(response);
      } catch (err) {
        if (attempt >= attempts || !isTransient(err)) throw err;
        waitMs = this.#backoffMs(attempt);
      }
      await this.pause(waitMs, request.signal);
    }
  }

  /** @throws RuntimeError `cancelled` CANCELLED */
  async pause(waitMs: number, signal: AbortSignal): Promise<void> {
    await sleep(waitMs, undefined, { signal }).catch(() => {
      throw cancelled(signal);
    });
  }

  /** Waits before what has failed this many times is tried again. @throws RuntimeError `cancelled` CANCELLED */
  async backOff(attempt: number, signal: AbortSignal): Promise<void> {
    await this.pause(this.#backoffMs(attempt), signal);
  }

  /** Grows with each attempt; a random part keeps clients of a restarted registry apart. */
  #backoffMs(attempt: number): number {
    const limit = Math.min(this.times.retryBaseMs * 2 ** (attempt - 1), this.times.retryMaxMs);
    return limit * (0.5 + Math.random() / 2);
  }

  async #follow({
    endpoint,
    url,
    method = "GET",
    headers,
    body,
    subject,
    signal,
  }: RegistryRequest): Promise<Dispatcher.ResponseData> {
    const { authorization: _, ...anonymous } = headers;
    const own = { ...endpoint.headers, ...headers };
    const origin = new URL(endpoint.base).origin;
    let at = url;
    for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
      if (signal.aborted) throw cancelled(signal);
      // The headers of an endpoint may hold a secret too; a token server's origin gets what it was given.
      const sent = at.origin === origin ? own : at.origin === url.origin ? headers : anonymous;
      checkHeaders(sent, subject);
      let response: Dispatcher.ResponseData;
      try {
        response = await this.#dispatcherOf(at, at.origin === origin ? endpoint.tls : undefined).request({
          origin: at.origin,
          path: at.pathname + at.search,
          method,
          headers: { "user-agent": "minke", ...sent },
          body: body ?? null,
          signal,
        });
      } catch (err) {
        throw transportError(err, `${subject} at ${at.origin}`, signal);
      }
      // undici fails a body that is given up half-read; nobody may be listening then, and an
      // "error" event without a listener would end the daemon.
      response.body.on("error", () => undefined);
      const location = header(response, "location");
      if (!REDIRECTS.includes(response.statusCode) || location === undefined) return response;
      await discard(response);
      const next = URL.canParse(location, at.href) ? new URL(location, at) : undefined;
      const isLower = at.protocol === "https:" && next?.protocol === "http:";
      if (!next || !/^https?:$/.test(next.protocol) || isLower || method !== "GET") {
        throw refused(`get ${subject}: redirect to an address that is not followed`);
      }
      at = next;
    }
    throw refused(`get ${subject}: more than ${MAX_REDIRECTS} redirects`);
  }

  #dispatcherOf(address: URL, tls: TlsConfig | undefined): Dispatcher {
    const proxy = proxyOf(address);
    const key = JSON.stringify([tls, proxy?.href]);
    const known = this.#dispatchers.get(key);
    if (known) return known;
    const secure = tls
      ? {
          ...(tls.ca ? { ca: [...tls.ca] } : {}),
          ...(tls.cert === undefined ? {} : { cert: tls.cert, key: tls.key }),
          rejectUnauthorized: !tls.skipVerify,
        }
      : {};
    const options: Agents.Options = {
      headersTimeout: this.times.headersMs,
      // For silence; the reader of the body also notices one that only trickles.
      bodyTimeout: this.times.stallMs,
      connect: { timeout: this.times.connectMs, ...secure },
      connections: CONNECTIONS_PER_HOST,
    };
    const dispatcher = proxy ? new ProxyAgent({ ...options, requestTls: secure, uri: proxy.href }) : new Agent(options);
    this.#dispatchers.set(key, dispatcher);
    return dispatcher;
  }

  async close(): Promise<void> {
    await Promise.all(Array.from(this.#dispatchers.values(), (dispatcher) => dispatcher.destroy()));
    this.#dispatchers.clear();
  }
}

/** `Retry-After` in seconds or as a date (RFC 9110 10.2.3). */
function retryAfterMs(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const ms = /^\d{1,9}$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(ms, 0);
}

export function header(response: Dispatcher.ResponseData, name: string): string | undefined {
  const value = response.headers[name];
  return Array.isArray(value) ? value.join(", ") : value;
}

/**
 * Before undici sees them: a request that it refuses leaves one of the host's connections waiting for an event
 * that never comes, and after CONNECTIONS_PER_HOST of them every other request to that host waits for ever.
 *
 * @throws RuntimeError `unavailable` REGISTRY_UNAVAILABLE; without the value, which may be a secret
 */
function checkHeaders(headers: Readonly<Record<string, string>>, subject: string): void {
  for (const [name, value] of Object.entries(headers)) {
    if (!isHeaderValue(value)) throw refused(`get ${subject}: the header "${name}" would hold what no header may`);
  }
}

/** What goes wrong on the way. A certificate that does not hold stays so; a connection may come back. */
export function transportError(err: unknown, subject: string, signal: AbortSignal): RuntimeError {
  if (err instanceof RuntimeError) return err;
  if (signal.aborted) return cancelled(signal);
  const inner = toRuntimeError(err);
  return new RuntimeError(`get ${subject}: ${inner.message || "connection failed"}`, {
    kind: "unavailable",
    code: "REGISTRY_UNAVAILABLE",
    syscall: inner.syscall,
    cause: err,
  });
}

/** A transport error that asking again may cure. */
export function isTransient(err: unknown): boolean {
  if (!(err instanceof RuntimeError) || err.code !== "REGISTRY_UNAVAILABLE" || err.cause === undefined) return false;
  const { cause } = err;
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  return !/CERT|SSL|TLS|SELF_SIGNED|UNABLE_TO/.test(code);
}

function refused(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "unavailable", code: "REGISTRY_UNAVAILABLE" });
}

/** Ends a body that nobody reads; one that does not end soon takes its connection with it. */
async function discard(response: Dispatcher.ResponseData): Promise<void> {
  await response.body
    .dump({ limit: MAX_ERROR_BODY_BYTES, signal: AbortSignal.timeout(ERROR_BODY_TIMEOUT_MS) })
    .catch(() => undefined);
}

/** The first error of the body that the distribution specification describes, in one printable line. */
export async function errorBody(response: Dispatcher.ResponseData): Promise<string> {
  let text = "";
  const tooLong = setTimeout(() => response.body.destroy(), ERROR_BODY_TIMEOUT_MS);
  try {
    for await (const chunk of response.body) {
      text += (chunk as Buffer).toString("utf8");
      if (text.length > MAX_ERROR_BODY_BYTES) break;
    }
    const first = (JSON.parse(text) as { errors?: { code?: string; message?: string }[] }).errors?.[0];
    return [first?.code, first?.message]
      .filter(Boolean)
      .join(": ")
      .replace(/[^\x20-\x7e]/g, "?")
      .slice(0, 200);
  } catch {
    return "";
  } finally {
    clearTimeout(tooLong);
  }
}
