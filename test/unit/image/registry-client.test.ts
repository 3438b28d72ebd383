import { createHash, randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Digest } from "../../../src/base/ids.js";
import { parseChallenges } from "../../../src/image/registry-auth.js";
import { RegistryClient, type RegistryOptions } from "../../../src/image/registry-client.js";

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

const servers: Server[] = [];
const clients: RegistryClient[] = [];
/** Requests, as `METHOD path authorization`. */
let log: string[];
beforeEach(() => {
  log = [];
});
afterEach(async () => {
  vi.unstubAllEnvs();
  for (const client of clients.splice(0)) await client.close();
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

async function serve(answer: Answer): Promise<string> {
  const server = createServer((request, response) => {
    log.push([request.method, request.url, request.headers.authorization].filter(Boolean).join(" "));
    answer(request, response);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const QUICK = { retryBaseMs: 5, retryMaxMs: 2000, stallMs: 300, headersMs: 500 };
function client(options: RegistryOptions = {}): RegistryClient {
  const made = new RegistryClient({ times: QUICK, ...options });
  clients.push(made);
  return made;
}

const signal = () => new AbortController().signal;
const MANIFEST = Buffer.from('{"schemaVersion":2}');
const sha256 = (bytes: Buffer) => `sha256:${createHash("sha256").update(bytes).digest("hex")}` as Digest;
const base64 = (text: string) => Buffer.from(text).toString("base64");
const BLOB = randomBytes(600_000);
const ITEM = { mediaType: "x", digest: sha256(BLOB), size: BLOB.length };

async function readBlob(host: string, options: RegistryOptions = {}): Promise<Buffer> {
  const repository = await client(options).repository(host, "x");
  const pieces: Buffer[] = [];
  for await (const piece of await repository.blobStream(ITEM, signal())) pieces.push(piece as Buffer);
  return Buffer.concat(pieces);
}

/** Answers what `Range` asks for. */
function sendRange(request: IncomingMessage, response: ServerResponse): number {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
  const headers = { "content-length": BLOB.length - from };
  if (from > 0)
    response.writeHead(206, { ...headers, "content-range": `bytes ${from}-${BLOB.length - 1}/${BLOB.length}` });
  else response.writeHead(200, headers);
  return from;
}

test.each([
  [
    'Bearer realm="https://t/x",service="s",scope="repository:a:pull,push"',
    [{ scheme: "bearer", realm: "https://t/x", service: "s", scope: "repository:a:pull,push" }],
  ],
  ['Basic realm="a \\"b\\""', [{ scheme: "basic", realm: 'a "b"', service: "", scope: "" }]],
  [
    "Negotiate, Basic realm=x, Bearer realm=y",
    [
      { scheme: "basic", realm: "x", service: "", scope: "" },
      { scheme: "bearer", realm: "y", service: "", scope: "" },
    ],
  ],
  ["", []],
])("the challenge %s is understood", (header, expected) => {
  expect(parseChallenges(header)).toEqual(expected);
});

/** A registry behind a token server of its own, which knows `u:p` and the refresh token `r`. */
async function guarded(lifeS = 300): Promise<{ host: string; valid: Set<string> }> {
  const valid = new Set<string>();
  let issued = 0;
  const tokens = await serve((request, response) => {
    const give = () => {
      const token = `token-${++issued}`;
      valid.add(token);
      response.end(JSON.stringify({ token, expires_in: lifeS }));
    };
    if (request.method === "GET")
      return request.headers.authorization === `Basic ${base64("u:p")}` ? give() : void response.writeHead(401).end();
    let form = "";
    request
      .on("data", (piece: Buffer) => (form += piece.toString()))
      .on("end", () => {
        if (new URLSearchParams(form).get("refresh_token") === "r") give();
        else response.writeHead(401).end();
      });
  });
  const host = await serve((request, response) => {
    const challenge = `Bearer realm="http://${tokens}/token",service="s",scope="repository:x:pull"`;
    const isValid = valid.has((request.headers.authorization ?? "").replace("Bearer ", ""));
    if (isValid) response.end(MANIFEST);
    else response.writeHead(401, { "www-authenticate": challenge }).end();
  });
  return { host, valid };
}

test("a token is fetched once for a scope and used again", async () => {
  const { host } = await guarded();
  const registry = client();
  for (let i = 0; i < 2; i++) {
    const repository = await registry.repository(host, "x", { auth: { username: "u", password: "p" } });
    expect((await repository.manifest("1", signal())).bytes).toEqual(MANIFEST);
  }
  expect(log).toEqual([
    "GET /v2/x/manifests/1",
    `GET /token?service=s&scope=repository%3Ax%3Apull&account=u Basic ${base64("u:p")}`,
    "GET /v2/x/manifests/1 Bearer token-1",
    "GET /v2/x/manifests/1 Bearer token-1",
  ]);
});

test("a token that the registry refuses is replaced once", async () => {
  const { host, valid } = await guarded();
  const repository = await client().repository(host, "x", { auth: { username: "u", password: "p" } });
  await repository.manifest("1", signal());
  valid.clear();
  await repository.manifest("1", signal());
  expect(log.at(-1)).toBe("GET /v2/x/manifests/1 Bearer token-2");
});

test("an identity token is exchanged by POST", async () => {
  const { host } = await guarded();
  const repository = await client().repository(host, "x", { auth: { identityToken: "r" } });
  expect((await repository.manifest("1", signal())).bytes).toEqual(MANIFEST);
  expect(log[1]).toBe("POST /token");
});

test("a registry token is sent as it is", async () => {
  const host = await serve((_, response) => response.end(MANIFEST));
  const repository = await client().repository(host, "x", { auth: { registryToken: "r" } });
  await repository.manifest("1", signal());
  expect(log).toEqual(["GET /v2/x/manifests/1 Bearer r"]);
});

test("a registry token that no header may hold is INVALID_CREDENTIAL", async () => {
  const host = await serve((_, response) => response.end(MANIFEST));
  await expect(client().repository(host, "x", { auth: { registryToken: "a\nb" } })).rejects.toMatchObject({
    kind: "invalid-argument",
    code: "INVALID_CREDENTIAL",
  });
});

test("a basic credential of config.json is sent after the challenge, and told to nobody", async () => {
  const host = await serve((request, response) => {
    if (request.headers.authorization) response.end(MANIFEST);
    else response.writeHead(401, { "www-authenticate": 'Basic realm="x"' }).end();
  });
  const dir = mkdtempSync(join(tmpdir(), "minke-docker-config-"));
  const dockerConfigPath = join(dir, "config.json");
  writeFileSync(dockerConfigPath, JSON.stringify({ auths: { [host]: { auth: base64("u:sehrgeheim") } } }));
  const repository = await client({ dockerConfigPath }).repository(host, "x");
  await repository.manifest("1", signal());
  expect(log.at(-1)).toBe(`GET /v2/x/manifests/1 Basic ${base64("u:sehrgeheim")}`);
  expect(repository.plan()[0]?.credential).toBe(`password of user "u" of auths."${host}" of ${dockerConfigPath}`);
  rmSync(dir, { recursive: true });
});

test.each([401, 403])("HTTP %i is permission-denied REGISTRY_UNAUTHORIZED without the secret", async (status) => {
  const host = await serve((_, response) => response.writeHead(status, { "www-authenticate": "Basic realm=x" }).end());
  const repository = await client().repository(host, "x", { auth: { username: "u", password: "sehrgeheim" } });
  await expect(repository.manifest("1", signal())).rejects.toMatchObject({
    kind: "permission-denied",
    code: "REGISTRY_UNAUTHORIZED",
    message: expect.not.stringMatching(`sehrgeheim|${base64("u:sehrgeheim")}`),
  });
});

test("a credential does not follow a redirect to another host", async () => {
  const store = await serve((_, response) => response.end(BLOB));
  const host = await serve((_, response) => response.writeHead(307, { location: `http://${store}/store` }).end());
  const repository = await client().repository(host, "x", { auth: { registryToken: "r" } });
  const stream = await repository.blobStream(ITEM, signal());
  stream.resume();
  await new Promise((resolve) => stream.once("close", resolve));
  expect(log).toEqual([`GET /v2/x/blobs/${ITEM.digest} Bearer r`, "GET /store"]);
});

test("a caller's credential never goes to a mirror of another host", async () => {
  const mirror = await serve((_, response) => response.writeHead(401, { "www-authenticate": "Basic realm=x" }).end());
  const host = await serve((request, response) => {
    if (request.headers.authorization) response.end(MANIFEST);
    else response.writeHead(401, { "www-authenticate": "Basic realm=x" }).end();
  });
  const registries = { [host]: { mirrors: [`http://${mirror}`] } };
  const repository = await client({ registries }).repository(host, "x", { auth: { username: "u", password: "p" } });
  expect((await repository.manifest("1", signal())).bytes).toEqual(MANIFEST);
  expect(log[0]).toBe(`GET /v2/x/manifests/1?ns=${encodeURIComponent(host)}`);
  expect(log.filter((line) => line.includes("Basic"))).toHaveLength(1);
});

test.each<[string, Answer]>([
  ["that is down", (request) => request.socket.destroy()],
  ["without the image", (_, response) => void response.writeHead(404).end()],
  ["that answers HTTP 500", (_, response) => void response.writeHead(500).end()],
  ["with other bytes than the digest", (_, response) => void response.end("{}")],
])("after a mirror %s the registry is asked", async (_, answer) => {
  const mirror = await serve(answer);
  const host = await serve((_request, response) => response.end(MANIFEST));
  const repository = await client({ registries: { [host]: { mirrors: [`http://${mirror}`] } } }).repository(host, "x");
  expect((await repository.manifest(sha256(MANIFEST), signal())).bytes).toEqual(MANIFEST);
});

test.each([429, 500, 502, 503])("HTTP %i is asked again", async (status) => {
  let asked = 0;
  const host = await serve((_, response) => (++asked < 3 ? response.writeHead(status).end() : response.end(MANIFEST)));
  const repository = await client().repository(host, "x");
  expect((await repository.manifest("1", signal())).bytes).toEqual(MANIFEST);
});

test("Retry-After is waited for", async () => {
  const times: number[] = [];
  const host = await serve((_, response) => {
    times.push(performance.now());
    if (times.length === 1) response.writeHead(429, { "retry-after": "1" }).end();
    else response.end(MANIFEST);
  });
  await (await client().repository(host, "x")).manifest("1", signal());
  expect((times[1] ?? 0) - (times[0] ?? 0)).toBeGreaterThan(950);
});

test("a Retry-After beyond the limit is unavailable at once", async () => {
  const host = await serve((_, response) => response.writeHead(503, { "retry-after": "3600" }).end());
  await expect((await client().repository(host, "x")).manifest("1", signal())).rejects.toMatchObject({
    code: "REGISTRY_UNAVAILABLE",
  });
  expect(log).toHaveLength(1);
});

test("a blob that breaks off is resumed where it broke", async () => {
  const host = await serve((request, response) => {
    const from = sendRange(request, response);
    response.write(BLOB.subarray(from, from + 250_000), () => setTimeout(() => response.destroy(), 20));
  });
  expect((await readBlob(host)).equals(BLOB)).toBe(true);
  expect(log).toHaveLength(3);
});

test("a registry without ranges is read again from the start, and nothing is given twice", async () => {
  let asked = 0;
  const host = await serve((_, response) => {
    response.writeHead(200, { "content-length": BLOB.length });
    if (++asked < 3) response.write(BLOB.subarray(0, asked * 200_000), () => setTimeout(() => response.destroy(), 20));
    else response.end(BLOB);
  });
  expect((await readBlob(host)).equals(BLOB)).toBe(true);
});

test.each([
  ["another range", { "content-range": `bytes 5-${BLOB.length - 1}/${BLOB.length}` }],
  ["a range of another blob", { "content-range": `bytes 100000-700000/700001` }],
  ["no range at all", {}],
])("a resumed part of %s is data-loss DIGEST_MISMATCH", async (_, headers) => {
  const host = await serve((request, response) => {
    if (request.headers.range) {
      response.writeHead(206, headers).end(BLOB);
    } else {
      response.writeHead(200, { "content-length": BLOB.length });
      response.write(BLOB.subarray(0, 100_000), () => setTimeout(() => response.destroy(), 20));
    }
  });
  await expect(readBlob(host)).rejects.toMatchObject({ kind: "data-loss", code: "DIGEST_MISMATCH" });
});

test.each<[string, Answer]>([
  ["sends nothing", (_, response) => response.writeHead(200).flushHeaders()],
  ["does not answer", () => undefined],
  [
    "sends a byte now and then",
    (_, response) => {
      const timer = setInterval(() => response.write("x"), 40);
      response.once("close", () => clearInterval(timer));
    },
  ],
])("a registry that %s is unavailable REGISTRY_UNAVAILABLE in bounded time", async (_, answer) => {
  const host = await serve(answer);
  const started = performance.now();
  await expect(readBlob(host, { times: { ...QUICK, attempts: 2 } })).rejects.toMatchObject({
    code: "REGISTRY_UNAVAILABLE",
  });
  expect(performance.now() - started).toBeLessThan(20_000);
});

test("a slow reader is no stall", async () => {
  const host = await serve((_, response) => response.end(BLOB));
  const stream = await (await client().repository(host, "x")).blobStream(ITEM, signal());
  let size = 0;
  for await (const piece of stream) {
    if (size === 0) await new Promise((resolve) => setTimeout(resolve, 700));
    size += (piece as Buffer).length;
  }
  expect(size).toBe(BLOB.length);
});

test("a cancelled blob ends its connection and is cancelled CANCELLED", async () => {
  let closed = false;
  const host = await serve((_, response) => {
    response.once("close", () => (closed = true));
    response.writeHead(200, { "content-length": BLOB.length }).write(BLOB.subarray(0, 1000));
  });
  const abort = new AbortController();
  const stream = await (await client().repository(host, "x")).blobStream(ITEM, abort.signal);
  setTimeout(() => abort.abort(), 30);
  await expect(
    (async () => {
      for await (const _ of stream);
    })(),
  ).rejects.toMatchObject({ code: "CANCELLED" });
  await expect.poll(() => closed).toBe(true);
});

test("a stream that its reader gives up ends the connection", async () => {
  let closed = false;
  const host = await serve((_, response) => {
    response.once("close", () => (closed = true));
    response.writeHead(200, { "content-length": BLOB.length }).write(BLOB.subarray(0, 1000));
  });
  const stream = await (await client().repository(host, "x")).blobStream(ITEM, signal());
  stream.once("data", () => stream.destroy());
  await expect.poll(() => closed).toBe(true);
});

test("a proxy of the environment is used, and not for loopback", async () => {
  const proxy = await serve((_, response) => response.end(MANIFEST));
  const direct = await serve((_, response) => response.end(MANIFEST));
  for (const name of ["http_proxy", "HTTP_PROXY"]) vi.stubEnv(name, `http://u:sehrgeheim@${proxy}`);
  const connects: string[] = [];
  servers[0]?.on("connect", (request, socket) => {
    connects.push(request.url ?? "");
    const tunnel = connect(Number(direct.split(":")[1]), "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      tunnel.pipe(socket).pipe(tunnel);
    });
    socket.once("close", () => tunnel.destroy());
    tunnel.once("close", () => socket.destroy());
  });
  const registry = client({ registries: { "far.example": { plainHttp: true } } });
  const far = await registry.repository("far.example", "x");
  expect((await far.manifest("1", signal())).bytes).toEqual(MANIFEST);
  expect(connects.length + log.filter((line) => line.includes("http://far.example")).length).toBe(1);
  expect(far.plan()[0]?.proxy).toBe(proxy);
  const seen = connects.length;
  const near = await registry.repository(direct, "x");
  await near.manifest("1", signal());
  expect(connects).toHaveLength(seen);
  expect(near.plan()[0]?.proxy).toBe("");
});
