/**
 * What `npm run bench -- pull` compares minke with: containerd and podman, each with an
 * empty store of its own for each pull, and Debian's registry that all of them pull from.
 */
import { spawn, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { request } from "node:http";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export const PEERS = [
  "podman",
  "conmon",
  "libgpgme11",
  "libsubid4",
  "skopeo",
  "golang-github-containers-common",
  "golang-github-containers-image",
];
const DEADLINE_MS = 60_000;

export async function startRegistry(folder, undo) {
  const port = await freePort();
  const config = join(folder, "registry.yml");
  writeFileSync(
    config,
    `version: 0.1\nlog: { level: error, accesslog: { disabled: true } }\nstorage: { filesystem: { rootdirectory: "${folder}/registry" } }\nhttp: { addr: "127.0.0.1:${port}" }\n`,
  );
  const child = spawn("docker-registry", ["serve", config], { stdio: "ignore", env: { OTEL_TRACES_EXPORTER: "none" } });
  undo.push(() => ended(child, "SIGKILL"));
  await until(async () => (await get({ host: "127.0.0.1", port, path: "/v2/" })) === 200, "docker-registry");
  return `127.0.0.1:${port}`;
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export function ended(child, signal) {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) return resolve();
    child.once("exit", () => resolve());
    child.kill(signal);
  });
}

export async function until(holds, what) {
  for (let waitedMs = 0; waitedMs < DEADLINE_MS; waitedMs += 20) {
    if (await holds().catch(() => false)) return;
    await sleep(20);
  }
  throw new Error(`${what} does not answer`);
}

/** Status of the answer; its last line in `lines` where given. */
export function get(options, body, lines) {
  return new Promise((resolve, reject) => {
    const headers = body ? { "content-type": "application/json" } : {};
    const call = request({ method: body ? "POST" : "GET", headers, ...options }, (response) => {
      let text = "";
      response.on("data", (chunk) => (text += chunk));
      response.once("end", () => {
        lines?.push(...text.trim().split("\n"));
        resolve(response.statusCode);
      });
    });
    call.once("error", reject);
    call.end(body ? JSON.stringify(body) : undefined);
  });
}

export async function pullByContainerd(scratch, reference, env, undo) {
  const socket = join(scratch, "c.sock");
  const config = join(scratch, "config.toml");
  writeFileSync(
    config,
    `version = 2\nroot = "${scratch}/root"\nstate = "${scratch}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "${socket}"\n[plugins."io.containerd.internal.v1.opt"]\npath = "${scratch}/opt"\n[plugins."io.containerd.nri.v1.nri"]\ndisable = true\n`,
  );
  const child = spawn("containerd", ["-c", config], { stdio: "ignore", env });
  child.once("error", () => undefined);
  undo.push(() => ended(child, "SIGTERM"));
  try {
    await until(
      async () => spawnSync("ctr", ["-a", socket, "version"], { env, stdio: "ignore" }).status === 0,
      "containerd",
    );
    return {
      ms: await timed(
        "ctr",
        ["-a", socket, "images", "pull", "--plain-http", "--snapshotter", "overlayfs", reference],
        env,
        undo,
      ),
    };
  } finally {
    await ended(child, "SIGTERM");
  }
}

export async function pullByPodman(scratch, reference, env, undo) {
  const policy = join(scratch, "policy.json");
  writeFileSync(policy, '{"default":[{"type":"insecureAcceptAnything"}]}');
  const storage = [
    "--root",
    join(scratch, "root"),
    "--runroot",
    join(scratch, "run"),
    "--storage-driver",
    "overlay",
    "--tmpdir",
    join(scratch, "tmp"),
  ];
  const unmount = () => spawnSync("umount", [join(scratch, "root/overlay")], { stdio: "ignore" });
  undo.push(unmount);
  const ms = await timed(
    "podman",
    [...storage, "pull", "-q", "--tls-verify=false", "--signature-policy", policy, reference],
    env,
    undo,
  );
  unmount();
  return { ms };
}

/** Milliseconds that a program takes from its start to its end. */
function timed(program, args, env, undo) {
  return new Promise((resolve, reject) => {
    const startedAt = performance.now();
    const child = spawn(program, args, { env, stdio: ["ignore", "ignore", "pipe"] });
    undo.push(() => ended(child, "SIGKILL"));
    let said = "";
    child.stderr.on("data", (chunk) => (said += chunk));
    child.once("error", reject);
    child.once("close", (code) =>
      code === 0
        ? resolve(performance.now() - startedAt)
        : reject(new Error(`${program} ended with ${code}: ${said.trim().split("\n").at(-1)}`)),
    );
  });
}
