/**
 * Client of the OCI distribution protocol (distribution-spec 1.1; Docker registry v2): manifests
 * and blobs of one repository, over the endpoints of its registry.
 *
 * Trusts no header: bytes are hashed here or in minke-layer. Mirrors are asked first, and what
 * goes wrong there is no failure as long as a later endpoint answers. Which endpoints there are is
 * registry-endpoints.ts's, which credential credentials.ts's; both are told to `onStep`, without secrets.
 */
import { createHash } from "node:crypto";
import type { Readable } from "node:stream";
import type { Dispatcher } from "undici";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { Digest } from "../base/ids.js";
import { type AuthConfig, credentialOf, credentialOfDockerConfig, type RegistryCredential } from "./credentials.js";
import { type CheckedDescriptor, INDEX_TYPES, MANIFEST_TYPES, MAX_MANIFEST_BYTES } from "./image-documents.js";
import { proxyHostOf } from "./proxy.js";
import { RegistryAuth, type TokenTransport } from "./registry-auth.js";
import { openBlob, readBody } from "./registry-body.js";
import { endpoint, type RegistryEndpoint } from "./registry-endpoint.js";
import { endpointsOf, type RegistrySettingsByHost } from "./registry-endpoints.js";
import { errorBody, header, isTransient, RegistryTransport, type TransportTimes } from "./registry-transport.js";
import { wasResumed } from "./resumed-streams.js";

const MAX_TOKEN_BYTES = 1024 * 1024;
const ACCEPT = [...INDEX_TYPES, ...MANIFEST_TYPES].join(", ");

export interface RegistryOptions {
  readonly registries?: RegistrySettingsByHost | undefined;
  /** containerd's `certs.d`. */
  readonly registryConfigPath?: string | undefined;
  /** Docker's config.json. */
  readonly dockerConfigPath?: string | undefined;
  readonly times?: Partial<TransportTimes> | undefined;
}

export interface FetchedManifest {
  readonly bytes: Buffer;
  readonly digest: Digest;
  /** Of the response; `undefined` where it says none that names a manifest. */
  readonly mediaType: string | undefined;
}

/** One endpoint of a pull, as `minke pull --explain` shows it. Holds no secret. */
export interface PlannedEndpoint {
  readonly address: string;
  readonly role: "mirror" | "registry";
  readonly reason: string;
  readonly tls: string;
  /** Host of the proxy, or `""`. */
  readonly proxy: string;
  /** Source of the credential, or why there is none. */
  readonly credential: string;
}

/** A request that was made, and how it ended. */
export interface RegistryStep {
  readonly address: string;
  readonly subject: string;
  readonly outcome: string;
}

export interface RepositoryOptions {
  /** For the registry of the reference alone, never for a mirror of another host. */
  readonly auth?: AuthConfig | undefined;
  readonly onStep?: ((step: RegistryStep) => void) | undefined;
}

interface Reached {
  readonly endpoint: RegistryEndpoint;
  readonly credential: RegistryCredential | undefined;
}

export class RegistryClient {
  readonly #options: RegistryOptions;
  readonly #transport: RegistryTransport;
  readonly #auth = new RegistryAuth();

  constructor(options: RegistryOptions = {}) {
    this.#options = options;
    this.#transport = new RegistryTransport(options.times);
  }

