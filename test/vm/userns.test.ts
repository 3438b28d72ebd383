/**
 * Pods with user namespaces on a kernel whose overlayfs takes no detached layers (before Linux 6.15):
 * over CRI with ids of the caller's, and `hostUsers: false`. Everything else about them is in
 * test/system/cri-userns.test.ts, on the host's kernel.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { quoted } from "./quoted.js";
import { sharedVm } from "./shared-vm.js";

const vm = sharedVm();
const SLOW_MS = 240_000;
const CRICTL = fileURLToPath(new URL("../../.cache/bin/crictl", import.meta.url));
/** On a disk of its own: before Linux 6.3 the ids of a tmpfs, as the VM has everywhere, cannot be mapped. */
const PLACE = "/tmp/userns";
const DIRS = ["--root", `${PLACE}/root`, "--run", "/run/userns"];
const SETTINGS = `cgroup-root = "userns"
[network]
bridge = "userns0"
subnet-ipv4 = "10.77.0.0/16"
subnet-ipv6 = "fd77::/64"
`;
const FIRST = 300_000;
const RANGE = { host_id: FIRST, container_id: 0, length: 65_536 };

const output = (command: string) => vm().output(command, { timeoutMs: SLOW_MS });
/** The words after `--` are a container's. */
const minke = (verb: string, ...args: string[]) =>
  output(
    `node dist/cli/main.js ${[verb, ...(verb === "daemon" ? [...args, ...DIRS] : [...DIRS, ...args])].map(quoted).join(" ")}`,
  );
const crictl = async (...args: string[]) =>
  (await output([CRICTL, "-r", "unix:///run/userns/cri.sock", "-t", "60s", ...args].map(quoted).join(" "))).trim();

async function withJson(name: string, value: object): Promise<string> {
  await output(`cat >${PLACE}/${name}.json <<<${quoted(JSON.stringify(value))}`);
  return `${PLACE}/${name}.json`;
}

/** What pods could leave: mounts, cgroups, monitors and files. */
const traces = () =>
  output(`cut -d' ' -f5,10- /proc/self/mountinfo | sort
    find /sys/fs/cgroup/userns/pods /sys/fs/cgroup/userns/monitors -mindepth 1 -type d
    pgrep -c minke-monitor || true
    find ${PLACE}/root/{sandboxes,containers,volumes} /run/userns/{monitors,shm} -mindepth 1 2>/dev/null || true`);

/** Of the host's mount table, which never holds a container's. */
const overlays = () => output("grep -c ' - overlay ' /proc/self/mountinfo || true");

/** Starts the daemon and waits until it answers. */
const startDaemon = () =>
  output(`cat >${PLACE}/config.toml <<<${quoted(SETTINGS)}
    setsid node dist/cli/main.js daemon ${DIRS.join(" ")} --config ${PLACE}/config.toml >>${PLACE}/log 2>&1 &
    echo $! >${PLACE}/pid
    for i in $(seq 800); do curl -sf --unix-socket /run/userns/api.sock http://localhost/healthz && exit; sleep 0.2; done
    cat ${PLACE}/log; exit 1`);

const killDaemon = () =>
  output(`kill -9 $(cat ${PLACE}/pid); while kill -0 $(cat ${PLACE}/pid) 2>/dev/null; do sleep 0.1; done`);

/** A sandbox with the user namespace, and its file for crictl. */
async function runSandbox(name: string): Promise<{ sandbox: string; pod: string }> {
  const namespace_options = { pid: 1, userns_options: { mode: 0, uids: [RANGE], gids: [RANGE] } };
  const pod = await withJson(name, {
    metadata: { name, namespace: "vm", uid: name, attempt: 0 },
    log_directory: `${PLACE}/logs`,
    linux: { security_context: { namespace_options } },
  });
  return { sandbox: await crictl("runp", pod), pod };
}

async function start(
  { sandbox, pod }: { sandbox: string; pod: string },
  name: string,
  fields: object,
): Promise<string> {
  const security_context = { namespace_options: { pid: 1 } };
  const config = { metadata: { name }, image: { image: "minke.test/busybox:1" }, log_path: `${name}.log` };
  const file = await withJson(name, { ...config, command: ["sleep", "1000"], linux: { security_context }, ...fields });
  const id = await crictl("create", "--no-pull", sandbox, file, pod);
  await crictl("start", id);
  return id;
}

const within = (id: string, ...command: string[]) => crictl("exec", "--sync", "--timeout", "60", id, ...command);

