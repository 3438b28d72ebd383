/** How a registry is reached: own authorities, client certificates, and proxies of the environment. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer as createHttpServer, type RequestListener, type Server } from "node:http";
import { createServer } from "node:https";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import type { RegistryHostSettings } from "../../src/image/registry-endpoints.js";
import { RegistryClient } from "../../src/image/registry-client.js";
import { type Certificate, makeCertificate } from "../harness/token-server.js";

const MANIFEST = Buffer.from('{"schemaVersion":2}');
let dir: string;
let own: Certificate;
let visitor: Certificate;
let stranger: Certificate;
const servers: Server[] = [];
const clients: RegistryClient[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "minke-image-tls-"));
  [own, visitor, stranger] = ["registry", "visitor", "stranger"].map((name) => makeCertificate(dir, name)) as [
    Certificate,
    Certificate,
    Certificate,
  ];
});
afterAll(() => rm(dir, { recursive: true, force: true }));
afterEach(async () => {
  vi.unstubAllEnvs();
  for (const client of clients.splice(0)) await client.close();
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

async function listen(server: Server): Promise<number> {
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

const answer: RequestListener = (_, response) => response.end(MANIFEST);

async function registry(clientAuthority?: Certificate): Promise<number> {
  const [cert, key] = await Promise.all([readFile(own.certificate), readFile(own.key)]);
  const mutual = clientAuthority && {
    ca: await readFile(clientAuthority.certificate),
    requestCert: true,
    rejectUnauthorized: true,
  };
  return listen(createServer({ cert, key, ...mutual }, answer));
}

async function fetched(host: string, settings: RegistryHostSettings): Promise<Buffer> {
  const client = new RegistryClient({ registries: { [host]: settings }, times: { retryBaseMs: 5, attempts: 2 } });
  clients.push(client);
  const repository = await client.repository(host, "x");
  return (await repository.manifest("1", new AbortController().signal)).bytes;
}

const UNAVAILABLE = { kind: "unavailable", code: "REGISTRY_UNAVAILABLE" };

test("a registry whose authority is configured is trusted, and no other", async () => {
  const host = `127.0.0.1:${await registry()}`;
  expect(await fetched(host, { ca: [own.certificate] })).toEqual(MANIFEST);
  await expect(fetched(host, { ca: [stranger.certificate] })).rejects.toMatchObject(UNAVAILABLE);
  await expect(fetched(host, { endpoint: `https://${host}` })).rejects.toMatchObject(UNAVAILABLE);
  expect(await fetched(host, { skipVerify: true })).toEqual(MANIFEST);
});

test("a registry that asks for a client certificate gets the configured one", async () => {
  const host = `127.0.0.1:${await registry(visitor)}`;
  const ca = [own.certificate];
  expect(await fetched(host, { ca, clientCert: visitor.certificate, clientKey: visitor.key })).toEqual(MANIFEST);
  await expect(fetched(host, { ca })).rejects.toMatchObject(UNAVAILABLE);
  await expect(fetched(host, { ca, clientCert: stranger.certificate, clientKey: stranger.key })).rejects.toMatchObject(
    UNAVAILABLE,
  );
});

test("a client certificate whose file is missing is SETTINGS_INVALID", async () => {
  const clientCert = join(dir, "none.pem");
  await expect(fetched("127.0.0.1:9", { clientCert })).rejects.toMatchObject({
    kind: "invalid-argument",
    code: "SETTINGS_INVALID",
  });
});

/** A proxy for HTTPS: tunnels every CONNECT to one port of this machine. */
async function proxy(target: number, tunnels: string[]): Promise<string> {
  const server = createHttpServer((_, response) => response.writeHead(405).end());
  server.on("connect", (request, socket) => {
    tunnels.push(`${request.url} ${request.headers["proxy-authorization"] ?? "anonymous"}`);
    const tunnel = connect(target, "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      tunnel.pipe(socket).pipe(tunnel);
    });
    for (const end of [socket, tunnel]) end.on("error", () => undefined);
    socket.once("close", () => tunnel.destroy());
    tunnel.once("close", () => socket.destroy());
  });
  return `127.0.0.1:${await listen(server)}`;
}

function useProxy(address: string, noProxy: string): void {
  for (const name of ["https_proxy", "HTTPS_PROXY"]) vi.stubEnv(name, `http://u:sehrgeheim@${address}`);
  for (const name of ["http_proxy", "HTTP_PROXY"]) vi.stubEnv(name, "");
  for (const name of ["no_proxy", "NO_PROXY"]) vi.stubEnv(name, noProxy);
}

test("a registry over HTTPS is reached through the proxy's tunnel, with TLS end to end", async () => {
  const tunnels: string[] = [];
  useProxy(await proxy(await registry(visitor), tunnels), "other.example");
  // The certificate is one of 127.0.0.1: with a proxy between, its name still has to fit.
  const trusted = { ca: [own.certificate], clientCert: visitor.certificate, clientKey: visitor.key };
  await expect(fetched("far.example", trusted)).rejects.toMatchObject(UNAVAILABLE);
  expect(await fetched("far.example", { ...trusted, skipVerify: true })).toEqual(MANIFEST);
  const credential = Buffer.from("u:sehrgeheim").toString("base64");
  expect(new Set(tunnels)).toEqual(new Set([`far.example:443 Basic ${credential}`]));
});

test.each(["far.example", ".example", "*"])("no_proxy %s keeps a registry from the proxy", async (noProxy) => {
  const tunnels: string[] = [];
  const port = await registry();
  useProxy(await proxy(port, tunnels), noProxy);
  // Nobody resolves the name without the proxy.
  await expect(fetched("far.example", { skipVerify: true })).rejects.toMatchObject(UNAVAILABLE);
  expect(tunnels).toEqual([]);
  expect(await fetched(`127.0.0.1:${port}`, { ca: [own.certificate] })).toEqual(MANIFEST);
});

test("a proxy that is down is unavailable, and its password is told to nobody", async () => {
  useProxy("127.0.0.1:9", "");
  const failure = fetched("far.example", { skipVerify: true });
  await expect(failure).rejects.toMatchObject(UNAVAILABLE);
  await expect(failure).rejects.not.toThrow("sehrgeheim");
});
