/**
 * What Debian's skopeo and buildah push to Debian's docker-registry, pulled: plain, over TLS,
 * with htpasswd, and behind a token server.
 */
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { ImageStore, type ImageStoreOptions } from "../../src/image/image-store.js";
import { Paths } from "../../src/settings/paths.js";
import { fixtureLayout } from "../harness/fixtures.js";
import { openPeers, type Peers } from "../harness/peers.js";
import { type Registry, type RegistryGuard, startRegistry } from "../harness/registry.js";
import { requires } from "../harness/requires.js";
import { type Certificate, makeCertificate, startTokenServer, type TokenServer } from "../harness/token-server.js";

const USER = { username: "anna", password: "sehrgeheim", refreshToken: "auffrischung" };

let peers: Peers;
let home: string;
let layout: string;
let certificate: Certificate;
let tokens: TokenServer;
const guards: Record<string, RegistryGuard> = {};

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "minke-peers-"));
  peers = await openPeers(home);
  layout = await fixtureLayout();
  certificate = makeCertificate(home, "registry");
  const signer = makeCertificate(home, "signer");
  tokens = await startTokenServer(signer, USER);
  const htpasswd = join(home, "htpasswd");
  await writeFile(htpasswd, await peers.run("htpasswd", ["-Bbn", USER.username, USER.password]));
  const basic = JSON.stringify({ htpasswd: { realm: "minke-test", path: htpasswd } });
  Object.assign(guards, {
    plain: {},
    tls: { tls: certificate },
    htpasswd: { tls: certificate, auth: basic },
    token: { auth: tokens.auth },
  });
}, 120_000);
afterAll(async () => {
  await tokens?.close();
  await rm(home, { recursive: true, force: true });
});

let registry: Registry | undefined;
let store: ImageStore | undefined;
let root: string;
beforeEach(requires("root", "registry"));
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "minke-peers-root-"));
});
afterEach(async () => {
  await store?.close();
  await registry?.close();
  await rm(root, { recursive: true, force: true });
});

async function openStore(options: ImageStoreOptions): Promise<ImageStore> {
  store = await ImageStore.open(new Paths(root, join(root, "run")), options);
  return store;
}

/** Pushes the busybox fixture with skopeo. */
async function push(to: Registry, ...args: string[]): Promise<string> {
  const ref = `${to.host}/busybox:1`;
  const credential = `${USER.username}:${USER.password}`;
  await peers.run("skopeo", [
    "copy",
    "--insecure-policy",
    "--dest-tls-verify=false",
    ...args,
    "--dest-creds",
    credential,
    `oci:${layout}:minke.test/busybox:1`,
    `docker://${ref}`,
  ]);
  return ref;
}

test.each(["plain", "tls", "htpasswd", "token"])(
  "an image that skopeo pushed is pulled from a registry guarded by %s",
  async (guard) => {
    registry = await startRegistry("docker-registry", guards[guard]);
    const ref = await push(registry);
    const own = guards[guard]?.tls ? { ca: [certificate.certificate] } : {};
    const images = await openStore({ registries: { [registry.host]: own } });
    const record = await images.pull(ref, guards[guard]?.auth === undefined ? {} : { auth: USER });
    const [dir = ""] = images.lowerDirs(record.id);
    expect(existsSync(join(dir, "bin/busybox"))).toBe(true);
  },
);

test("a wrong password is permission-denied and leaves nothing", async () => {
  registry = await startRegistry("docker-registry", guards["htpasswd"]);
  const ref = await push(registry);
  const images = await openStore({ registries: { [registry.host]: { ca: [certificate.certificate] } } });
  const failure = images.pull(ref, { auth: { ...USER, password: "falsch" } });
  await expect(failure).rejects.toMatchObject({ kind: "permission-denied", code: "REGISTRY_UNAUTHORIZED" });
  await expect(failure).rejects.not.toThrow("falsch");
  expect(await readdir(join(root, "tmp"))).toEqual([]);
});

