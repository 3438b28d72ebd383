/**
 * Pods with user namespaces on a kernel whose overlayfs takes no detached layers (before Linux 6.15):
 * over CRI with ids of the caller's, and `hostUsers: false`. Everything else about them is in
 * test/system/cri-userns.test.ts, on the host's kernel.
 */
import { beforeAll, expect, test } from "vitest";
import { DAEMON_MS, DATA, killDaemon, sharedDaemon, SLOW_MS, startDaemon } from "./daemon.js";
import { busyboxPod, podApi } from "./pod-api.js";
import { quoted } from "./quoted.js";
import { sharedVm } from "./shared-vm.js";
import { requiredTool } from "./tools.js";

const vm = sharedVm();
const pods = podApi(vm);
const FIRST = 300_000;
const RANGE = { host_id: FIRST, container_id: 0, length: 65_536 };

const output = (command: string) => vm().output(command, { timeoutMs: SLOW_MS });
const crictl = async (...args: string[]) =>
  (
    await output(
      [requiredTool("crictl"), "-r", "unix:///run/minke/cri.sock", "-t", "60s", ...args].map(quoted).join(" "),
    )
  ).trim();

async function withJson(name: string, value: object): Promise<string> {
  await output(`cat >/tmp/userns-${name}.json <<<${quoted(JSON.stringify(value))}`);
  return `/tmp/userns-${name}.json`;
}

/** What pods could leave: mounts, cgroups, monitors and files. */
const traces = () =>
  output(`cut -d' ' -f5,10- /proc/self/mountinfo | sort
    find /sys/fs/cgroup/minke/pods /sys/fs/cgroup/minke/monitors -mindepth 1 -type d
    pgrep -c minke-monitor || true
    find /var/lib/minke/{sandboxes,containers,volumes} /run/minke/{tmpfs/monitors,shm} -mindepth 1 2>/dev/null || true`);

/** Of the host's mount table, which never holds a container's. */
const overlays = () => output("grep -c ' - overlay ' /proc/self/mountinfo || true");

/** A sandbox with the user namespace, and its file for crictl. */
async function runSandbox(name: string): Promise<{ sandbox: string; pod: string }> {
  const namespace_options = { pid: 1, userns_options: { mode: 0, uids: [RANGE], gids: [RANGE] } };
  const pod = await withJson(name, {
    metadata: { name, namespace: "vm", uid: name, attempt: 0 },
    log_directory: "/tmp/userns-logs",
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
  requiredTool("crictl");
  await sharedDaemon(vm());
}, DAEMON_MS);

test("a CRI pod's root owns its image and its volumes, and is nobody outside", { timeout: 2 * SLOW_MS }, async () => {
  const [before, overlaysBefore] = [await traces(), await overlays()];
  const inside = await runSandbox("mapped");
  await output(`mkdir -p ${DATA} && touch ${DATA}/seven && chown 7:8 ${DATA}/seven`);
  const mount = { container_path: "/data", host_path: DATA, uidMappings: [RANGE], gidMappings: [RANGE] };
  const id = await start(inside, "main", { mounts: [mount] });
  expect((await within(id, "cat", "/proc/self/uid_map")).split(/\s+/)).toEqual(["0", `${FIRST}`, "65536"]);
  const stat = await within(id, "stat", "-c", "%u:%g", "/", "/bin/busybox", "/etc/hosts", "/data", "/data/seven");
  expect(stat.split("\n")).toEqual(["0:0", "0:0", "0:0", "0:0", "7:8"]);
  await within(id, "sh", "-c", "touch /new /data/new && chown 5:6 /new /data/new /bin/busybox");
  expect(await within(id, "stat", "-c", "%u:%g", "/new", "/bin/busybox")).toBe("5:6\n5:6");
  expect(await output(`stat -c %u:%g /var/lib/minke/containers/${id}/upper/new ${DATA}/new`)).toBe(
    `${FIRST + 5}:${FIRST + 6}\n5:6\n`,
  );
  expect(await overlays()).toBe(overlaysBefore);
  await crictl("stopp", inside.sandbox);
  await crictl("rmp", inside.sandbox);
  expect(await traces()).toBe(before);
});

/** A pod of one busybox container that says what it sees; `volume` is mounted at /data. */
const LOOK = "cat /proc/self/uid_map; stat -c %u:%g /data /data/x";
const unprivileged = (name: string, volume: object) =>
  busyboxPod(name, `touch /data/x && chown 5:6 /data/x; ${LOOK}; exec sleep 1000`, {
    container: { volumeMounts: [{ name: "data", mountPath: "/data" }] },
    spec: { hostUsers: false, volumes: [{ name: "data", ...volume }] },
  });

test("a pod with hostUsers false owns its volume, outlives its daemon and leaves nothing", {
  timeout: 3 * SLOW_MS,
}, async () => {
  const before = await traces();
  await pods.create(unprivileged("unprivileged", { emptyDir: {} }));
  const found = await pods.until("all lines of its log", async () => {
    const { text } = await pods.ask("GET", "pods/unprivileged/log");
    return text.includes("5:6") ? text : undefined;
  });
  expect(found.trim().split(/\s+/)).toEqual(["0", expect.stringMatching(/^\d{10}$/), "65536", "0:0", "5:6"]);
  await killDaemon(vm());
  await startDaemon(vm());
  const seen = await output(`node dist/cli/main.js exec unprivileged -- sh -c ${quoted(LOOK)}`);
  expect(seen.trim()).toBe(found.trim());
  await pods.remove("unprivileged");
  expect(await traces()).toBe(before);
});

test("a volume whose file system maps no ids is an error that says so", { timeout: 2 * SLOW_MS }, async () => {
  const [major = 0, minor = 0] = (await output("uname -r")).split(".").map(Number);
  await pods.create(unprivileged("memory", { emptyDir: { medium: "Memory" } }));
  const told = async () => /maps no ids on this kernel/.test((await pods.ask("GET", "events")).text);
  const runs = async () => (await pods.pod("memory")).status.phase === "Running";
  const hasMappedTmpfs = major > 6 || (major === 6 && minor >= 3);
  await expect.poll(hasMappedTmpfs ? runs : told, { timeout: SLOW_MS, interval: 1_000 }).toBe(true);
  await pods.remove("memory");
});
