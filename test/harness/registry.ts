/**
 * Debian's docker-registry on a free loopback port, with storage of its own in a temporary
 * directory; and a push of OCI layouts into it over the distribution protocol.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Agent, request } from "undici";

export interface Registry {
  /** `127.0.0.1:<port>` */
  readonly host: string;
  /** `http://127.0.0.1:<port>` */
  readonly endpoint: string;
  readonly storage: string;
  /** Kills it as a crash would; `close` is still to be called. */
  kill(): Promise<void>;
  /** Ends it and removes its storage. */
  close(): Promise<void>;
}

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface RegistryGuard {
  /** PEM files; HTTPS then. */
  readonly tls?: { readonly certificate: string; readonly key: string } | undefined;
  /** The value of `auth` in the registry's configuration, as YAML flow. */
  readonly auth?: string | undefined;
}

/** Starts a registry and waits until it answers. */
export async function startRegistry(program = "docker-registry", guard: RegistryGuard = {}): Promise<Registry> {
  const dir = await mkdtemp(join(tmpdir(), "minke-registry-"));
  const port = await freePort();
  const storage = join(dir, "storage");
  const config = [
    "version: 0.1",
    "log: { level: error, accesslog: { disabled: true } }",
    `storage: { filesystem: { rootdirectory: ${JSON.stringify(storage)} }, delete: { enabled: true } }`,
    `http: { addr: "127.0.0.1:${port}"${guard.tls ? `, tls: { certificate: ${JSON.stringify(guard.tls.certificate)}, key: ${JSON.stringify(guard.tls.key)} }` : ""} }`,
    ...(guard.auth === undefined ? [] : [`auth: ${guard.auth}`]),
  ];
  await writeFile(join(dir, "config.yml"), `${config.join("\n")}\n`);
  const child = spawn(program, ["serve", join(dir, "config.yml")], {
    stdio: "ignore",
    env: { OTEL_TRACES_EXPORTER: "none" },
  });
  const ended = new Promise<void>((resolve) => {
    child.once("error", () => resolve());
    child.once("exit", () => resolve());
  });
  const kill = async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await ended;
  };
  const close = async () => {
    await kill();
    await rm(dir, { recursive: true, force: true });
  };
  const endpoint = `${guard.tls ? "https" : "http"}://127.0.0.1:${port}`;
  try {
    await answers(endpoint, child);
  } catch (err) {
    await close();
    throw err;
  }
  return { host: `127.0.0.1:${port}`, endpoint, storage, kill, close };
}

/** Only to see whether it is up: its certificate is one of the test's own. */
const unverified = new Agent({ connect: { rejectUnauthorized: false } });

async function answers(endpoint: string, child: ChildProcess): Promise<void> {
  for (let waitedMs = 0; waitedMs < 10_000; waitedMs += 20) {
    if (child.exitCode !== null || child.pid === undefined)
      throw new Error("docker-registry has ended; is it installed?");
    const status = await request(`${endpoint}/v2/`, { dispatcher: unverified }).then(
      async ({ statusCode, body }) => (await body.dump(), statusCode),
      () => 0,
    );
    if (status === 200 || status === 401) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("docker-registry does not answer");
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

/**
 * Pushes every image of a layout; `minke.test/nginx:1` becomes `<host>/minke.test/nginx:1` there.
 *
 * @param repositoryOf maps the reference of the layout to repository and tag in the registry
 * @returns references to pull by
 */
export async function pushLayout(
  registry: Registry,
  layoutDir: string,
  repositoryOf: (ref: string) => { repository: string; tag: string } = splitTag,
): Promise<string[]> {
  const index = JSON.parse(await readFile(join(layoutDir, "index.json"), "utf8")) as { manifests: Descriptor[] };
  const refs: string[] = [];
  for (const item of index.manifests) {
    const { repository, tag } = repositoryOf(item.annotations?.["org.opencontainers.image.ref.name"] ?? "");
    const bytes = await blobOf(layoutDir, item.digest);
    const manifest = JSON.parse(bytes.toString("utf8")) as { config: Descriptor; layers: Descriptor[] };
    for (const blob of [manifest.config, ...manifest.layers]) {
      await pushBlob(registry.endpoint, repository, blob.digest, await blobOf(layoutDir, blob.digest));
    }
    await pushManifest(registry.endpoint, repository, tag, item.mediaType, bytes);
    refs.push(`${registry.host}/${repository}:${tag}`);
  }
  return refs;
}

function splitTag(ref: string): { repository: string; tag: string } {
  const colon = ref.lastIndexOf(":");
  return { repository: ref.slice(0, colon), tag: ref.slice(colon + 1) };
}

function blobOf(layoutDir: string, digest: string): Promise<Buffer> {
  return readFile(join(layoutDir, "blobs/sha256", digest.slice("sha256:".length)));
}

/** One POST and one PUT, as the specification's monolithic upload. */
export async function pushBlob(endpoint: string, repository: string, digest: string, bytes: Buffer): Promise<void> {
  const present = await request(`${endpoint}/v2/${repository}/blobs/${digest}`, { method: "HEAD" });
  await present.body.dump();
  if (present.statusCode === 200) return;
  const start = await request(`${endpoint}/v2/${repository}/blobs/uploads/`, { method: "POST" });
  await start.body.dump();
  const upload = new URL(String(start.headers["location"]), endpoint);
  upload.searchParams.set("digest", digest);
  const put = await request(upload, {
    method: "PUT",
    body: bytes,
    headers: { "content-type": "application/octet-stream" },
  });
  const said = await put.body.text();
  if (put.statusCode !== 201) throw new Error(`push blob ${digest}: HTTP ${put.statusCode} ${said}`);
}

export async function pushManifest(
  endpoint: string,
  repository: string,
  tag: string,
  mediaType: string,
  bytes: Buffer,
): Promise<void> {
  const put = await request(`${endpoint}/v2/${repository}/manifests/${tag}`, {
    method: "PUT",
    body: bytes,
    headers: { "content-type": mediaType },
  });
  const said = await put.body.text();
  if (put.statusCode !== 201) throw new Error(`push manifest ${repository}:${tag}: HTTP ${put.statusCode} ${said}`);
}