test("a certificate of an unknown authority is unavailable at once", async () => {
  registry = await startRegistry("docker-registry", guards["tls"]);
  const images = await openStore({ registries: { [registry.host]: { endpoint: registry.endpoint } } });
  const started = performance.now();
  await expect(images.pull(`${registry.host}/busybox:1`)).rejects.toMatchObject({ code: "REGISTRY_UNAVAILABLE" });
  expect(performance.now() - started).toBeLessThan(20_000);
});

test("an identity token is enough for a registry behind a token server", async () => {
  registry = await startRegistry("docker-registry", guards["token"]);
  const ref = await push(registry);
  const images = await openStore({});
  tokens.log.length = 0;
  const record = await images.pull(ref, { auth: { identityToken: USER.refreshToken } });
  expect(record.repoTags).toEqual([ref]);
  expect(tokens.log).toEqual(["POST known"]);
});

test("credentials that skopeo logged in with are read from its auth file", async () => {
  registry = await startRegistry("docker-registry", guards["htpasswd"]);
  const ref = await push(registry);
  const authFile = join(home, "auth.json");
  const login = ["login", "--tls-verify=false", "--authfile", authFile, "-u", USER.username, "-p", USER.password];
  await peers.run("skopeo", [...login, registry.host]);
  const own = { ca: [certificate.certificate] };
  const images = await openStore({ registries: { [registry.host]: own }, dockerConfigPath: authFile });
  expect((await images.pull(ref)).repoTags).toEqual([ref]);
  const explanation = await images.explain(ref);
  expect(explanation.endpoints[0]?.credential).toBe(
    `password of user "anna" of auths."${registry.host}" of ${authFile}`,
  );
  expect(JSON.stringify(explanation)).not.toContain(USER.password);
});

test.each(["gzip", "zstd", "docker"])("layers and manifests that skopeo made as %s are pulled", async (kind) => {
  registry = await startRegistry();
  const args = kind === "docker" ? ["--format", "v2s2"] : ["--dest-compress", "--dest-compress-format", kind];
  const ref = await push(registry, ...args);
  const images = await openStore({});
  const record = await images.pull(ref);
  expect(images.lowerDirs(record.id)).toHaveLength(1);
  const layers = new Paths(root, "").durableState("layers");
  const [file = ""] = await readdir(layers);
  expect(await readFile(join(layers, file), "utf8")).toContain(`"compression":"${kind === "zstd" ? "zstd" : "gzip"}"`);
});

test("an image that buildah built and pushed is pulled, with its config", async () => {
  registry = await startRegistry();
  const ref = `${registry.host}/built:1`;
  const policy = join(home, "policy.json");
  await writeFile(policy, '{"default":[{"type":"insecureAcceptAnything"}]}');
  const storage = ["--root", join(root, "buildah"), "--runroot", join(root, "buildah-run"), "--storage-driver", "vfs"];
  const buildah = (...args: string[]) => peers.run("buildah", [...storage, ...args], { timeoutMs: 120_000 });
  const name = (await buildah("from", "--signature-policy", policy, "scratch")).trim();
  await writeFile(join(home, "hello"), "hallo\n");
  await buildah("copy", name, join(home, "hello"), "/srv/hello");
  await buildah(
    "config",
    "--cmd",
    '["/srv/hello"]',
    "--volume",
    "/data",
    "--workingdir",
    "/srv",
    "--user",
    "7:8",
    name,
  );
  await buildah("commit", "--signature-policy", policy, name, "built");
  await buildah("push", "--signature-policy", policy, "--tls-verify=false", "built", `docker://${ref}`);
  const images = await openStore({});
  const record = await images.pull(ref);
  expect(record.config).toMatchObject({ cmd: ["/srv/hello"], volumes: ["/data"], workingDir: "/srv", user: "7:8" });
  const [dir = ""] = images.lowerDirs(record.id);
  expect(await readFile(join(dir, "srv/hello"), "utf8")).toBe("hallo\n");
}, 120_000);