  /**
   * A repository, with its endpoints and their credentials as they are configured now.
   *
   * @throws RuntimeError `invalid-argument` SETTINGS_INVALID, DOCKER_CONFIG_INVALID or
   *   INVALID_CREDENTIAL; `unavailable` CREDENTIAL_HELPER_FAILED
   */
  async repository(registry: string, repository: string, options: RepositoryOptions = {}): Promise<Repository> {
    const { registries = {}, registryConfigPath, dockerConfigPath } = this.#options;
    const endpoints = await endpointsOf(registry, registries, registryConfigPath);
    const given = options.auth && credentialOf(options.auth, registry, "the caller");
    const reached: Reached[] = [];
    for (const endpoint of endpoints) {
      // The registry's own endpoint may have another address by configuration; it is that registry still.
      const host = endpoint.isMirror ? endpoint.host : registry;
      const isOwn = !endpoint.isMirror || endpoint.host === registry;
      const stored =
        (isOwn && given) || dockerConfigPath === undefined
          ? undefined
          : await credentialOfDockerConfig(dockerConfigPath, host, repository);
      reached.push({ endpoint, credential: (isOwn ? given : undefined) ?? stored });
    }
    return new Repository(registry, repository, reached, this.#transport, this.#auth, options.onStep);
  }

  async close(): Promise<void> {
    await this.#transport.close();
  }
}

/** A manifest or blob request, for all endpoints alike. */
interface Wanted {
  /** `manifests/1`, `blobs/sha256:…` */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly subject: string;
  /** A tag: endpoints that may not resolve are left out. */
  readonly needsResolve: boolean;
}

export class Repository {
  readonly #registry: string;
  readonly #name: string;
  readonly #reached: readonly Reached[];
  readonly #transport: RegistryTransport;
  readonly #auth: RegistryAuth;
  readonly #onStep: (step: RegistryStep) => void;

  /** @param reached in the order in which they are asked; the last one's failure counts */
  constructor(
    registry: string,
    name: string,
    reached: readonly Reached[],
    transport: RegistryTransport,
    auth: RegistryAuth,
    onStep: ((step: RegistryStep) => void) | undefined,
  ) {
    this.#registry = registry;
    this.#name = name;
    this.#reached = reached;
    this.#transport = transport;
    this.#auth = auth;
    this.#onStep = onStep ?? (() => undefined);
  }

