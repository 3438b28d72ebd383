/**
 * containerd with crun and a CNI bridge, for a benchmark beside minke: Debian's packages, unpacked into `.cache/peers`
 * and never installed, with folders, sockets, a bridge and a subnet of its own.
 *
 * It runs in a private mount namespace with a fresh cgroup2 on /sys/fs/cgroup, since crun refuses hybrid hosts, and
 * without limits of cgroups, which that one has no controllers for.
 */
import { spawn, spawnSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { unpackedPackages } from "../../rootfs-fixtures/debian.mjs";
import { file, layer } from "../../rootfs-fixtures/images.mjs";
import { writeLayout } from "../../rootfs-fixtures/oci-layout.mjs";
import { criClient } from "./cri-client.mjs";

const project = fileURLToPath(new URL("../..", import.meta.url));
const PACKAGES = ["containerd", "runc", "crun", "libyajl2", "containernetworking-plugins"];
const CRUN_SOURCE = fileURLToPath(new URL("crun_without_resources.c", import.meta.url));
const START_DEADLINE_MS = 20_000;
const SUBNET = "10.202.248.0/22";
const PAUSE = "minke.test/pause:1";
const BUSYBOX = "minke.test/busybox:1";

/**
 * @param {string} folder that the caller removes
 * @param {(() => Promise<void>)[]} undo gets what ends it
 * @returns {Promise<{ version: string, socket: string, image: string, pid: number }>}
 */
export async function startContainerd(folder, undo) {
  const cache = join(project, ".cache/peers");
  mkdirSync(cache, { recursive: true });
  const unpacked = unpackedPackages(PACKAGES, cache);
  const scratch = join(folder, "containerd");
  mkdirSync(join(scratch, "cni"), { recursive: true });
  const env = {
    ...process.env,
    PATH: `${join(unpacked, "usr/bin")}:${join(unpacked, "usr/sbin")}:${process.env.PATH}`,
    LD_LIBRARY_PATH: join(unpacked, "usr/lib/x86_64-linux-gnu"),
  };
  const bridge = `mkbc${process.pid.toString(36)}`;
  writeFileSync(join(scratch, "cni/10-bridge.conflist"), cniConfig(bridge));
  const crun = ["-O2", "-D_GNU_SOURCE", `-DCRUN="${unpacked}/usr/bin/crun"`, "-o", join(scratch, "crun"), CRUN_SOURCE];
  run("gcc", crun, env);
  const socket = join(scratch, "c.sock");
  writeFileSync(join(scratch, "config.toml"), containerdConfig(scratch, unpacked, socket));
  const log = openSync(join(scratch, "log"), "a");
  const script = 'mount -t cgroup2 none /sys/fs/cgroup && exec containerd -c "$0"';
  const args = ["-m", "--propagation", "slave", "sh", "-c", script, join(scratch, "config.toml")];
  const child = spawn("unshare", args, { stdio: ["ignore", log, log], env });
  closeSync(log);
  undo.push(async () => {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGTERM");
      await ended;
    }
    spawnSync("ip", ["link", "delete", bridge], { stdio: "ignore" });
  });
  const { call, close } = criClient(socket);
  for (let waitedMs = 0; ; waitedMs += 50) {
    const version = await call("version").catch(() => undefined);
    if (version) {
      close();
      importImages(scratch, socket, env);
      const { stdout } = spawnSync("crun", ["--version"], { encoding: "utf8", env });
      const name = `containerd ${version.runtimeVersion.replace(/~.*/, "")}`;
      console.log(`peer: ${name}, ${stdout.split("\n")[0]}, CNI bridge of Debian`);
      return { version: name, socket, image: BUSYBOX, pid: child.pid };
    }
    if (child.exitCode !== null || waitedMs > START_DEADLINE_MS) {
      throw new Error(`containerd did not start:\n${readFileSync(join(scratch, "log"), "utf8")}`);
    }
    await sleep(50);
  }
}

function cniConfig(bridge) {
  return JSON.stringify({
    cniVersion: "0.4.0",
    name: "bench",
    plugins: [
      {
        type: "bridge",
        bridge,
        isGateway: true,
        ipam: { type: "host-local", ranges: [[{ subnet: SUBNET }]], routes: [{ dst: "0.0.0.0/0" }] },
      },
    ],
  });
}

function containerdConfig(scratch, unpacked, socket) {
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  return `version = 2
root = "${scratch}/root"
state = "${scratch}/state"
[grpc]
address = "${socket}"
[${cri}]
sandbox_image = "${PAUSE}"
disable_cgroup = true
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[${cri}.cni]
bin_dir = "${unpacked}/usr/lib/cni"
conf_dir = "${scratch}/cni"
[${cri}.containerd]
default_runtime_name = "crun"
[${cri}.containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
[${cri}.containerd.runtimes.crun.options]
BinaryName = "${scratch}/crun"
`;
}

function importImages(scratch, socket, env) {
  const pause = join(scratch, "pause");
  const program = join(scratch, "pause.bin");
  writeFileSync(`${program}.c`, "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n");
  run("gcc", ["-O2", "-static", "-o", program, `${program}.c`], env);
  const architecture = process.arch === "x64" ? "amd64" : process.arch;
  const content = layer([{ ...file("pause", readFileSync(program)), mode: 0o755 }], "pause");
  writeLayout(pause, [{ ref: PAUSE, architecture, config: { Entrypoint: ["/pause"] }, layers: [content] }]);
  for (const layout of [pause, join(project, ".cache/fixtures/layout")]) {
    run("tar", ["-C", layout, "-cf", join(scratch, "image.tar"), "."], env);
    run("ctr", ["-a", socket, "-n", "k8s.io", "images", "import", join(scratch, "image.tar")], env);
  }
}

function run(program, args, env) {
  const { status, stderr, error } = spawnSync(program, args, { encoding: "utf8", env });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}: ${error?.message ?? stderr}`);
}
