/**
 * Client of the OCI distribution protocol (distribution-spec 1.1; Docker registry v2): manifests
 * and blobs of one registry host, over undici.
 *
 * Trusts no header: bytes are hashed here or in minke-layer. Where a host is reached, and with
 * which credential, is decided by what it is given (`endpointOf`, `authorize`), so that mirrors
 * and tokens need no change here. A credential goes to its own host only.
 */
import { createHash } from "node:crypto";
import { type Readable, Transform } from "node:stream";
import { Agent, type Dispatcher } from "undici";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { Digest } from "../base/ids.js";
import { cancelled } from "./flight.js";
import { type CheckedDescriptor, INDEX_TYPES, MANIFEST_TYPES, MAX_MANIFEST_BYTES } from "./image-documents.js";

const HEADERS_TIMEOUT_MS = 30_000;
/** Between two pieces of a body: lack of progress, not length. */
const BODY_TIMEOUT_MS = 60_000;
const CONNECT_TIMEOUT_MS = 15_000;
const MAX_REDIRECTS = 5;
const MAX_ERROR_BODY_BYTES = 4096;
const ACCEPT = [...INDEX_TYPES, ...MANIFEST_TYPES].join(", ");

export interface RegistryAccess {
  /** Base address without a trailing slash, of a registry host as references name it. */
  endpointOf(registry: string): string;
  /**
   * Value of the Authorization header for a host; called without a challenge first, and with the
   * registry's `WWW-Authenticate` after a 401. `undefined`: none.
   */
  authorize?(registry: string, repository: string, challenge: string | undefined): Promise<string | undefined>;
}

export interface FetchedManifest {
  readonly bytes: Buffer;
  readonly digest: Digest;
  /** Of the response; `undefined` where it says none that names a manifest. */
  readonly mediaType: string | undefined;
}

/** `127.0.0.0/8`, `::1` and `localhost`, with or without a port: reached over plain HTTP. */
export function isLoopbackHost(registry: string): boolean {
  const host = registry.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
  return host === "localhost" || host === "::1" || /^127(?:\.\d{1,3}){3}$/.test(host);
}

/** Endpoints by the settings' `registries`, else HTTPS, and plain HTTP on loopback. */
export function endpointsBySettings(
  registries: Readonly<Record<string, { readonly endpoint?: string | undefined }>>,
): (registry: string) => string {
  return (registry) => {
    const set = registries[registry]?.endpoint;
    if (set !== undefined) return set.replace(/\/+$/, "");
    if (registry === "docker.io") return "https://registry-1.docker.io";
    return `${isLoopbackHost(registry) ? "http" : "https"}://${registry}`;
  };
}

export class RegistryClient {
  readonly #access: RegistryAccess;
  readonly #agent: Agent;

