/**
 * containerd's registry configuration, read as it is: `certs.d/<host>/hosts.toml`, or Docker's
 * folder of certificates (`*.crt`, `*.cert` with `*.key`) where there is no such file.
 *
 * The rules are those of containerd's docs/hosts.md and core/remotes/docker/config/hosts.go.
 * Keys that containerd would ignore are ignored here too. Read anew for each pull.
 */
import { readdir, readFile, stat } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { parse } from "smol-toml";
import { z } from "zod";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";
import {
  defaultAddress,
  endpoint,
  isLoopbackHost,
  type RegistryEndpoint,
  readTls,
  type TlsConfig,
} from "./registry-endpoint.js";

const MAX_FILE_BYTES = 1024 * 1024;

const texts = z.union([z.string(), z.array(z.string())]);
const hostSchema = z.looseObject({
  capabilities: z.array(z.string()).optional(),
  ca: texts.optional(),
  // A file of both, a list of such files, or a list of pairs [certificate, key].
  client: z.union([z.string(), z.array(z.union([z.string(), z.array(z.string()).min(1).max(2)]))]).optional(),
  skip_verify: z.boolean().optional(),
  override_path: z.boolean().optional(),
  header: z.record(z.string(), texts).optional(),
});
const fileSchema = hostSchema.extend({
  server: z.string().optional(),
  host: z.record(z.string(), hostSchema).optional(),
});

/**
 * The endpoints that the folder names for a registry; `undefined` where it says nothing of it.
 *
 * @throws RuntimeError `invalid-argument` SETTINGS_INVALID
 */
export async function readHostsToml(root: string, registry: string): Promise<RegistryEndpoint[] | undefined> {
  for (const name of directoriesOf(registry)) {
    const dir = join(root, name);
    const isThere = await stat(dir).then(
      (found) => found.isDirectory(),
      () => false,
    );
    if (!isThere) continue;
    const path = join(dir, "hosts.toml");
    try {
      const text = await readFile(path, "utf8").catch((err: unknown) => {
        if (hasErrno(err, "ENOENT")) return undefined;
        throw err;
      });
      return text === undefined ? await byCertificates(dir, registry) : await byFile(text, dir, registry);
    } catch (err) {
      throw withContext(err, `read "${path}"`);
    }
  }
  return undefined;
}

/** `host_5000_` before `host:5000`, since a colon cannot be in every file name; then the one for all. */
function directoriesOf(registry: string): string[] {
  const colon = registry.lastIndexOf(":");
  const escaped = colon > 0 ? [`${registry.slice(0, colon)}_${registry.slice(colon + 1)}_`] : [];
  return [...escaped, registry, "_default"];
}

async function byFile(text: string, dir: string, registry: string): Promise<RegistryEndpoint[]> {
  const file = parseFile(text);
  const endpoints: RegistryEndpoint[] = [];
  for (const [address, host] of Object.entries(file.host ?? {})) {
    const reason = `host "${address}" of ${join(dir, "hosts.toml")}`;
    endpoints.push(await endpointOf(withScheme(address), host, dir, { isMirror: true, reason }));
  }
  const server = file.server === undefined ? defaultAddress(registry) : withScheme(file.server);
  const reason = `${file.server === undefined ? "default" : "server"} of ${join(dir, "hosts.toml")}`;
  endpoints.push(await endpointOf(server, file, dir, { isMirror: false, reason }));
  return endpoints;
}

type HostTable = z.infer<typeof hostSchema>;

async function endpointOf(
  address: string,
  host: HostTable,
  dir: string,
  facts: { readonly isMirror: boolean; readonly reason: string },
): Promise<RegistryEndpoint> {
  if (!URL.canParse(address)) throw invalid(`"${address}" is not an address`);
  const headers = Object.entries(host.header ?? {}).map(([name, value]) => [
    name.toLowerCase(),
    [value].flat().join(", "),
  ]);
  return endpoint(address, {
    ...facts,
    canResolve: host.capabilities === undefined || host.capabilities.includes("resolve"),
    headers: Object.fromEntries(headers) as Record<string, string>,
    tls: await tlsOf(host, dir),
    isFullPath: host.override_path === true,
  });
}

async function tlsOf(host: HostTable, dir: string): Promise<TlsConfig | undefined> {
  const clients = host.client === undefined ? [] : [host.client].flat();
  if (clients.length > 1 && typeof host.client !== "string") {
    // Go offers every pair that it is given; a TLS connection of Node has one.
    throw invalid("more than one client certificate for a host");
  }
  if (host.ca === undefined && clients.length === 0 && host.skip_verify !== true) return undefined;
  const at = (path: string) => (isAbsolute(path) ? path : join(dir, path));
  const [clientCert, clientKey] = [clients[0] ?? []].flat();
  return readTls({
    ca: [host.ca ?? []].flat().map(at),
    clientCert: clientCert === undefined ? undefined : at(clientCert),
    clientKey: clientKey === undefined ? undefined : at(clientKey),
    skipVerify: host.skip_verify ?? false,
  });
}

/** Docker's form: authorities are `*.crt`, a client certificate `x.cert` has its key in `x.key`. */
async function byCertificates(dir: string, registry: string): Promise<RegistryEndpoint[]> {
  const names = (await readdir(dir)).sort();
  const certificate = names.find((name) => name.endsWith(".cert"));
  const ca = names.filter((name) => name.endsWith(".crt")).map((name) => join(dir, name));
  const clientCert = certificate === undefined ? undefined : join(dir, certificate);
  const tls =
    ca.length === 0 && clientCert === undefined
      ? undefined
      : await readTls({ ca, clientCert, clientKey: clientCert?.replace(/\.cert$/, ".key"), skipVerify: false });
  const address = tls ? defaultAddress(registry).replace(/^http:/, "https:") : defaultAddress(registry);
  return [endpoint(address, { tls, reason: `certificates of ${dir}` })];
}

/** containerd takes a host without a scheme as HTTPS, or as HTTP on loopback. */
function withScheme(address: string): string {
  if (/^https?:\/\//.test(address)) return address;
  return `${isLoopbackHost(address.split("/")[0] ?? "") ? "http" : "https"}://${address}`;
}

function parseFile(text: string): z.infer<typeof fileSchema> {
  if (text.length > MAX_FILE_BYTES) throw invalid(`more than ${MAX_FILE_BYTES} bytes`);
  let document: unknown;
  try {
    document = parse(text);
  } catch (err) {
    throw invalid(err instanceof Error ? (err.message.split("\n")[0] ?? "") : String(err));
  }
  const checked = fileSchema.safeParse(document);
  if (checked.success) return checked.data;
  const issue = checked.error.issues[0];
  throw invalid(`"${issue?.path.join(".") ?? ""}": ${issue?.message ?? "invalid"}`);
}

function invalid(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "invalid-argument", code: "SETTINGS_INVALID" });
}
