/**
 * Answers to a registry's `WWW-Authenticate`: basic credentials, or a bearer token from the token
 * server that the registry names (distribution, docs/spec/auth/token.md and oauth.md).
 *
 * Tokens are kept in memory only, by realm, service, scope and credential, until shortly before they
 * expire. Knows no retries and no redirects: `TokenTransport` does the request.
 */
import { createHash } from "node:crypto";
import { z } from "zod";
import { RuntimeError } from "../base/errors.js";
import type { RegistryCredential } from "./credentials.js";
import type { RegistryEndpoint } from "./registry-endpoint.js";

/** token.md: "if omitted, this defaults to 60 seconds". */
const DEFAULT_EXPIRES_S = 60;
/** A token is not used in its last moments: the request must still arrive. */
const EXPIRY_MARGIN_MS = 5000;
const MAX_KEPT_TOKENS = 1000;
const CLIENT_ID = "minke";

export interface Challenge {
  readonly scheme: "basic" | "bearer";
  readonly realm: string;
  readonly service: string;
  readonly scope: string;
}

export interface TokenResponse {
  readonly status: number;
  readonly body: string;
}

/** Sends one request to a token server over the connection settings of an endpoint. */
export type TokenTransport = (request: {
  readonly url: URL;
  readonly method: "GET" | "POST";
  readonly headers: Record<string, string>;
  readonly body?: string;
}) => Promise<TokenResponse>;

/**
 * Schemes of a `WWW-Authenticate` header that are understood, as RFC 9110 11.6.1 writes them:
 * several challenges in one line, values quoted or not.
 */
