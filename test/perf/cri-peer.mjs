/**
 * containerd with crun and a CNI bridge, for a benchmark beside minke: Debian sid's (sid.mjs), with folders, sockets,
 * a bridge and a subnet of its own.
 *
 * It runs in a private mount namespace with a fresh cgroup2 on /sys/fs/cgroup, since crun refuses hybrid hosts, and
 * without limits of cgroups, which that one has no controllers for; and in a PID namespace, so that its shims, pods,
 * mounts and network namespaces end with it, however the benchmark ends.
 */
import { spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { file, layer } from "../../rootfs-fixtures/images.mjs";
import { writeLayout } from "../../rootfs-fixtures/oci-layout.mjs";
import { findCgroup2 } from "./floor.mjs";
import { peerPrograms } from "./sid.mjs";

const project = fileURLToPath(new URL("../..", import.meta.url));
const CRUN_SOURCE = fileURLToPath(new URL("crun_without_resources.c", import.meta.url));
const START_DEADLINE_MS = 20_000;
const KILL_DEADLINE_MS = 5_000;
const SUBNET = "10.202.248.0/22";
const PAUSE = "minke.test/pause:1";
const BUSYBOX = "minke.test/busybox:1";
/** Where containerd and CNI write, whatever their configuration says: private to the peer. */
const PRIVATE = ["/run/containerd", "/var/lib/cni"];
/** In a cgroup namespace, so that all cgroups are below ours; which holds no process, as crun enables controllers in it. */
const OUTER_SCRIPT = `mount -t cgroup2 none /sys/fs/cgroup || exit
mkdir /sys/fs/cgroup/containerd && echo 0 >/sys/fs/cgroup/containerd/cgroup.procs || exit
exec setpriv --pdeathsig KILL -- unshare -p -f --kill-child --mount-proc --propagation slave "$@"`;
const INNER_SCRIPT = `for folder in ${PRIVATE.join(" ")}; do mount -t tmpfs -o mode=711 tmpfs $folder || exit; done
containerd -c "$0" &
wait $!`;

/**
 * @param {string} folder that the caller removes
 * @param {(() => unknown)[]} undo gets what ends it
 * @returns {Promise<{ name: string, socket: string, image: string, pids: (name: string) => number[] }>} `pids` of its
 *   processes of a name, as the kernel has it (15 characters at most)
 */
export async function startContainerd(folder, undo) {
  const { suite, root, env, versions } = peerPrograms();
  const scratch = join(folder, "containerd");
  mkdirSync(join(scratch, "cni"), { recursive: true });
  for (const path of PRIVATE) {
    if (existsSync(path)) continue;
    mkdirSync(path);
    undo.push(() => rmdirSync(path));
  }
  const bridge = `mkbc${process.pid.toString(36)}`;
  writeFileSync(join(scratch, "cni/10-bridge.conflist"), cniConfig(bridge));
  const crun = ["-O2", "-static", "-D_GNU_SOURCE", `-DCRUN="${root}/usr/bin/crun"`, "-o", join(scratch, "crun")];
  run("gcc", [...crun, CRUN_SOURCE]);
  const socket = join(scratch, "c.sock");
  const config = join(scratch, "config.toml");
  writeFileSync(config, containerdConfig(scratch, root, socket));
  const cgroup = join(findCgroup2(), `minke-bench-${process.pid}-peer`);
  const child = startPrivately({ scratch, config, env, bridge, cgroup }, undo);
  for (let waitedMs = 0; ; waitedMs += 50) {
    if (spawnSync("ctr", ["-a", socket, "version"], { env }).status === 0) break;
    if (child.exitCode !== null || waitedMs > START_DEADLINE_MS) {
      throw new Error(`containerd did not start:\n${readFileSync(join(scratch, "log"), "utf8")}`);
    }
    await sleep(50);
  }
  importImages(scratch, socket, env);
  const of = (name) => `${name} ${versions[name]}`;
  console.log(
    `peer: ${["containerd", "crun", "containernetworking-plugins"].map(of).join(", ")} (${suite}), CNI bridge`,
  );
  return { name: of("containerd").replace(/[+~].*/, ""), socket, image: BUSYBOX, pids: (name) => pidsIn(cgroup, name) };
}

function startPrivately({ scratch, config, env, bridge, cgroup }, undo) {
  mkdirSync(cgroup);
  undo.push(() => removeCgroup(cgroup));
  undo.push(() => spawnSync("ip", ["link", "delete", bridge], { stdio: "ignore" }));
  const log = openSync(join(scratch, "log"), "a");
  const enter = 'echo 0 >"$0/cgroup.procs" && exec unshare -m -C --propagation slave sh -c "$@"';
  const child = spawn("sh", ["-c", enter, cgroup, OUTER_SCRIPT, "sh", "sh", "-c", INNER_SCRIPT, config], {
    stdio: ["ignore", log, log],
    detached: true,
    env,
  });
  closeSync(log);
  undo.push(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
  });
  return child;
}

/** With everything below it; its processes have been killed, and take a moment. */
async function removeCgroup(path) {
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeCgroup(join(path, entry.name));
  }
  for (let waitedMs = 0; ; waitedMs += 20) {
    try {
      return rmdirSync(path);
    } catch (err) {
      if (err.code !== "EBUSY" || waitedMs > KILL_DEADLINE_MS) throw err;
      await sleep(20);
    }
  }
}

/** Pids of everything that runs in the cgroup or below, with this name. */
function pidsIn(cgroup, name) {
  const entries = readdirSync(cgroup, { recursive: true, withFileTypes: true });
  const folders = [
    cgroup,
    ...entries.filter((entry) => entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name)),
  ];
  const pids = folders.flatMap((path) => readFileSync(join(path, "cgroup.procs"), "utf8").split("\n").filter(Boolean));
  return pids.map(Number).filter((pid) => readFileSync(`/proc/${pid}/comm`, "utf8").trim() === name);
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

/** Version 2 of the format, which containerd 2 reads too. Its NRI would listen for every plugin of the machine. */
function containerdConfig(scratch, root, socket) {
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  return `version = 2
root = "${scratch}/root"
state = "${scratch}/state"
[grpc]
address = "${socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "${scratch}/opt"
[plugins."io.containerd.nri.v1.nri"]
disable = true
[${cri}]
sandbox_image = "${PAUSE}"
disable_cgroup = true
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[${cri}.cni]
bin_dir = "${root}/usr/lib/cni"
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
  run("gcc", ["-O2", "-static", "-o", program, `${program}.c`]);
  const architecture = process.arch === "x64" ? "amd64" : process.arch;
  const content = layer([{ ...file("pause", readFileSync(program)), mode: 0o755 }], "pause");
  writeLayout(pause, [{ ref: PAUSE, architecture, config: { Entrypoint: ["/pause"] }, layers: [content] }]);
  for (const layout of [pause, join(project, ".cache/fixtures/layout")]) {
    run("tar", ["-C", layout, "-cf", join(scratch, "image.tar"), "."]);
    run("ctr", ["-a", socket, "-n", "k8s.io", "images", "import", join(scratch, "image.tar")], env);
  }
}

function run(program, args, env = process.env) {
  const { status, stderr, error } = spawnSync(program, args, { encoding: "utf8", env });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}: ${error?.message ?? stderr}`);
}
