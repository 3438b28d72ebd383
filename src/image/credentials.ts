/**
 * Credentials for registries, and where they come from: what the caller gave (CRI's AuthConfig),
 * or Docker's config.json with its credential helpers.
 *
 * A secret is a value of `RegistryCredential` only: it is in no message, no log and no explanation.
 * `source` is what may be told. A credential belongs to one host; who asks for another's gets none.
 */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { z } from "zod";
import { hasErrno, RuntimeError, toRuntimeError } from "../base/errors.js";
import { isHeaderValue } from "./header-value.js";

const MAX_CONFIG_BYTES = 1024 * 1024;
const HELPER_TIMEOUT_MS = 10_000;
const MAX_HELPER_OUTPUT_BYTES = 64 * 1024;
/** docker-credential-helpers, credentials/error.go */
const NOT_IN_HELPER = /credentials not found/;
/** The user name by which a helper says that the secret is an identity token. */
const TOKEN_USER = "<token>";
const DOCKER_HUB_HOSTS: readonly string[] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/** As CRI's AuthConfig; empty texts are as good as none. */
export interface AuthConfig {
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  /** base64 of `username:password`. */
  readonly auth?: string | undefined;
  readonly serverAddress?: string | undefined;
  /** An OAuth2 refresh token. */
  readonly identityToken?: string | undefined;
  /** A bearer token to be sent as it is. */
  readonly registryToken?: string | undefined;
}

export interface RegistryCredential {
  readonly username: string;
  readonly password: string;
  readonly identityToken: string;
  readonly registryToken: string;
  /** Where it is from, in words, without any secret. */
  readonly source: string;
}

/**
 * The credential of a caller's AuthConfig, or `undefined` where it holds none or is for another host.
 *
 * @param registry host of the image reference
 * @throws RuntimeError `invalid-argument` INVALID_CREDENTIAL
 */
export function credentialOf(auth: AuthConfig, registry: string, source: string): RegistryCredential | undefined {
  if (auth.serverAddress && !isSameRegistry(auth.serverAddress, registry)) return undefined;
  const { identityToken = "", registryToken = "" } = auth;
  let { username = "", password = "" } = auth;
  if (auth.auth && !username) {
    const text = Buffer.from(auth.auth, "base64").toString("utf8").replace(/\0+$/, "");
    const colon = text.indexOf(":");
    if (colon < 0) {
      throw new RuntimeError(`read credential of ${source}: "auth" is not base64 of user:password`, {
        kind: "invalid-argument",
        code: "INVALID_CREDENTIAL",
      });
    }
    username = text.slice(0, colon);
    password = text.slice(colon + 1);
  }
  if (!username && !password && !identityToken && !registryToken) return undefined;
  if (!isHeaderValue(registryToken)) {
    throw new RuntimeError(`read credential of ${source}: the registry token holds what no header may`, {
      kind: "invalid-argument",
      code: "INVALID_CREDENTIAL",
    });
  }
  return { username, password, identityToken, registryToken, source };
}

const entrySchema = z.looseObject({
  auth: z.string().optional(),
  username: z.string().optional(),
  password: z.string().optional(),
  identitytoken: z.string().optional(),
  registrytoken: z.string().optional(),
});
const configSchema = z.looseObject({
  auths: z.record(z.string(), entrySchema).optional(),
  credHelpers: z.record(z.string(), z.string()).optional(),
  credsStore: z.string().optional(),
});

/**
 * What Docker's config.json knows for a host: its helper, the store of all, then the file itself.
 *
 * @param path of config.json; a missing file has no credentials
 * @param host of an endpoint
 * @param repository selects among entries with a path (`host/project`): the longest that fits
 * @throws RuntimeError `invalid-argument` DOCKER_CONFIG_INVALID; `unavailable` CREDENTIAL_HELPER_FAILED
 */