export function parseChallenges(header: string): Challenge[] {
  const challenges: { scheme: string; fields: Map<string, string> }[] = [];
  const token = /\s*,?\s*([A-Za-z][\w!#$%&'*+.^`|~-]*)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))|(?=\s|,|$))/y;
  for (let match = token.exec(header); match; match = token.exec(header)) {
    const [, name = "", quoted, bare] = match;
    const value = quoted === undefined ? bare : quoted.replace(/\\(.)/g, "$1");
    if (value === undefined) challenges.push({ scheme: name.toLowerCase(), fields: new Map() });
    else challenges.at(-1)?.fields.set(name.toLowerCase(), value);
  }
  return challenges.flatMap(({ scheme, fields }) => {
    if (scheme !== "basic" && scheme !== "bearer") return [];
    const of = (name: string) => fields.get(name) ?? "";
    return [{ scheme, realm: of("realm"), service: of("service"), scope: of("scope") }];
  });
}

interface KeptToken {
  readonly token: string;
  readonly expiresAtMs: number;
}

const tokenSchema = z.looseObject({
  token: z.string().optional(),
  access_token: z.string().optional(),
  expires_in: z.number().optional(),
  refresh_token: z.string().optional(),
});

export class RegistryAuth {
  readonly #tokens = new Map<string, KeptToken>();
  /** Token requests under way, so that parallel layers ask once. */
  readonly #asked = new Map<string, Promise<string>>();
  /** The last challenge of a registry, by base address: later requests bring a token with them. */
  readonly #challenges = new Map<string, Challenge>();

  /**
   * Value of the Authorization header that is worth sending without having been asked.
   *
   * @throws RuntimeError as `answer`
   */
  async known(
    endpoint: RegistryEndpoint,
    repository: string,
    credential: RegistryCredential | undefined,
    transport: TokenTransport,
  ): Promise<string | undefined> {
    if (credential?.registryToken) return `Bearer ${credential.registryToken}`;
    const challenge = this.#challenges.get(endpoint.base);
    if (!challenge) return undefined;
    return this.#authorization({ ...challenge, scope: scopeOf(repository) }, endpoint, credential, transport);
  }

  /**
   * Value of the Authorization header after a 401; `undefined` where nothing can be answered.
   *
   * @param refused what was sent before, and is not to be sent again
   * @throws RuntimeError `permission-denied` REGISTRY_UNAUTHORIZED: the token server refuses;
   *   `unavailable` REGISTRY_UNAVAILABLE: it does not answer as one
   */
  async answer(
    header: string,
    endpoint: RegistryEndpoint,
    repository: string,
    credential: RegistryCredential | undefined,
    refused: string | undefined,
    transport: TokenTransport,
  ): Promise<string | undefined> {
    const challenges = parseChallenges(header);
    const challenge = challenges.find(({ scheme }) => scheme === "bearer") ?? challenges[0];
    if (!challenge) return undefined;
    this.#challenges.set(endpoint.base, challenge);
    const asked = { ...challenge, scope: challenge.scope || scopeOf(repository) };
    if (refused !== undefined) this.#tokens.delete(keyOf(asked, credential));
    const authorization = await this.#authorization(asked, endpoint, credential, transport);
    return authorization === refused ? undefined : authorization;
  }

  async #authorization(
    challenge: Challenge,
    endpoint: RegistryEndpoint,
    credential: RegistryCredential | undefined,
    transport: TokenTransport,
  ): Promise<string | undefined> {
    if (challenge.scheme === "basic") return credential?.username ? basic(credential) : undefined;
    const key = keyOf(challenge, credential);
    const kept = this.#tokens.get(key);
    if (kept && kept.expiresAtMs > performance.now()) return `Bearer ${kept.token}`;
    let asked = this.#asked.get(key);
    if (!asked) {
      asked = this.#fetchToken(challenge, endpoint, credential, transport, key).finally(() => this.#asked.delete(key));
      this.#asked.set(key, asked);
    }
    return `Bearer ${await asked}`;
  }

  async #fetchToken(
    challenge: Challenge,
    endpoint: RegistryEndpoint,
    credential: RegistryCredential | undefined,
    transport: TokenTransport,
    key: string,
  ): Promise<string> {
    const realm = realmOf(challenge, endpoint);
    const response = await askForToken(realm, challenge, credential, transport);
    const at = `token server ${realm.origin}`;
    if (response.status === 401 || response.status === 403) throw unauthorized(`${at}: HTTP ${response.status}`);
    if (response.status !== 200) throw unavailable(`${at}: HTTP ${response.status}`);
    let document: unknown;
    try {
      document = JSON.parse(response.body);
    } catch {
      throw unavailable(`${at}: its answer is not JSON`);
    }
    const checked = tokenSchema.safeParse(document);
    const token = checked.success ? checked.data.token || checked.data.access_token : undefined;
    // A line break would end the header and begin another.
    if (!token || !/^[\x21-\x7e]+$/.test(token)) throw unavailable(`${at}: its answer holds no token`);
    const lifeMs = Math.max(checked.data?.expires_in ?? DEFAULT_EXPIRES_S, DEFAULT_EXPIRES_S) * 1000;
    if (this.#tokens.size >= MAX_KEPT_TOKENS) this.#tokens.clear();
    this.#tokens.set(key, { token, expiresAtMs: performance.now() + lifeMs - EXPIRY_MARGIN_MS });
    return token;
  }
}

/** An identity token by POST (oauth.md); else, or where the server has no POST, GET with basic credentials. */
async function askForToken(
  realm: URL,
  challenge: Challenge,
  credential: RegistryCredential | undefined,
  transport: TokenTransport,
): Promise<TokenResponse> {
  if (credential?.identityToken) {
    const form = new URLSearchParams({
      grant_type: "refresh_token",
      refresh_token: credential.identityToken,
      service: challenge.service,
      scope: challenge.scope,
      client_id: CLIENT_ID,
    });
    const headers = { "content-type": "application/x-www-form-urlencoded" };
    const response = await transport({ url: realm, method: "POST", headers, body: form.toString() });
    if (!credential.username || ![401, 404, 405].includes(response.status)) return response;
  }
  const url = new URL(realm);
  if (challenge.service) url.searchParams.set("service", challenge.service);
  for (const scope of challenge.scope.split(" ").filter(Boolean)) url.searchParams.append("scope", scope);
  const headers: Record<string, string> = credential?.username ? { authorization: basic(credential) } : {};
  if (credential?.username) url.searchParams.set("account", credential.username);
  return transport({ url, method: "GET", headers });
}

/** The realm gets the password, so it must be as well protected as the registry that names it. */
function realmOf(challenge: Challenge, endpoint: RegistryEndpoint): URL {
  const url = URL.canParse(challenge.realm) ? new URL(challenge.realm) : undefined;
  const isAllowed = url?.protocol === "https:" || (url?.protocol === "http:" && endpoint.base.startsWith("http:"));
  if (url && isAllowed && !url.username && !url.password) return url;
  throw unavailable(`registry ${endpoint.host} names a token server that is not asked`);
}

function basic({ username, password }: RegistryCredential): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
}

function scopeOf(repository: string): string {
  return `repository:${repository}:pull`;
}

function keyOf({ realm, service, scope }: Challenge, credential: RegistryCredential | undefined): string {
  const secret = credential ? [credential.username, credential.password, credential.identityToken] : [];
  return createHash("sha256")
    .update(JSON.stringify([realm, service, scope, ...secret]))
    .digest("hex");
}

function unauthorized(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "permission-denied", code: "REGISTRY_UNAUTHORIZED" });
}

function unavailable(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "unavailable", code: "REGISTRY_UNAVAILABLE" });
}
