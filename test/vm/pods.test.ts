/** The daemon on this kernel: the sample pod, its page, what limits do to a pod, and what is left. */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { quoted } from "./quoted.js";
import { sharedVm } from "./shared-vm.js";

const vm = sharedVm();
/** The daemon loads in five seconds here, in a minute while the host's two cores are shared by ten. */
const SLOW_MS = 180_000;
const LOG = "/tmp/minke-daemon.log";
const PID_FILE = "/tmp/minke-daemon.pid";

const minke = (...args: string[]) => `node dist/cli/main.js ${args.map(quoted).join(" ")}`;

interface ContainerStatus {
  readonly name: string;
  readonly containerID?: string;
  readonly restartCount: number;
  readonly state: {
    readonly running?: object;
    readonly terminated?: { readonly exitCode: number; readonly reason: string };
  };
}

interface Pod {
  readonly status: {
    readonly phase: string;
    readonly podIPs?: readonly { readonly ip: string }[];
    readonly containerStatuses?: readonly ContainerStatus[];
  };
}

/** A request to the daemon's API: curl takes a tenth of a second, the minke command two. */
async function api(method: string, path: string, body?: string): Promise<{ status: number; text: string }> {
  const url = `http://localhost/api/v1/namespaces/default/pods${path}`;
  const data = body === undefined ? "" : `-H 'Content-Type: application/json' --data ${quoted(body)}`;
  const curl = `curl -s -X ${method} --unix-socket /run/minke/api.sock -w '\\n%{http_code}' ${data} ${quoted(url)}`;
  const lines = (await vm().output(curl)).split("\n");
  return { status: Number(lines.pop()), text: lines.join("\n") };
}

async function create(manifest: string): Promise<void> {
  const { status, text } = await api("POST", "", manifest);
  if (status !== 201) throw new Error(`create pod: ${status} ${text}`);
}

async function pod(name: string): Promise<Pod> {
  const { status, text } = await api("GET", `/${name}`);
  if (status !== 200) throw new Error(`get pod ${name}: ${status} ${text}`);
  return JSON.parse(text) as Pod;
}

/** Deletes it and waits until it is gone. */
async function remove(name: string): Promise<void> {
  await api("DELETE", `/${name}`);
  await until(`pod ${name} is gone`, async () => (await api("GET", `/${name}`)).status === 404 || undefined);
}

/** The first answer that is there; asked every quarter of a second. */
async function until<T>(what: string, ask: () => Promise<T | undefined>): Promise<T> {
  const deadline = performance.now() + SLOW_MS;
  while (performance.now() < deadline) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    await sleep(250);
  }
  throw new Error(`not in ${SLOW_MS / 1000} s: ${what}\n${await vm().output(`tail -30 ${LOG}`)}`);
}

/** A pod of one busybox container named "main". */
function busybox(name: string, script: string, resources: object): string {
  const container = { name: "main", image: "minke.test/busybox:1", command: ["sh", "-c", script], resources };
  const spec = { restartPolicy: "Never", terminationGracePeriodSeconds: 0, containers: [container] };
  return JSON.stringify({ apiVersion: "v1", kind: "Pod", metadata: { name }, spec });
}

const ended = (name: string) =>
  until(`pod ${name} has ended`, async () => (await pod(name)).status.containerStatuses?.[0]?.state.terminated);

