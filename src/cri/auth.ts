/**
 * CRI's AuthConfig -> what a registry is told. Never logged, kept nowhere.
 */
import type { AuthConfig } from "./generated/runtime/v1/api.js";
import { invalidField, unsupportedField } from "./convert/fields.js";

/** Called with the challenge of a 401; answers the value of `Authorization`. */
type Authorize = (registry: string, repository: string, challenge: string | undefined) => Promise<string | undefined>;

const TOKEN_TIMEOUT_MS = 15_000;
const MAX_TOKEN_BYTES = 64 * 1024;

/**
 * A credential for one registry: it is sent to that host, or to the token service that the host
 * names for its own repositories, and to nobody else.
 *
 * @throws RuntimeError `invalid-argument` INVALID_FIELD, `failed-precondition` UNSUPPORTED_FIELD
 */
export function registryAuth(auth: AuthConfig | undefined, registry: string): Authorize | undefined {
  if (!auth) return undefined;
  if (auth.serverAddress !== "" && hostOf(auth.serverAddress) !== registry) return undefined;
  if (auth.registryToken !== "")
    return async (host) => (host === registry ? `Bearer ${auth.registryToken}` : undefined);
  if (auth.identityToken !== "")
    throw unsupportedField("auth.identity_token", "OAuth2 refresh tokens are not available in this version");
  const basic = basicOf(auth);
  if (basic === undefined) return undefined;
  return async (host, repository, challenge) => {
    if (host !== registry || challenge === undefined) return undefined;
    if (/^basic\b/i.test(challenge)) return basic;
    return bearer(challenge, repository, basic);
  };
}

function basicOf({ username, password, auth }: AuthConfig): string | undefined {
  if (username !== "") return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
  if (auth === "") return undefined;
  const decoded = Buffer.from(auth, "base64").toString("utf8").replace(/\0+$/, "");
  if (!decoded.includes(":")) throw invalidField("auth.auth", "is not the base64 of user:password");
  return `Basic ${Buffer.from(decoded).toString("base64")}`;
}

/** Docker's token protocol (distribution, docs/spec/auth/token.md). */
async function bearer(challenge: string, repository: string, basic: string): Promise<string | undefined> {
  const parameters = new Map(
    Array.from(challenge.matchAll(/(\w+)="([^"]*)"/g), ([, name = "", value = ""]) => [name.toLowerCase(), value]),
  );
  const realm = parameters.get("realm");
  if (!/^bearer\b/i.test(challenge) || realm === undefined) return undefined;
  const url = new URL(realm);
  const service = parameters.get("service");
  if (service !== undefined) url.searchParams.set("service", service);
  url.searchParams.set("scope", `repository:${repository}:pull`);
  const response = await fetch(url, {
    headers: { authorization: basic },
    redirect: "error",
    signal: AbortSignal.timeout(TOKEN_TIMEOUT_MS),
  });
  if (!response.ok) return undefined;
  const text = (await response.text()).slice(0, MAX_TOKEN_BYTES);
  const body: unknown = JSON.parse(text);
  if (typeof body !== "object" || body === null) return undefined;
  const token = ("token" in body && body.token) || ("access_token" in body && body.access_token);
  return typeof token === "string" ? `Bearer ${token}` : undefined;
}

/** `https://index.docker.io/v1/`, `registry.example:5000`: the host as references name it. */
function hostOf(address: string): string {
  const host = address.replace(/^https?:\/\//, "").split("/", 1)[0] ?? "";
  return host === "index.docker.io" || host === "registry-1.docker.io" ? "docker.io" : host;
}
