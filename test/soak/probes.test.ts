/**
 * A kubelet's probes: 100 execSync a second against 20 containers, and exec sessions beside them. Needs root.
 *
 * What grows with the number of probes shows as a difference between two halves of equal work.
 */
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { WebSocket } from "ws";
import { CriClient } from "../harness/cri.js";
import { TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";
import { SpdyClient } from "../harness/spdy-client.js";
import { scaled } from "./scale.js";

const CONTAINERS = 20;
const PROBES_PER_SECOND = 100;
const SECONDS = scaled(60);
const SESSIONS = scaled(500);
const SESSIONS_AT_ONCE = 25;
/** Of the daemon's heap, collected: compiled code and caches still come. A leak of 256 bytes a probe is 1.5 MiB in a minute. */
const DAEMON_SLACK_KIB = 1024;
/** Pages of a heap that is used in another order. */
const MONITOR_SLACK_KIB = 64;
const DEADLINE_EXCEEDED = 4;

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;
let cri: CriClient;
let containers: string[] = [];
let sandboxes: string[] = [];
let monitors: number[] = [];
let inspector: WebSocket;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  daemon = await TestDaemon.startWithImages({ env: { NODE_OPTIONS: "--inspect=127.0.0.1:0" } });
  inspector = new WebSocket(/Debugger listening on (ws:\S+)/.exec(daemon.log)?.[1] ?? "");
  await once(inspector, "open");
  cri = new CriClient(daemon.criSocket);
  for (let pod = 0; pod < CONTAINERS / 4; pod++) {
    const sandbox = await cri.runSandbox();
    sandboxes.push(sandbox);
    for (let i = 0; i < 4; i++) containers.push(await cri.startContainer(sandbox));
    const { info } = await cri.call("podSandboxStatus", { podSandboxId: sandbox, verbose: true });
    monitors.push((JSON.parse(info["info"] ?? "") as { monitor: { pid: number } }).monitor.pid);
  }
}, 120_000);
afterAll(async () => {
  for (const id of sandboxes) await cri.removeSandbox(id);
  inspector?.close();
  cri?.close();
  await daemon?.dispose();
}, 120_000);

const fdCount = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;
const anonymousKib = (pid: number): number =>
  Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);

/** An answer of the daemon's inspector. */
async function ask(method: string, params: object = {}): Promise<{ result?: { value?: unknown } }> {
  inspector.send(JSON.stringify({ id: 1, method, params }));
  const [answer] = (await once(inspector, "message")) as [Buffer];
  return (JSON.parse(answer.toString()) as { result: { result?: { value?: unknown } } }).result;
}

/** Of what is still in use. */
async function heapKib(): Promise<number> {
  // The second one takes what finalizers of the first have let go.
  for (let round = 0; round < 2; round++) await ask("HeapProfiler.collectGarbage");
  const { result } = await ask("Runtime.evaluate", { expression: "process.memoryUsage().heapUsed" });
  return Math.round(Number(result?.value) / 1024);
}

type Standing = Awaited<ReturnType<typeof standing>>;

/** Everything that a probe could leave behind. */
async function standing() {
  const pids = [daemon.pid, ...monitors];
  const snapshot = daemon.snapshot();
  return {
    processes: snapshot["processes"]?.length,
    cgroups: snapshot["cgroups"]?.length,
    files: snapshot["files"]?.length,
    fds: pids.map(fdCount),
    kib: [await heapKib(), ...monitors.map(anonymousKib)],
  };
}

/** In time, whatever the answers take: as probes of different containers are. */
async function probe(seconds: number): Promise<void> {
  const answers: Promise<void>[] = [];
  const startedAt = Date.now();
  for (let n = 0; n < seconds * PROBES_PER_SECOND; n++) {
    const dueInMs = startedAt + (n * 1000) / PROBES_PER_SECOND - Date.now();
    if (dueInMs > 0) await sleep(dueInMs);
    const containerId = containers[n % containers.length] ?? "";
    answers.push(
      cri.call("execSync", { containerId, cmd: ["echo", String(n)], timeout: 30n }).then(({ exitCode, stdout }) => {
        if (exitCode !== 0 || stdout.toString() !== `${n}\n`) throw new Error(`probe ${n} ended with ${exitCode}`);
      }),
    );
  }
  await Promise.all(answers);
}