/** Directory of the cgroup of its only container, once that runs. */
async function cgroup(name: string): Promise<string> {
  const id = await until(`pod ${name} runs`, async () => {
    const status = (await pod(name)).status.containerStatuses?.[0];
    return status?.state.running && status.containerID?.replace(/^.*:\/\//, "");
  });
  return (await vm().output(`find /sys/fs/cgroup/minke/pods -type d -name ${quoted(id)}`)).trim();
}

/** What pods could leave behind: mounts, cgroups below pods, links, namespaces and processes. */
function traces(): Promise<string> {
  return vm().output(`
    cut -d' ' -f5,10- /proc/self/mountinfo | sort
    find /sys/fs/cgroup/minke/pods /sys/fs/cgroup/minke/monitors -mindepth 1 -type d
    ip -o link | cut -d: -f2
    lsns -n -o NS -t net; lsns -n -o NS -t pid
    pgrep -c minke-monitor || true
    find /var/lib/minke/{sandboxes,containers,volumes,logs} /run/minke/{monitors,shm} -mindepth 1 2>/dev/null || true`);
}

/** Starts the daemon and waits until it answers; its pid is in PID_FILE. */
function startDaemon(): Promise<string> {
  return vm().output(
    `setsid ${minke("daemon")} >>${LOG} 2>&1 & echo $! >${PID_FILE}
     for i in $(seq 800); do curl -sf --unix-socket /run/minke/api.sock http://localhost/healthz && exit; sleep 0.2; done
     cat ${LOG}; exit 1`,
    { timeoutMs: SLOW_MS },
  );
}

beforeAll(async () => {
  await startDaemon();
  await vm().output(minke("load", ".cache/fixtures/layout"), { timeoutMs: SLOW_MS });
}, 2 * SLOW_MS);

afterAll(async () => {
  await vm().output(minke("daemon", "stop", "--pods"), { timeoutMs: SLOW_MS });
}, SLOW_MS);

describe("examples/web.yaml", () => {
  let before = "";

  test("becomes ready", { timeout: 2 * SLOW_MS }, async () => {
    before = await traces();
    await vm().output(minke("run", "-f", "examples/web.yaml", "--wait", "--timeout", "150"), { timeoutMs: SLOW_MS });
    expect((await pod("web")).status.phase).toBe("Running");
  });

  test("serves its page on both pod addresses and on the host port", { timeout: SLOW_MS }, async () => {
    const ips = (await pod("web")).status.podIPs?.map(({ ip }) => (ip.includes(":") ? `[${ip}]` : ip)) ?? [];
    expect(ips).toHaveLength(2);
    for (const address of [...ips, "127.0.0.1:8080"]) {
      expect(await vm().output(`/run/vm/busybox wget -q -O - http://${address}/`)).toMatch(/refreshed \d+ times/);
    }
  });

  test("shares one /dev/shm between its containers", { timeout: SLOW_MS }, async () => {
    await vm().output(minke("exec", "web", "-c", "server", "--", "sh", "-c", "echo shared >/dev/shm/file"));
    expect(await vm().output(minke("exec", "web", "-c", "refresh", "--", "cat", "/dev/shm/file"))).toBe("shared\n");
  });

  test("outlives its daemon and is adopted by the next one", { timeout: 2 * SLOW_MS }, async () => {
    const before = (await pod("web")).status.containerStatuses;
    await vm().output(`kill -9 $(cat ${PID_FILE}); while kill -0 $(cat ${PID_FILE}) 2>/dev/null; do sleep 0.1; done`);
    await startDaemon();
    expect((await pod("web")).status.containerStatuses).toEqual(before);
    expect(await vm().output("/run/vm/busybox wget -q -O - http://127.0.0.1:8080/")).toMatch(/refreshed \d+ times/);
  });

  test("is deleted and leaves nothing", { timeout: SLOW_MS }, async () => {
    await remove("web");
    expect(await traces()).toBe(before);
  });
});

describe("a pod's limits", () => {
  test("are in the files of its container's cgroup", { timeout: 2 * SLOW_MS }, async () => {
    const limits = { cpu: "300m", memory: "48Mi", "hugepages-2Mi": "4Mi" };
    const resources = { limits, requests: { cpu: "250m", memory: "32Mi", "hugepages-2Mi": "4Mi" } };
    await create(busybox("limited", "sleep 600", resources));
    const files = ["cpu.max", "cpu.weight", "memory.max", "hugetlb.2MB.max"];
    const text = await vm().output(`cd ${await cgroup("limited")} && cat ${files.join(" ")}`);
    await remove("limited");
    // 250m are 256 shares, which are weight 35 of 1 to 10000.
    expect(text.trim().split("\n")).toEqual(["30000 100000", "35", String(48 << 20), String(4 << 20)]);
  });

  test("memory kills the container: OOMKilled, 137", { timeout: 2 * SLOW_MS }, async () => {
    const script = "dd if=/dev/zero of=/dev/null bs=64M count=1; echo survived";
    await create(busybox("greedy", `exec ${script}`, { limits: { memory: "16Mi" } }));
    expect(await ended("greedy")).toMatchObject({ reason: "OOMKilled", exitCode: 137 });
    await remove("greedy");
  });

  test("cpu of a fifth gives a busy loop a fifth", { timeout: 2 * SLOW_MS }, async () => {
    await create(busybox("busy", "while :; do :; done", { limits: { cpu: "200m" } }));
    const used = `head -1 ${await cgroup("busy")}/cpu.stat | cut -d' ' -f2`;
    const clock = "date +%s%6N";
    const [atUs = 0, usedUs = 0, laterUsedUs = 0, laterAtUs = 0] = (
      await vm().output(`${clock}; ${used}; sleep 5; ${used}; ${clock}`)
    )
      .split("\n")
      .map(Number);
    await remove("busy");
    expect((laterUsedUs - usedUs) / (laterAtUs - atUs)).toBeGreaterThan(0.1);
    expect((laterUsedUs - usedUs) / (laterAtUs - atUs)).toBeLessThan(0.25);
  });
});