  plan(): PlannedEndpoint[] {
    return this.#reached.map(({ endpoint, credential }) => ({
      address: endpoint.base,
      role: endpoint.isMirror ? "mirror" : "registry",
      reason: endpoint.canResolve ? endpoint.reason : `${endpoint.reason}; for digests only`,
      tls: describeTls(endpoint),
      proxy: proxyHostOf(endpoint.base),
      credential: credential
        ? `${kindOf(credential)} of ${credential.source}`
        : "none: nothing is configured for this host",
    }));
  }

  /**
   * A manifest or index, hashed.
   *
   * @param reference tag or digest; a digest must be that of the bytes
   * @throws RuntimeError `not-found` IMAGE_NOT_FOUND, `unavailable` REGISTRY_UNAVAILABLE,
   *   `permission-denied` REGISTRY_UNAUTHORIZED, `data-loss` DIGEST_MISMATCH
   */
  async manifest(reference: string, signal: AbortSignal): Promise<FetchedManifest> {
    const isDigest = reference.startsWith("sha256:");
    const subject = `manifest "${reference}" of ${this.#registry}/${this.#name}`;
    const wanted: Wanted = {
      path: `manifests/${reference}`,
      headers: { accept: ACCEPT },
      subject,
      needsResolve: !isDigest,
    };
    return this.#first(wanted, signal, async (reached) => {
      const { response, bytes } = await this.#getSmall(reached, wanted, signal);
      const digest = sha256Of(bytes);
      const claimed = header(response, "docker-content-digest");
      const expected = isDigest ? reference : claimed?.startsWith("sha256:") ? claimed : digest;
      if (digest !== expected) throw mismatch(subject, expected, digest);
      const contentType = header(response, "content-type")?.split(";")[0]?.trim();
      const isKnown =
        contentType !== undefined && contentType !== "application/json" && contentType !== "application/octet-stream";
      return { bytes, digest, mediaType: isKnown ? contentType : undefined };
    });
  }

  /** An answer with its whole body, which is asked for again where it breaks off. */
  async #getSmall(
    reached: Reached,
    wanted: Wanted,
    signal: AbortSignal,
  ): Promise<{ readonly response: Dispatcher.ResponseData; readonly bytes: Buffer }> {
    const { times } = this.#transport;
    const attempts = reached.endpoint.isMirror ? 1 : times.attempts;
    for (let attempt = 1; ; attempt++) {
      const response = await this.#get(reached, wanted, signal);
      try {
        return { response, bytes: await readBody(response, MAX_MANIFEST_BYTES, times.stallMs, wanted.subject, signal) };
      } catch (err) {
        if (attempt >= attempts || signal.aborted || !isTransient(err)) throw err;
      }
      await this.#transport.backOff(attempt, signal);
    }
  }

  /** A small blob, hashed and of the size that its descriptor says. Errors as `manifest`. */
  async blob(item: CheckedDescriptor, signal: AbortSignal): Promise<Buffer> {
    for (let isLast = false; ; isLast = true) {
      const stream = await this.blobStream(item, signal);
      const pieces: Buffer[] = [];
      for await (const piece of stream) pieces.push(piece as Buffer);
      const bytes = Buffer.concat(pieces);
      const digest = sha256Of(bytes);
      if (digest === item.digest) return bytes;
      // Parts of several answers prove nothing of the blob: once more, whole.
      if (isLast || !wasResumed(stream)) throw mismatch(this.#subjectOf(item), item.digest, digest);
    }
  }

  /** The bytes of a blob, not hashed, as many as the descriptor says; see `openBlob`. */
  async blobStream(item: CheckedDescriptor, signal: AbortSignal): Promise<Readable> {
    const subject = this.#subjectOf(item);
    const wanted: Wanted = { path: `blobs/${item.digest}`, headers: {}, subject, needsResolve: false };
    return this.#first(wanted, signal, (reached) =>
      openBlob({
        sizeBytes: item.size,
        subject,
        transport: this.#transport,
        signal,
        open: (offsetBytes, inner) => {
          const range: Record<string, string> = offsetBytes > 0 ? { range: `bytes=${offsetBytes}-` } : {};
          return this.#get(reached, { ...wanted, headers: range }, inner);
        },
      }),
    );
  }

  /**
   * A layer that its descriptor says to be elsewhere: of the registry where that has it, else from
   * the addresses of the descriptor, in their order, without any credential (CVE-2020-15157).
   */
  async foreignStream(item: CheckedDescriptor, signal: AbortSignal): Promise<Readable> {
    try {
      return await this.blobStream(item, signal);
    } catch (err) {
      if (toRuntimeError(err).code !== "IMAGE_NOT_FOUND") throw err;
    }
    const subject = `${this.#subjectOf(item)} from a foreign address`;
    const open = async (address: string, offsetBytes: number, inner: AbortSignal) => {
      const headers: Record<string, string> = offsetBytes > 0 ? { range: `bytes=${offsetBytes}-` } : {};
      const at = endpoint(new URL(address).origin, { reason: "foreign layer" });
      const response = await this.#transport.send({
        endpoint: at,
        url: new URL(address),
        headers,
        subject,
        signal: inner,
      });
      if (response.statusCode === 200 || (response.statusCode === 206 && offsetBytes > 0)) return response;
      await errorBody(response);
      throw statusError(response.statusCode, subject, new URL(address), "", undefined);
    };
    const addresses = (item.urls ?? []).filter((url) => URL.canParse(url) && /^https?:$/.test(new URL(url).protocol));
    let failure: unknown = new RuntimeError(`get ${subject}: it names none`, {
      kind: "not-found",
      code: "IMAGE_NOT_FOUND",
    });
    for (const address of addresses) {
      try {
        const facts = { sizeBytes: item.size, subject, transport: this.#transport, signal };
        return await openBlob({ ...facts, open: (offsetBytes, inner) => open(address, offsetBytes, inner) });
      } catch (err) {
        if (signal.aborted) throw err;
        failure = err;
      }
    }
    throw failure;
  }

  #subjectOf(item: CheckedDescriptor): string {
    return `blob ${item.digest} of ${this.#registry}/${this.#name}`;
  }

  /** The first endpoint that has it. The failure of the last one is thrown, with those of the mirrors. */
  async #first<T>(wanted: Wanted, signal: AbortSignal, ask: (reached: Reached) => Promise<T>): Promise<T> {
    const usable = this.#reached.filter(({ endpoint }) => endpoint.canResolve || !wanted.needsResolve);
    const failures: string[] = [];
    for (const [i, reached] of usable.entries()) {
      const address = reached.endpoint.base;
      try {
        const result = await ask(reached);
        this.#onStep({ address, subject: wanted.subject, outcome: "found" });
        return result;
      } catch (err) {
        const failure = toRuntimeError(err);
        this.#onStep({ address, subject: wanted.subject, outcome: failure.message });
        if (signal.aborted) throw failure;
        if (i < usable.length - 1) {
          failures.push(`${reached.endpoint.host}: ${failure.code}`);
          continue;
        }
        if (failures.length === 0) throw failure;
        const { kind, code, syscall } = failure;
        const message = `${failure.message} (before that, ${failures.join(", ")})`;
        throw new RuntimeError(message, { kind, code, syscall, cause: err });
      }
    }
    throw new RuntimeError(`get ${wanted.subject}: no endpoint of ${this.#registry} may resolve tags`, {
      kind: "unavailable",
      code: "REGISTRY_UNAVAILABLE",
    });
  }

  /** An answer of status 200 or 206, after at most one round of authorization. */
  async #get(reached: Reached, wanted: Wanted, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    const { endpoint, credential } = reached;
    const { subject } = wanted;
    const url = new URL(`${endpoint.base}/${this.#name}/${wanted.path}`);
    // containerd's way of telling a mirror of several registries which one is meant.
    if (endpoint.isMirror) url.searchParams.set("ns", this.#registry);
    // A mirror that is down is no reason to wait: the next endpoint is at hand.
    const attempts = endpoint.isMirror ? 1 : undefined;
    const tokens = this.#tokenTransport(endpoint, signal);
    let authorization = await this.#auth.known(endpoint, this.#name, credential, tokens);
    for (let isAnswered = false; ; isAnswered = true) {
      const headers = authorization === undefined ? wanted.headers : { ...wanted.headers, authorization };
      const response = await this.#transport.send({ endpoint, url, headers, subject, signal, attempts });
      if (response.statusCode === 200 || (response.statusCode === 206 && "range" in wanted.headers)) return response;
      const challenge = header(response, "www-authenticate");
      const said = await errorBody(response);
      if (response.statusCode === 401 && !isAnswered && challenge !== undefined) {
        const answer = await this.#auth.answer(challenge, endpoint, this.#name, credential, authorization, tokens);
        if (answer !== undefined) {
          authorization = answer;
          continue;
        }
      }
      throw statusError(response.statusCode, subject, url, said, credential);
    }
  }

  #tokenTransport(endpoint: RegistryEndpoint, signal: AbortSignal): TokenTransport {
    return async ({ url, method, headers, body }) => {
      const subject = `token of ${url.origin}`;
      const response = await this.#transport.send({ endpoint, url, method, headers, body, subject, signal });
      const bytes = await readBody(response, MAX_TOKEN_BYTES, this.#transport.times.stallMs, subject, signal);
      return { status: response.statusCode, body: bytes.toString("utf8") };
    };
  }
}