beforeAll(async () => {
  if (!existsSync(CRICTL)) throw new Error(`${CRICTL} is not there: run \`bash .ci/crictl\` (needs Go 1.26)`);
  await output(`mkdir -p ${PLACE} && truncate -s 512M /tmp/userns.disk && mkfs.ext4 -q /tmp/userns.disk
    modprobe loop; mount -o loop /tmp/userns.disk ${PLACE}`);
  await startDaemon();
  await minke("load", ".cache/fixtures/layout");
}, 2 * SLOW_MS);

afterAll(async () => {
  await minke("daemon", "stop", "--pods");
  await output(`umount ${PLACE}; rm -f /tmp/userns.disk`);
}, SLOW_MS);

test("a CRI pod's root owns its image and its volumes, and is nobody outside", { timeout: 2 * SLOW_MS }, async () => {
  const [before, overlaysBefore] = [await traces(), await overlays()];
  const inside = await runSandbox("mapped");
  await output(`mkdir -p ${PLACE}/data && touch ${PLACE}/data/seven && chown 7:8 ${PLACE}/data/seven`);
  const mount = { container_path: "/data", host_path: `${PLACE}/data`, uidMappings: [RANGE], gidMappings: [RANGE] };
  const id = await start(inside, "main", { mounts: [mount] });
  expect((await within(id, "cat", "/proc/self/uid_map")).split(/\s+/)).toEqual(["0", `${FIRST}`, "65536"]);
  const stat = await within(id, "stat", "-c", "%u:%g", "/", "/bin/busybox", "/etc/hosts", "/data", "/data/seven");
  expect(stat.split("\n")).toEqual(["0:0", "0:0", "0:0", "0:0", "7:8"]);
  await within(id, "sh", "-c", "touch /new /data/new && chown 5:6 /new /data/new /bin/busybox");
  expect(await within(id, "stat", "-c", "%u:%g", "/new", "/bin/busybox")).toBe("5:6\n5:6");
  expect(await output(`stat -c %u:%g ${PLACE}/root/containers/${id}/upper/new ${PLACE}/data/new`)).toBe(
    `${FIRST + 5}:${FIRST + 6}\n5:6\n`,
  );
  expect(await overlays()).toBe(overlaysBefore);
  await crictl("stopp", inside.sandbox);
  await crictl("rmp", inside.sandbox);
  expect(await traces()).toBe(before);
});

/** A pod of one busybox container; `volume` is mounted at /data. */
const manifest = (name: string, volume: object) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name },
  spec: {
    hostUsers: false,
    terminationGracePeriodSeconds: 0,
    volumes: [{ name: "data", ...volume }],
    containers: [
      {
        name: "main",
        image: "minke.test/busybox:1",
        command: ["sh", "-c", "touch /data/x && chown 5:6 /data/x; exec sleep 1000"],
        volumeMounts: [{ name: "data", mountPath: "/data" }],
      },
    ],
  },
});

test("a pod with hostUsers false owns its volume, outlives its daemon and leaves nothing", {
  timeout: 3 * SLOW_MS,
}, async () => {
  const before = await traces();
  const file = await withJson("pod", manifest("unprivileged", { emptyDir: {} }));
  await minke("run", "-f", file, "--wait", "--timeout", "150");
  const look = () =>
    minke("exec", "unprivileged", "--", "sh", "-c", "cat /proc/self/uid_map; stat -c %u:%g /data /data/x");
  const found = await look();
  expect(found.trim().split(/\s+/)).toEqual(["0", expect.stringMatching(/^\d{10}$/), "65536", "0:0", "5:6"]);
  await killDaemon();
  await startDaemon();
  expect(await look()).toBe(found);
  await minke("delete", "pod", "unprivileged");
  expect(await traces()).toBe(before);
});

test("a volume whose file system maps no ids is an error that says so", { timeout: 2 * SLOW_MS }, async () => {
  const [major = 0, minor = 0] = (await output("uname -r")).split(".").map(Number);
  const file = await withJson("memory", manifest("memory", { emptyDir: { medium: "Memory" } }));
  await minke("run", "-f", file);
  const get = (nouns: string) =>
    output(`curl -sf --unix-socket /run/userns/api.sock http://localhost/api/v1/namespaces/default/${nouns}`);
  const told = async () => /maps no ids on this kernel/.test(await get("events"));
  const runs = async () => /"phase": ?"Running"/.test(await get("pods"));
  const hasMappedTmpfs = major > 6 || (major === 6 && minor >= 3);
  await expect.poll(hasMappedTmpfs ? runs : told, { timeout: SLOW_MS, interval: 1_000 }).toBe(true);
  await minke("delete", "pod", "memory");
});