/** What there is more of, memory aside; less is an idle connection that was closed. */
function growth(before: Standing, after: Standing): string[] {
  const counts = ({ fds, processes, cgroups, files }: Standing): [string, number | undefined][] => [
    ...fds.map((count, i): [string, number] => [`descriptors ${i}`, count]),
    ["processes", processes],
    ["cgroups", cgroups],
    ["files", files],
  ];
  const earlier = new Map(counts(before));
  return counts(after)
    .filter(([what, count]) => Number(count) > Number(earlier.get(what)))
    .map(([what, count]) => `${what}: ${earlier.get(what)} -> ${count}`);
}

async function expectNoGrowth(before: Standing): Promise<void> {
  const after = await standing();
  expect(growth(before, after)).toEqual([]);
  const grown = after.kib.map((kib, i) => kib - (before.kib[i] ?? 0));
  console.log(`grown: daemon ${grown[0]} KiB, monitors ${grown.slice(1).join(", ")} KiB`);
  expect(grown[0]).toBeLessThan(DAEMON_SLACK_KIB);
  for (const kib of grown.slice(1)) expect(kib).toBeLessThanOrEqual(MONITOR_SLACK_KIB);
}

test("a minute of 100 probes a second leaves no memory, process, cgroup, file or descriptor behind", async () => {
  await probe(Math.max(2, SECONDS / 6));
  await sleep(1500);
  const before = await standing();
  await probe(SECONDS);
  await sleep(1500);
  await expectNoGrowth(before);
}, 600_000);

test("probes that time out leave nothing: no process that they started, and no cgroup", async () => {
  const before = await standing();
  const outcomes = await Promise.all(
    containers.map((containerId) =>
      cri
        .call("execSync", {
          containerId,
          // What it starts ignores hang-ups and has left its session.
          cmd: ["sh", "-c", "setsid sh -c 'trap \"\" TERM HUP; sleep 4711' & sleep 4712"],
          timeout: 1n,
        })
        .then(
          () => 0,
          ({ code }: { code: number }) => code,
        ),
    ),
  );
  expect(new Set(outcomes)).toEqual(new Set([DEADLINE_EXCEEDED]));
  await expect.poll(async () => (await standing()).cgroups).toBe(before.cgroups);
  await expectNoGrowth(before);
}, 120_000);

test("exec sessions over SPDY, some of which just go, leave nothing", async () => {
  const session = async (n: number): Promise<void> => {
    const containerId = containers[n % containers.length] ?? "";
    const { url } = await cri.call("exec", { containerId, cmd: ["cat"], stdin: true, stdout: true, stderr: true });
    const client = await SpdyClient.connect(url, ["v4.channel.k8s.io"]);
    const error = await client.open({ streamType: "error" });
    const stdin = await client.open({ streamType: "stdin" });
    const stdout = await client.open({ streamType: "stdout" });
    await client.open({ streamType: "stderr" });
    stdin.write(`session ${n}`, n % 5 !== 0);
    // Every fifth client is gone with its process still reading.
    if (n % 5 === 0) return client.destroy();
    expect((await stdout.ended).toString()).toBe(`session ${n}`);
    await error.ended;
    client.close();
    await client.closed;
  };
  const round = async (count: number) => {
    for (let n = 0; n < count; n += SESSIONS_AT_ONCE)
      await Promise.all(Array.from({ length: SESSIONS_AT_ONCE }, (_, i) => session(n + i)));
    await sleep(1500);
  };
  await round(2 * SESSIONS_AT_ONCE);
  const before = await standing();
  await round(SESSIONS);
  await expect.poll(async () => growth(before, await standing())).toEqual([]);
  await expectNoGrowth(before);
}, 300_000);