export async function credentialOfDockerConfig(
  path: string,
  host: string,
  repository: string,
): Promise<RegistryCredential | undefined> {
  const config = await readConfig(path);
  if (!config) return undefined;
  const helper = Object.entries(config.credHelpers ?? {}).find(([key]) => isSameRegistry(key, host))?.[1];
  const entries = Object.entries(config.auths ?? {})
    .filter(([key]) => isSameRegistry(key, host) && fitsRepository(key, repository))
    .sort(([a], [b]) => pathOf(b).length - pathOf(a).length);
  for (const name of helper === undefined ? [config.credsStore] : [helper]) {
    if (!name) continue;
    // Docker Hub's key is the address of its old index.
    const key = entries[0]?.[0] ?? (DOCKER_HUB_HOSTS.includes(host) ? "https://index.docker.io/v1/" : host);
    const found = await askHelper(name, key);
    if (found) return found;
  }
  for (const [key, entry] of entries) {
    const { identitytoken, registrytoken, ...rest } = entry;
    const auth = { ...rest, identityToken: identitytoken, registryToken: registrytoken } as AuthConfig;
    const found = credentialOf({ ...auth, serverAddress: undefined }, host, `auths."${key}" of ${path}`);
    if (found) return found;
  }
  return undefined;
}

async function readConfig(path: string): Promise<z.infer<typeof configSchema> | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return undefined;
    throw configInvalid(path, toRuntimeError(err).message);
  }
  if (text.length > MAX_CONFIG_BYTES) throw configInvalid(path, `more than ${MAX_CONFIG_BYTES} bytes`);
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    // The parser's message quotes the file, and the file holds secrets.
    throw configInvalid(path, "not JSON");
  }
  const checked = configSchema.safeParse(document);
  if (checked.success) return checked.data;
  throw configInvalid(path, `"${checked.error.issues[0]?.path.join(".") ?? ""}" has a wrong type`);
}

/** docker-credential-helpers: `docker-credential-<name> get`, the host on standard input. */
async function askHelper(name: string, host: string): Promise<RegistryCredential | undefined> {
  const program = `docker-credential-${name}`;
  if (!/^[\w.-]+$/.test(name)) throw helperFailed(program, "not a name");
  const { code, output } = await new Promise<{ code: string | number | undefined; output: string }>((resolve) => {
    const child = execFile(
      program,
      ["get"],
      { timeout: HELPER_TIMEOUT_MS, killSignal: "SIGKILL", maxBuffer: MAX_HELPER_OUTPUT_BYTES, encoding: "utf8" },
      (err, stdout) =>
        resolve({ code: err === null ? 0 : err.killed ? "timeout" : (err.code ?? "signal"), output: stdout }),
    );
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(`${host}\n`);
  });
  // Nothing that it printed is told: it may be the secret.
  if (code !== 0) {
    if (NOT_IN_HELPER.test(output)) return undefined;
    throw helperFailed(program, code === "timeout" ? `no answer in ${HELPER_TIMEOUT_MS} ms` : `it ended with ${code}`);
  }
  let answer: { Username?: unknown; Secret?: unknown };
  try {
    answer = JSON.parse(output) as typeof answer;
  } catch {
    throw helperFailed(program, "its answer is not JSON");
  }
  if (typeof answer.Username !== "string" || typeof answer.Secret !== "string") {
    throw helperFailed(program, "its answer has no Username and Secret");
  }
  const isToken = answer.Username === TOKEN_USER;
  return {
    username: isToken ? "" : answer.Username,
    password: isToken ? "" : answer.Secret,
    identityToken: isToken ? answer.Secret : "",
    registryToken: "",
    source: `credential helper ${program}`,
  };
}

/** Host of a key of config.json, which may be an address or have a path. */
function hostOf(key: string): string {
  return (key.replace(/^https?:\/\//, "").split("/")[0] ?? "").toLowerCase();
}

/** Path that narrows a key to some repositories: not that of an address, and not the API's. */
function pathOf(key: string): string {
  if (/^https?:\/\//.test(key)) return "";
  const path = key.split("/").slice(1).join("/").replace(/\/+$/, "");
  return /^v[12]$/.test(path) ? "" : path;
}

function fitsRepository(key: string, repository: string): boolean {
  const path = pathOf(key);
  return path === "" || repository === path || repository.startsWith(`${path}/`);
}

function isSameRegistry(key: string, host: string): boolean {
  const named = hostOf(key);
  return named === host.toLowerCase() || (DOCKER_HUB_HOSTS.includes(named) && DOCKER_HUB_HOSTS.includes(host));
}

function configInvalid(path: string, problem: string): RuntimeError {
  return new RuntimeError(`read credentials of "${path}": ${problem}`, {
    kind: "invalid-argument",
    code: "DOCKER_CONFIG_INVALID",
  });
}

function helperFailed(program: string, problem: string): RuntimeError {
  return new RuntimeError(`ask ${program} for a credential: ${problem}`, {
    kind: "unavailable",
    code: "CREDENTIAL_HELPER_FAILED",
  });
}
