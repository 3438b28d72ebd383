/** Images that Debian's skopeo and buildah pushed to Debian's docker-registry, pulled by the daemon and run. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { FIXTURE_LAYOUT, TestDaemon } from "../harness/daemon.js";
import { openPeers, type Peers } from "../harness/peers.js";
import { type Registry, startRegistry } from "../harness/registry.js";
import { missing, requires } from "../harness/requires.js";
import { type Certificate, makeCertificate, startTokenServer, type TokenServer } from "../harness/token-server.js";

const NEEDS = ["root", "cgroup2", "overlayfs", "registry"] as const;
const USER = { username: "anna", password: "sehrgeheim", refreshToken: "auffrischung" };
const lacking = missing(...NEEDS);

let home: string;
let peers: Peers;
let certificate: Certificate;
let tokens: TokenServer;
let daemon: TestDaemon;
const registries: Record<string, Registry> = {};

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  home = mkdtempSync(join(tmpdir(), "minke-pulled-"));
  peers = await openPeers(home);
  certificate = makeCertificate(home, "registry");
  tokens = await startTokenServer(makeCertificate(home, "signer"), USER);
  const htpasswd = join(home, "htpasswd");
  writeFileSync(htpasswd, await peers.run("htpasswd", ["-Bbn", USER.username, USER.password]));
  const basic = JSON.stringify({ htpasswd: { realm: "minke-test", path: htpasswd } });
  registries["plain"] = await startRegistry();
  registries["htpasswd"] = await startRegistry("docker-registry", { tls: certificate, auth: basic });
  registries["token"] = await startRegistry("docker-registry", { auth: tokens.auth });
  const auth = Buffer.from(`${USER.username}:${USER.password}`).toString("base64");
  const auths = Object.fromEntries(Object.values(registries).map(({ host }) => [host, { auth }]));
  writeFileSync(join(home, "config.json"), JSON.stringify({ auths }));
  daemon = await TestDaemon.start({
    tables: `
[images]
docker-config-path = "${home}/config.json"
[registries."${registries["htpasswd"].host}"]
ca = "${certificate.certificate}"
`,
  });
}, 120_000);
afterEach(async () => {
  if (!lacking) await daemon.minke(["delete", "pod", "pulled"]);
});
afterAll(async () => {
  await daemon?.dispose();
  for (const registry of Object.values(registries)) await registry.close();
  await tokens?.close();
  if (home) rmSync(home, { recursive: true, force: true });
});

const pod = (image: string, rest: string) => `
apiVersion: v1
kind: Pod
metadata: { name: pulled }
spec:
  terminationGracePeriodSeconds: 0
  containers: [{ name: main, image: "${image}", ${rest} }]
`;

test.each([
  ["plain", "gzip"],
  ["htpasswd", "zstd"],
  ["token", "gzip"],
])("an image that skopeo pushed to a %s registry, as %s, is pulled for a pod and runs", async (kind, compression) => {
  const ref = `${registries[kind]?.host}/busybox:${compression}`;
  await peers.run("skopeo", [
    ...[
      "copy",
      "--insecure-policy",
      "--dest-tls-verify=false",
      "--dest-compress-format",
      compression,
      "--dest-compress",
    ],
    ...["--dest-creds", `${USER.username}:${USER.password}`],
    `oci:${FIXTURE_LAYOUT}:minke.test/busybox:1`,
    `docker://${ref}`,
  ]);
  await daemon.runPod(pod(ref, `command: [sleep, "1000"]`));
  expect(await daemon.expect("exec", "pulled", "--", "sh", "-c", "ls -l /bin/busybox | cut -c -10")).toBe(
    "-rwxr-xr-x\n",
  );
  expect(await daemon.expect("images")).toContain(ref.replace(`:${compression}`, ""));
});

test("an image that buildah built runs with its config: user, command, directory, declared volume", async () => {
  const host = registries["plain"]?.host ?? "";
  const policy = join(home, "policy.json");
  writeFileSync(policy, '{"default":[{"type":"insecureAcceptAnything"}]}');
  const storage = ["--root", join(home, "storage"), "--runroot", join(home, "storage-run"), "--storage-driver", "vfs"];
  const buildah = (...args: string[]) => peers.run("buildah", [...storage, ...args], { timeoutMs: 120_000 });
  const signature = ["--signature-policy", policy];
  await peers.run("skopeo", [
    ...["copy", "--insecure-policy", "--dest-tls-verify=false"],
    `oci:${FIXTURE_LAYOUT}:minke.test/busybox:1`,
    `docker://${host}/base:1`,
  ]);
  const name = (await buildah("from", ...signature, "--tls-verify=false", `${host}/base:1`)).trim();
  writeFileSync(join(home, "hello"), "hallo\n");
  await buildah("copy", "--chown", "7:8", name, join(home, "hello"), "/data/hello");
  const script = "id -u; id -g; pwd; cat /data/hello; grep -c ' /data ' /proc/mounts; sleep 1000";
  await buildah(
    "config",
    "--cmd",
    JSON.stringify(["sh", "-c", script]),
    "--volume",
    "/data",
    "--workingdir",
    "/made",
    "--user",
    "7:8",
    name,
  );
  await buildah("commit", ...signature, name, "built");
  await buildah("push", ...signature, "--tls-verify=false", "built", `docker://${host}/built:1`);
  await daemon.runPod(pod(`${host}/built:1`, "env: []"));
  await expect.poll(() => daemon.expect("logs", "pulled")).toBe("7\n8\n/made\nhallo\n1\n");
}, 180_000);

test("a wrong password is ErrImagePull, and no secret is told", async () => {
  const ref = `${registries["htpasswd"]?.host}/secret:1`;
  writeFileSync(
    join(home, "config.json"),
    JSON.stringify({
      auths: { [registries["htpasswd"]?.host ?? ""]: { auth: Buffer.from("anna:falsches").toString("base64") } },
    }),
  );
  await daemon.minke(["run", "-f", "-"], { input: pod(ref, "env: []") });
  await expect
    .poll(async () => (await daemon.container("pulled", "main")).state.waiting?.reason)
    .toMatch(/^(ErrImagePull|ImagePullBackOff)$/);
  const told = (await daemon.expect("describe", "pod", "pulled")) + daemon.log;
  expect(told).toContain("HTTP 401");
  for (const secret of ["falsches", Buffer.from("anna:falsches").toString("base64")])
    expect(told).not.toContain(secret);
});