  constructor(access: RegistryAccess) {
    this.#access = access;
    this.#agent = new Agent({
      headersTimeout: HEADERS_TIMEOUT_MS,
      bodyTimeout: BODY_TIMEOUT_MS,
      connect: { timeout: CONNECT_TIMEOUT_MS },
      connections: 8,
    });
  }

  /**
   * A manifest or index, hashed.
   *
   * @param reference tag or digest; a digest must be that of the bytes
   * @throws RuntimeError `not-found` IMAGE_NOT_FOUND, `unavailable` REGISTRY_UNAVAILABLE,
   *   `permission-denied` REGISTRY_UNAUTHORIZED, `data-loss` DIGEST_MISMATCH
   */
  async manifest(
    registry: string,
    repository: string,
    reference: string,
    signal: AbortSignal,
  ): Promise<FetchedManifest> {
    const subject = `manifest "${reference}" of ${registry}/${repository}`;
    const response = await this.#get(
      registry,
      repository,
      `manifests/${reference}`,
      { accept: ACCEPT },
      subject,
      signal,
    );
    const bytes = await this.#bytes(response.body, MAX_MANIFEST_BYTES, subject, signal);
    const digest = sha256Of(bytes);
    const claimed = header(response, "docker-content-digest");
    const expected = reference.startsWith("sha256:") ? reference : claimed?.startsWith("sha256:") ? claimed : digest;
    if (digest !== expected) throw mismatch(subject, expected, digest);
    const contentType = header(response, "content-type")?.split(";")[0]?.trim();
    const isKnown =
      contentType !== undefined && contentType !== "application/json" && contentType !== "application/octet-stream";
    return { bytes, digest, mediaType: isKnown ? contentType : undefined };
  }

  /** A small blob, hashed and of the size that its descriptor says. Errors as `manifest`. */
  async blob(registry: string, repository: string, item: CheckedDescriptor, signal: AbortSignal): Promise<Buffer> {
    const subject = `blob ${item.digest} of ${registry}/${repository}`;
    const stream = await this.blobStream(registry, repository, item, signal);
    const bytes = await this.#bytes(stream, item.size, subject, signal);
    const digest = sha256Of(bytes);
    if (digest !== item.digest) throw mismatch(subject, item.digest, digest);
    return bytes;
  }

  /**
   * The bytes of a blob, not hashed. The stream fails with `unavailable` where it ends too early
   * and with `data-loss` where it is longer than the descriptor says.
   */
  async blobStream(
    registry: string,
    repository: string,
    item: CheckedDescriptor,
    signal: AbortSignal,
  ): Promise<Readable> {
    const subject = `blob ${item.digest} of ${registry}/${repository}`;
    const response = await this.#get(registry, repository, `blobs/${item.digest}`, {}, subject, signal);
    const length = header(response, "content-length");
    if (length !== undefined && Number(length) !== item.size) {
      response.body.destroy();
      throw wrongSize(subject, item.size, `the registry offers ${length}`);
    }
    const counted = exactLength(item.size, subject);
    response.body.on("error", (err) => counted.destroy(this.#transportError(err, subject, signal)));
    counted.once("close", () => response.body.destroy());
    return response.body.pipe(counted);
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #get(
    registry: string,
    repository: string,
    path: string,
    headers: Record<string, string>,
    subject: string,
    signal: AbortSignal,
  ): Promise<Dispatcher.ResponseData> {
    const url = new URL(`${this.#access.endpointOf(registry)}/v2/${repository}/${path}`);
    let authorization = await this.#access.authorize?.(registry, repository, undefined);
    for (let isRetry = false; ; isRetry = true) {
      const response = await this.#follow(
        url,
        authorization ? { ...headers, authorization } : headers,
        subject,
        signal,
      );
      if (response.statusCode === 200) return response;
      const challenge = header(response, "www-authenticate");
      const said = await errorBody(response);
      if (response.statusCode === 401 && !isRetry && challenge !== undefined) {
        authorization = await this.#access.authorize?.(registry, repository, challenge);
        if (authorization !== undefined) continue;
      }
      throw statusError(response.statusCode, subject, url, said);
    }
  }

  /** Redirects go where the registry stores its blobs; a credential never goes along to another origin. */
  async #follow(
    url: URL,
    headers: Record<string, string>,
    subject: string,
    signal: AbortSignal,
  ): Promise<Dispatcher.ResponseData> {
    let at = url;
    for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
      const { authorization: _, ...anonymous } = headers;
      let response: Dispatcher.ResponseData;
      try {
        response = await this.#agent.request({
          origin: at.origin,
          path: at.pathname + at.search,
          method: "GET",
          headers: at.origin === url.origin ? headers : anonymous,
          signal,
        });
      } catch (err) {
        throw this.#transportError(err, `${subject} at ${at.origin}`, signal);
      }
      // undici fails a body that is given up half-read; nobody may be listening then, and an
      // "error" event without a listener would end the daemon.
      response.body.on("error", () => undefined);
      const location = header(response, "location");
      if (![301, 302, 303, 307, 308].includes(response.statusCode) || location === undefined) return response;
      await response.body.dump();
      const next = URL.canParse(location, at.href) ? new URL(location, at) : undefined;
      if (!next || !/^https?:$/.test(next.protocol) || (at.protocol === "https:" && next.protocol === "http:")) {
        throw unavailable(`get ${subject}: redirect to an address that is not followed`);
      }
      at = next;
    }
    throw unavailable(`get ${subject}: more than ${MAX_REDIRECTS} redirects`);
  }

  async #bytes(stream: Readable, capBytes: number, subject: string, signal: AbortSignal): Promise<Buffer> {
    const chunks: Buffer[] = [];
    let size = 0;
    try {
      for await (const chunk of stream) {
        size += (chunk as Buffer).length;
        if (size > capBytes) {
          throw new RuntimeError(`get ${subject}: more than the ${capBytes} bytes that are allowed`, {
            kind: "data-loss",
            code: "IMAGE_MALFORMED",
          });
        }
        chunks.push(chunk as Buffer);
      }
    } catch (err) {
      throw this.#transportError(err, subject, signal);
    }
    return Buffer.concat(chunks, size);
  }

  #transportError(err: unknown, subject: string, signal: AbortSignal): RuntimeError {
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
}

/** Passes bytes on and fails where they are not exactly as many as said. */
function exactLength(sizeBytes: number, subject: string): Transform {
  let seen = 0;
  return new Transform({
    highWaterMark: 1024 * 1024,
    transform(chunk: Buffer, _, done) {
      seen += chunk.length;
      if (seen > sizeBytes) done(wrongSize(subject, sizeBytes, "the body goes on"));
      else done(null, chunk);
    },
    flush(done) {
      done(seen < sizeBytes ? unavailable(`get ${subject}: the body ended after ${seen} of ${sizeBytes} bytes`) : null);
    },
  });
}

function header(response: Dispatcher.ResponseData, name: string): string | undefined {
  const value = response.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/** The first error of the body that the distribution specification describes, in one printable line. */
async function errorBody(response: Dispatcher.ResponseData): Promise<string> {
  let text = "";
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
  }
}

function statusError(status: number, subject: string, url: URL, said: string): RuntimeError {
  const message = `get ${subject} at ${url.origin}: HTTP ${status}${said ? ` (${said})` : ""}`;
  if (status === 404) return new RuntimeError(message, { kind: "not-found", code: "IMAGE_NOT_FOUND" });
  if (status === 401 || status === 403)
    return new RuntimeError(message, { kind: "permission-denied", code: "REGISTRY_UNAUTHORIZED" });
  return unavailable(message);
}

function unavailable(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "unavailable", code: "REGISTRY_UNAVAILABLE" });
}

function wrongSize(subject: string, sizeBytes: number, what: string): RuntimeError {
  return new RuntimeError(`get ${subject}: it must have ${sizeBytes} bytes, but ${what}`, {
    kind: "data-loss",
    code: "DIGEST_MISMATCH",
  });
}

function mismatch(subject: string, expected: string, actual: string): RuntimeError {
  return new RuntimeError(`get ${subject}: digest is ${actual}, expected ${expected}`, {
    kind: "data-loss",
    code: "DIGEST_MISMATCH",
  });
}

export function sha256Of(bytes: Buffer): Digest {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}` as Digest;
}
