/**
 * One address at which a registry answers, and what a connection to it is made with.
 */
import { readFile } from "node:fs/promises";
import { RuntimeError, toRuntimeError } from "../base/errors.js";

/** What a TLS connection is made with; contents, not paths. */
export interface TlsConfig {
  readonly ca?: readonly string[] | undefined;
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  readonly skipVerify: boolean;
}

export interface RegistryEndpoint {
  /** `https://mirror.example/v2`: without a trailing slash, repository paths are appended. */
  readonly base: string;
  /** Host and port of `base`. */
  readonly host: string;
  readonly isMirror: boolean;
  /** May turn a tag into a digest; any endpoint may serve by digest. */
  readonly canResolve: boolean;
  readonly headers: Readonly<Record<string, string>>;
  /** `undefined`: the machine's certificate authorities. */
  readonly tls: TlsConfig | undefined;
  /** Why it is asked, in words. */
  readonly reason: string;
}

const DOCKER_HUB = "docker.io";
const DOCKER_HUB_ENDPOINT = "https://registry-1.docker.io";

/** `127.0.0.0/8`, `::1` and `localhost`, with or without a port: reached over plain HTTP. */
export function isLoopbackHost(registry: string): boolean {
  const host = registry.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
  return host === "localhost" || host === "::1" || /^127(?:\.\d{1,3}){3}$/.test(host);
}

/** Address of a registry that nobody has configured: HTTPS, and plain HTTP on loopback. */
export function defaultAddress(registry: string): string {
  if (registry === DOCKER_HUB) return DOCKER_HUB_ENDPOINT;
  return `${isLoopbackHost(registry) ? "http" : "https"}://${registry}`;
}

/** An endpoint of a base address without `/v2`. */
export function endpoint(
  address: string,
  facts: Partial<RegistryEndpoint> & { readonly reason: string; readonly isFullPath?: boolean },
): RegistryEndpoint {
  const url = new URL(address);
  const path = url.pathname.replace(/\/+$/, "");
  const { isFullPath, ...rest } = facts;
  return {
    base: `${url.origin}${isFullPath || path.endsWith("/v2") ? path : `${path}/v2`}`,
    host: url.host,
    isMirror: false,
    canResolve: true,
    headers: {},
    tls: undefined,
    ...rest,
  };
}

/** @throws RuntimeError `invalid-argument` SETTINGS_INVALID */
export async function readTls(files: {
  readonly ca: readonly string[];
  readonly clientCert: string | undefined;
  readonly clientKey: string | undefined;
  readonly skipVerify: boolean;
}): Promise<TlsConfig> {
  const ca = await Promise.all(files.ca.map(readPem));
  const cert = files.clientCert === undefined ? undefined : await readPem(files.clientCert);
  // One file may hold both, as containerd's `client = "both.pem"` says.
  const key = files.clientCert === undefined ? undefined : await readPem(files.clientKey ?? files.clientCert);
  return {
    skipVerify: files.skipVerify,
    ...(ca.length > 0 ? { ca } : {}),
    ...(cert === undefined ? {} : { cert, key }),
  };
}

async function readPem(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (err) {
    const inner = toRuntimeError(err);
    throw new RuntimeError(`read certificate or key: ${inner.message}`, {
      kind: "invalid-argument",
      code: "SETTINGS_INVALID",
      syscall: inner.syscall,
      cause: err,
    });
  }
}
