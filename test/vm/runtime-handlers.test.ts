/**
 * Debian's crun and runc as runtime handlers, on a host with cgroup v2 alone as it wants it: through crictl
 * and as a pod. The whole behaviour is in test/system/runtime-handler.test.ts; runc, whose command line crun's
 * is, shows here that it runs, is limited and leaves nothing.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DAEMON_MS, HANDLERS, sharedDaemon, SLOW_MS } from "./daemon.js";
import { busyboxPod, podApi } from "./pod-api.js";
import { quoted } from "./quoted.js";
import { sharedVm } from "./shared-vm.js";
import { requiredTool } from "./tools.js";

const vm = sharedVm();
const pods = podApi(vm);
const BUSYBOX = "minke.test/busybox:1";

const output = (command: string) => vm().output(command, { timeoutMs: SLOW_MS });
const minke = (...args: string[]) => output(`node dist/cli/main.js ${args.map(quoted).join(" ")}`);
const crictl = async (...args: string[]) =>
  (
    await output(
      [requiredTool("crictl"), "-r", "unix:///run/minke/cri.sock", "-t", "60s", ...args].map(quoted).join(" "),
    )
  ).trim();

async function withJson(name: string, value: object): Promise<string> {
  await output(`cat >/tmp/${name}.json <<<${quoted(JSON.stringify(value))}`);
  return `/tmp/${name}.json`;
}

/** Starts a container of busybox in the sandbox of `pod`, a file; gives its id. */
async function start(sandbox: string, pod: string, name: string, fields: object): Promise<string> {
  const config = { metadata: { name }, image: { image: BUSYBOX }, log_path: `${name}.log`, ...fields };
  const id = await crictl("create", "--no-pull", sandbox, await withJson(name, config), pod);
  await crictl("start", id);
  return id;
}

async function ended(id: string): Promise<{ exitCode: number; reason: string }> {
  for (let tries = 0; tries < 100; tries++) {
    const { status } = JSON.parse(await crictl("inspect", id)) as {
      status: { state: string; exitCode: number; reason: string };
    };
    if (status.state === "CONTAINER_EXITED") return status;
  }
  throw new Error(`container ${id} has not ended`);
}

/** What containers could leave: mounts, cgroups, monitors, and what the runtimes keep of their own. */
const traces = () =>
  output(`cut -d' ' -f5,10- /proc/self/mountinfo | sort
    find /sys/fs/cgroup/minke/pods /sys/fs/cgroup/minke/monitors -mindepth 1 -type d
    pgrep -c minke-monitor || true
    find /var/lib/minke/{sandboxes,containers} /run/minke/{tmpfs/monitors,shm} /run/crun /run/runc -mindepth 1 2>/dev/null || true`);

beforeAll(async () => {
  requiredTool("crictl");
  await sharedDaemon(vm());
}, DAEMON_MS);

describe.each(Object.keys(HANDLERS))("%s", (handler) => {
  let before = "";
  let sandbox = "";
  let pod = "";
  beforeAll(async () => {
    before = await traces();
    const metadata = { name: `by-${handler}`, namespace: "vm", uid: handler, attempt: 0 };
    pod = await withJson("pod", { metadata, log_directory: "/tmp/handler-logs", linux: {} });
    sandbox = await crictl("runp", "--runtime", handler, pod);
  }, SLOW_MS);
  // Looks at the end of it that nothing is left.
  afterAll(async () => {
    await crictl("stopp", sandbox);
    await crictl("rmp", sandbox);
    expect(await traces()).toBe(before);
  }, SLOW_MS);

  test("gives exit code and log", { timeout: SLOW_MS }, async () => {
    const id = await start(sandbox, pod, "short", { command: ["sh", "-c", "echo out; echo err >&2; exit 3"] });
    expect(await ended(id)).toMatchObject({ exitCode: 3, reason: "Error" });
    expect((await crictl("logs", id)).split("\n").toSorted()).toEqual(["out"]);
    expect(await output("grep -c 'stderr F err' /tmp/handler-logs/short.log")).toBe("1\n");
    await crictl("rm", id);
  });

  test("sets limits in the cgroup that minke measures, and execs in it", { timeout: SLOW_MS }, async () => {
    const resources = { memory_limit_in_bytes: 64 << 20, cpu_period: 100_000, cpu_quota: 30_000 };
    const id = await start(sandbox, pod, "long", { command: ["sleep", "1000"], linux: { resources } });
    const cgroup = (await output(`find /sys/fs/cgroup/minke/pods -type d -name ${id}`)).trim();
    expect(await output(`cd ${cgroup} && cat memory.max cpu.max && wc -l <cgroup.procs`)).toBe(
      `${64 << 20}\n30000 100000\n1\n`,
    );
    expect(await crictl("exec", "--sync", "--timeout", "60", id, "sh", "-c", "echo $((6 * 7))")).toBe("42");
    expect(await crictl("stats", "-o", "json", id)).toContain(id);
    const { code } = await vm().run(
      `${requiredTool("crictl")} -r unix:///run/minke/cri.sock -t 60s exec --sync --timeout 3 ${id} sh -c 'sleep 4321 & sleep 4321'`,
      { timeoutMs: SLOW_MS },
    );
    expect(code).not.toBe(0);
    expect(await output(`wc -l <${cgroup}/cgroup.procs; find ${cgroup} -mindepth 1 -type d`)).toBe("1\n");
    // By SIGTERM: crictl's containers share the pod's PID namespace, so it is not pid 1.
    await crictl("stop", "--timeout", "10", id);
    expect((await ended(id)).exitCode).toBe(143);
    await crictl("rm", id);
  });

  if (handler === "runc") return;

  test("gives a terminal", { timeout: SLOW_MS }, async () => {
    const id = await start(sandbox, pod, "tty", { command: ["sh", "-c", "test -t 1 && stty -a"], tty: true });
    expect((await ended(id)).exitCode).toBe(0);
    expect(await crictl("logs", id)).toContain("speed 38400 baud");
    await crictl("rm", id);
  });

  test("is told of an OOM kill", { timeout: SLOW_MS }, async () => {
    const command = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
    const linux = { resources: { memory_limit_in_bytes: 16 << 20, memory_swap_limit_in_bytes: 16 << 20 } };
    const id = await start(sandbox, pod, "greedy", { command, linux });
    expect(await ended(id)).toMatchObject({ exitCode: 137, reason: "OOMKilled" });
    await crictl("rm", id);
  });

  test("refuses a command that is not there", { timeout: SLOW_MS }, async () => {
    await expect(start(sandbox, pod, "none", { command: ["/nothing"] })).rejects.toThrow(/NotFound/);
  });

  test("runs a pod by runtimeClassName", { timeout: SLOW_MS }, async () => {
    await pods.create(busyboxPod("classy", "sleep 1000", { spec: { runtimeClassName: handler } }));
    await pods.running("classy");
    expect(await output("grep -c '/bundle/rootfs .* overlay' /proc/self/mountinfo")).toBe("1\n");
    expect(await minke("exec", "classy", "--", "echo", "in it")).toBe("in it\n");
    await pods.remove("classy");
    expect(await output("grep -c '/bundle/rootfs .* overlay' /proc/self/mountinfo || true")).toBe("0\n");
  });
});