function describeTls({ base, tls }: RegistryEndpoint): string {
  if (base.startsWith("http:")) return "plain HTTP";
  if (!tls) return "TLS by the machine's certificate authorities";
  const trust = tls.skipVerify ? "TLS without verification" : tls.ca ? "TLS by configured authorities" : "TLS";
  return tls.cert === undefined ? trust : `${trust}, with a client certificate`;
}

function kindOf({ registryToken, identityToken, username }: RegistryCredential): string {
  return registryToken ? "registry token" : identityToken ? "identity token" : `password of user "${username}"`;
}

function statusError(
  status: number,
  subject: string,
  url: URL,
  said: string,
  credential: RegistryCredential | undefined,
): RuntimeError {
  const message = `get ${subject} at ${url.origin}: HTTP ${status}${said ? ` (${said})` : ""}`;
  if (status === 404) return new RuntimeError(message, { kind: "not-found", code: "IMAGE_NOT_FOUND" });
  if (status === 401 || status === 403) {
    const tried = credential ? `with the credential of ${credential.source}` : "without a credential";
    return new RuntimeError(`${message}, ${tried}`, { kind: "permission-denied", code: "REGISTRY_UNAUTHORIZED" });
  }
  return new RuntimeError(message, { kind: "unavailable", code: "REGISTRY_UNAVAILABLE" });
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
