// @ts-check
/**
 * A registry on loopback (Debian's docker-registry) with the images of an OCI layout.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const START_MS = 10_000;

/**
 * Starts one below `dir`, empty, on a free port.
 *
 * @param {string} dir absolute
 * @returns {Promise<{ address: string, close: () => Promise<void> }>}
 */
export async function startRegistry(dir) {
  const port = await freePort();
  mkdirSync(join(dir, "registry"), { recursive: true });
  const config = join(dir, "registry.yml");
  writeFileSync(
    config,
    `version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: ${join(dir, "registry")} } }
http: { addr: "127.0.0.1:${port}", secret: conformance }
`,
  );
  const child = spawn("docker-registry", ["serve", config], {
    stdio: ["ignore", "ignore", openSync(join(dir, "registry.log"), "w")],
  });
  const ended = once(child, "exit");
  const address = `http://127.0.0.1:${port}`;
  for (const giveUpAt = Date.now() + START_MS; ; await sleep(50)) {
    if (child.exitCode !== null || Date.now() > giveUpAt) throw new Error("docker-registry did not start");
    if (
      await fetch(`${address}/v2/`).then(
        (response) => response.ok,
        () => false,
      )
    )
      break;
  }
  return {
    address,
    close: async () => {
      child.kill("SIGTERM");
      await ended;
    },
  };
}

/** @returns {Promise<number>} */
export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  server.close();
  await once(server, "close");
  return port;
}

/**
 * Pushes every image of a layout. Its reference is `repository:tag`.
 *
 * @param {string} layout directory @param {string} address
 * @returns {Promise<Map<string, string>>} digest of the manifest, by reference
 */
export async function pushLayout(layout, address) {
  const blob = (/** @type {string} */ digest) => readFileSync(join(layout, "blobs", ...digest.split(":")));
  const index = JSON.parse(readFileSync(join(layout, "index.json"), "utf8"));
  /** @type {Map<string, string>} */
  const digests = new Map();
  for (const { digest, mediaType, annotations } of index.manifests) {
    const ref = annotations["org.opencontainers.image.ref.name"];
    const [repository, tag] = ref.split(":");
    const manifest = JSON.parse(blob(digest).toString("utf8"));
    for (const item of [manifest.config, ...manifest.layers])
      await pushBlob(address, repository, item.digest, blob(item.digest));
    await must(
      fetch(`${address}/v2/${repository}/manifests/${tag}`, {
        method: "PUT",
        headers: { "content-type": mediaType },
        body: blob(digest),
      }),
    );
    digests.set(ref, digest);
  }
  return digests;
}

/** @param {string} address @param {string} repository @param {string} digest @param {Buffer} bytes */
async function pushBlob(address, repository, digest, bytes) {
  const exists = await fetch(`${address}/v2/${repository}/blobs/${digest}`, { method: "HEAD" });
  if (exists.ok) return;
  const started = await must(fetch(`${address}/v2/${repository}/blobs/uploads/`, { method: "POST" }));
  const url = new URL(started.headers.get("location") ?? "", address);
  url.searchParams.set("digest", digest);
  await must(fetch(url, { method: "PUT", headers: { "content-type": "application/octet-stream" }, body: bytes }));
}

/** @param {Promise<Response>} request */
async function must(request) {
  const response = await request;
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${await response.text()}`);
  return response;
}
