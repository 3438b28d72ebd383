/** How pods live and end: order, restarts, back-off, deadlines, signals, and how these are shown. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  daemon = await TestDaemon.startWithImages({
    tables: "[backoff]\nbase-ms = 300\nmax-ms = 1200\n[logs]\nmax-bytes = 65536\nmax-files = 3",
  });
});
afterAll(() => daemon?.dispose());

const container = (name: string, script: string, more = "") =>
  `{ name: ${name}, image: "minke.test/busybox:1", imagePullPolicy: IfNotPresent, command: [sh, -c, ${JSON.stringify(script)}]${more} }`;

interface PodParts {
  readonly policy?: string;
  readonly graceSeconds?: number;
  readonly inits?: readonly string[];
  readonly containers: readonly string[];
  readonly spec?: string;
}

async function create(name: string, parts: PodParts): Promise<void> {
  const manifest = `apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec:
  restartPolicy: ${parts.policy ?? "Always"}
  terminationGracePeriodSeconds: ${parts.graceSeconds ?? 1}
  ${parts.spec ?? ""}
  initContainers: [${(parts.inits ?? []).join(", ")}]
  containers: [${parts.containers.join(", ")}]
`;
  const { code, stderr } = await daemon.minke(["run", "-f", "-"], { input: manifest });
  expect({ code, stderr }).toEqual({ code: 0, stderr: expect.any(String) });
}

const status = async (name: string) => (await daemon.pod(name)).status;
const until = (read: () => Promise<unknown>, timeout = 60_000) => expect.poll(read, { timeout, interval: 100 });
const row = async (name: string): Promise<string> =>
  (await daemon.expect("get", "pods", name)).split("\n")[1]?.replace(/\s+/g, " ") ?? "";
const remove = (name: string) => daemon.expect("delete", "pod", name);
const TRAP = "trap 'exit 0' TERM; sleep 1000 & wait";

describe("restart policies", () => {
  test("Never: exit 0 ends the pod as Succeeded, shown as Completed", async () => {
    await create("done", { policy: "Never", containers: [container("a", "exit 0"), container("b", "exit 0")] });
    await until(() => status("done")).toMatchObject({ phase: "Succeeded" });
    expect(await row("done")).toMatch(/^done 0\/2 Completed 0 /);
    await remove("done");
  });

  test("Never: another exit code ends the pod as Failed, after the others have ended too", async () => {
    await create("lost", { policy: "Never", containers: [container("a", "exit 3"), container("b", "sleep 0.5")] });
    await until(() => status("lost")).toMatchObject({
      phase: "Failed",
      containerStatuses: [{ state: { terminated: { exitCode: 3, reason: "Error" } } }, {}],
    });
    expect(await row("lost")).toMatch(/^lost 0\/2 Error 0 /);
    await remove("lost");
  });

  test("OnFailure: restarted until it succeeds, then Succeeded with the restarts counted", async () => {
    await create("retry", {
      policy: "OnFailure",
      spec: "volumes: [{ name: v, emptyDir: {} }]",
      containers: [
        container("a", "echo x >> /v/n; test $(wc -l < /v/n) -ge 3", ", volumeMounts: [{ name: v, mountPath: /v }]"),
      ],
    });
    await until(() => status("retry")).toMatchObject({
      phase: "Succeeded",
      containerStatuses: [{ restartCount: 2, state: { terminated: { exitCode: 0, reason: "Completed" } } }],
    });
    await remove("retry");
  });

  test("Always: CrashLoopBackOff with a delay that grows up to its maximum", async () => {
    await create("crash", { containers: [container("a", "exit 1")] });
    const delays: number[] = [];
    await until(async () => {
      const waiting = (await daemon.container("crash", "a")).state.waiting as { reason: string; message: string };
      if (waiting?.reason !== "CrashLoopBackOff") return delays.at(-1);
      const seconds = Number(/back-off ([\d.]+)s/.exec(waiting.message)?.[1]);
      if (delays.at(-1) !== seconds) delays.push(seconds);
      return delays.at(-1);
    }).toBe(1.2);
    // A look may miss one; those that are seen only grow.
    expect(delays).toEqual([0.3, 0.6, 1.2].filter((seconds) => delays.includes(seconds)));
    await until(() => row("crash")).toMatch(/^crash 0\/1 CrashLoopBackOff [3-9]/);
    await remove("crash");
  });

  test("activeDeadlineSeconds ends a pod that runs on, as Failed with DeadlineExceeded", async () => {
    await create("late", { spec: "activeDeadlineSeconds: 1", containers: [container("a", TRAP)] });
    await until(() => status("late")).toMatchObject({ phase: "Failed", reason: "DeadlineExceeded" });
    await until(async () => (await daemon.container("late", "a")).state.terminated).toBeTruthy();
    await remove("late");
  });
});

describe("init containers", () => {
  test("one that fails is retried with delay, shown as Init:CrashLoopBackOff, and the next waits", async () => {
    await create("inits", {
      spec: `volumes: [{ name: v, hostPath: { path: "${daemon.folder}/inits", type: DirectoryOrCreate } }]`,
      inits: [
        container("first", "test -e /v/go", ", volumeMounts: [{ name: v, mountPath: /v }]"),
        container("second", "true"),
      ],
      containers: [container("main", TRAP)],
    });
    await until(() => row("inits")).toMatch(/^inits 0\/1 Init:(CrashLoopBackOff|Error) /);
    expect(await daemon.container("inits", "second")).toMatchObject({
      state: { waiting: { reason: "PodInitializing" } },
    });
    await until(async () => (await daemon.container("inits", "first")).restartCount).toBeGreaterThan(1);
    writeFileSync(`${daemon.folder}/inits/go`, "");
    await until(() => row("inits")).toMatch(/^inits 1\/1 Running 0 /);
    await remove("inits");
  });

  test("with restartPolicy Never one that fails is the pod's end, and nothing else starts", async () => {
    await create("stuck", {
      policy: "Never",
      inits: [container("first", "exit 9")],
      containers: [container("main", TRAP)],
    });
    await until(() => status("stuck")).toMatchObject({
      phase: "Failed",
      initContainerStatuses: [{ state: { terminated: { exitCode: 9 } } }],
    });
    expect(await row("stuck")).toMatch(/^stuck 0\/1 Init:Error 0 /);
    await remove("stuck");
  });

  test("while one runs the pod is Init:0/2", async () => {
    await create("slow", {
      inits: [container("first", TRAP), container("second", "true")],
      containers: [container("main", TRAP)],
    });
    await until(() => row("slow")).toMatch(/^slow 0\/1 Init:0\/2 0 /);
    await remove("slow");
  });
});

describe("sidecars", () => {
  test("start before what follows them and stop after it, last first", async () => {
    const log = (name: string) =>
      `echo start ${name} $(cut -d' ' -f1 /proc/uptime) >> /v/log; trap 'echo stop ${name} >> /v/log; exit 0' TERM; sleep 1000 & wait`;
    const mount = ", volumeMounts: [{ name: v, mountPath: /v }]";
    const wrote = 'exec: { command: [grep, -q, "start two", /v/log] }';
    await create("order", {
      spec: `volumes: [{ name: v, hostPath: { path: "${daemon.folder}/order", type: DirectoryOrCreate } }]`,
      inits: [
        container("one", log("one"), `, restartPolicy: Always${mount}`),
        container("init", "grep -q 'start one' /v/log && echo init >> /v/log", mount),
        // What follows a sidecar waits for its start-up probe; without one, for its process alone, which may not have run yet.
        container("two", log("two"), `, restartPolicy: Always${mount}, startupProbe: { ${wrote}, periodSeconds: 1 }`),
      ],
      containers: [container("main", log("main"), mount)],
    });
    await until(() => row("order")).toMatch(/^order 3\/3 Running/);
    await until(async () => daemon.minke(["exec", "order", "-c", "main", "--", "cat", "/v/log"])).toMatchObject({
      stdout: expect.stringMatching(/^start one .*\n(init\nstart two .*\n)start main .*\n$/),
    });
    await remove("order");
    const lines = readFileSync(`${daemon.folder}/order/log`, "utf8").split("\n");
    expect(lines.filter((line) => line.startsWith("stop"))).toEqual(["stop main", "stop two", "stop one"]);
  });

  test("of a pod that has completed are stopped, and do not keep it from Succeeded", async () => {
    await create("job", {
      policy: "Never",
      inits: [container("side", TRAP, ", restartPolicy: Always")],
      containers: [container("main", "sleep 0.2")],
    });
    await until(() => status("job")).toMatchObject({
      phase: "Succeeded",
      initContainerStatuses: [{ state: { terminated: { exitCode: 0 } } }],
    });
    await remove("job");
  });
});

describe("stopping", () => {
  test("lifecycle.stopSignal is the signal that comes first", async () => {
    await create("signal", {
      policy: "Never",
      spec: `volumes: [{ name: v, hostPath: { path: "${daemon.folder}/signal", type: DirectoryOrCreate } }]`,
      containers: [
        container(
          "a",
          "trap 'echo TERM > /v/got; exit 0' TERM; trap 'echo USR1 > /v/got; exit 0' USR1; echo up; sleep 1000 & wait",
          ", lifecycle: { stopSignal: SIGUSR1 }, volumeMounts: [{ name: v, mountPath: /v }]",
        ),
      ],
    });
    await until(async () => (await daemon.minke(["logs", "signal"])).stdout).toBe("up\n");
    await remove("signal");
    expect(readFileSync(`${daemon.folder}/signal/got`, "utf8")).toBe("USR1\n");
  });

  test("a container that ignores its stop signal is killed when the grace period is over, not before", async () => {
    await create("deaf", { containers: [container("a", "trap '' TERM; echo up; while :; do sleep 1; done")] });
    await until(async () => (await daemon.minke(["logs", "deaf"])).stdout).toBe("up\n");
    const begin = performance.now();
    await daemon.expect("delete", "pod", "deaf", "--grace-period", "2");
    const tookMs = performance.now() - begin;
    expect(tookMs).toBeGreaterThan(1900);
    expect(tookMs).toBeLessThan(30_000);
  });

  test("delete --force ends it at once", async () => {
    await create("forced", { graceSeconds: 100, containers: [container("a", "trap '' TERM; echo up; sleep 1000")] });
    await until(async () => (await daemon.minke(["logs", "forced"])).stdout).toBe("up\n");
    const begin = performance.now();
    await daemon.expect("delete", "pod", "forced", "--force");
    expect(performance.now() - begin).toBeLessThan(30_000);
  });
});

test("events and the timeline of a pod survive the daemon, and go with the pod", async () => {
  await create("past", { containers: [container("a", TRAP)] });
  await until(() => row("past")).toMatch(/^past 1\/1 Running/);
  await new Promise((resolve) => setTimeout(resolve, 700));
  const steps = (text: string) => text.split("\n").filter((line) => /\+\d+\.\d ms/.test(line));
  const before = await daemon.expect("describe", "pod", "past");
  await daemon.kill9();
  await daemon.start();
  const after = await daemon.expect("describe", "pod", "past");
  expect(after).toMatch(/Normal +Started .*Container started: a/);
  expect(steps(after).length).toBeGreaterThan(5);
  expect(steps(after)).toEqual(steps(before));
  const { uid } = (await daemon.pod("past")).metadata;
  expect(existsSync(`${daemon.root}/state/boot/history/${uid}.json`)).toBe(true);
  await remove("past");
  expect(existsSync(`${daemon.root}/state/boot/history/${uid}.json`)).toBe(false);
});
