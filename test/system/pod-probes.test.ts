/** Probes, lifecycle hooks and termination messages of running pods. */
import { readFileSync } from "node:fs";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (!lacking) daemon = await TestDaemon.startWithImages({ tables: "[backoff]\nbase-ms = 200\nmax-ms = 1000" });
});
afterAll(() => daemon?.dispose());

const TRAP = "trap 'exit 0' TERM; sleep 1000 & wait";
const container = (name: string, script: string, more = "", image = "busybox") =>
  `{ name: ${name}, image: "minke.test/${image}:1", imagePullPolicy: IfNotPresent${script && `, command: [sh, -c, ${JSON.stringify(script)}]`}${more} }`;

async function create(name: string, containers: string, spec = ""): Promise<void> {
  const input = `apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec:
  terminationGracePeriodSeconds: 2
  ${spec}
  containers: [${containers}]
`;
  const { code, stderr } = await daemon.minke(["run", "-f", "-"], { input });
  expect(code, stderr).toBe(0);
}

const until = (read: () => Promise<unknown>, timeout = 60_000) => expect.poll(read, { timeout, interval: 100 });
const describePod = (name: string) => daemon.expect("describe", "pod", name);
const remove = (name: string) => daemon.expect("delete", "pod", name);
const exec = (pod: string, ...command: string[]) => daemon.expect("exec", pod, "--", ...command);
const FAST = "periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 1";

describe("readiness", () => {
  test("follows an exec probe, shows in conditions, and does not flap over a daemon restart", async () => {
    await create(
      "ready",
      container("a", TRAP, `, readinessProbe: { exec: { command: [test, -e, /tmp/ok] }, ${FAST} }`),
    );
    await until(() => daemon.container("ready", "a")).toMatchObject({ ready: false, state: { running: {} } });
    await until(() => describePod("ready")).toMatch(/Unhealthy.*Readiness probe failed/);
    expect(await describePod("ready")).toMatch(/Ready +False +containers with unready status: \[a\]/);
    await exec("ready", "touch", "/tmp/ok");
    await until(() => daemon.container("ready", "a")).toMatchObject({ ready: true, restartCount: 0 });
    await daemon.kill9();
    await daemon.start();
    for (let i = 0; i < 5; i++) expect(await daemon.container("ready", "a")).toMatchObject({ ready: true });
    await exec("ready", "rm", "/tmp/ok");
    await until(() => daemon.container("ready", "a")).toMatchObject({ ready: false });
    await remove("ready");
  });

  test("asks HTTP and TCP ports from the host, by number and by name", async () => {
    const http = (path: string) =>
      `, readinessProbe: { httpGet: { path: ${path}, port: web }, ${FAST} }, ports: [{ name: web, containerPort: 80 }]`;
    await create(
      "net",
      [
        container("good", "", http("/"), "nginx"),
        container("tcp", TRAP, `, readinessProbe: { tcpSocket: { port: 80 }, ${FAST} }`),
        container("bad", TRAP, http("/nowhere")),
        container("closed", TRAP, `, readinessProbe: { tcpSocket: { port: 81 }, ${FAST} }`),
      ].join(", "),
    );
    await until(() => daemon.container("net", "good")).toMatchObject({ ready: true });
    await until(() => daemon.container("net", "tcp")).toMatchObject({ ready: true });
    await until(() => describePod("net")).toMatch(/Readiness probe failed: HTTP probe failed with statuscode: 404/);
    await until(() => describePod("net")).toMatch(
      /Readiness probe failed: connect ECONNREFUSED|Readiness probe failed: connect: ECONNREFUSED/,
    );
    expect(await daemon.container("net", "bad")).toMatchObject({ ready: false });
    expect(await daemon.container("net", "closed")).toMatchObject({ ready: false });
    await remove("net");
  });

  test("asks gRPC health by service", async () => {
    const server = new Server();
    const method = {
      path: "/grpc.health.v1.Health/Check",
      requestStream: false,
      responseStream: false,
      requestSerialize: (text: string) => Buffer.from(text),
      requestDeserialize: (bytes: Buffer) => ({ service: bytes.subarray(2).toString() }),
      responseSerialize: (status: number) => Buffer.from([0x08, status]),
      responseDeserialize: (bytes: Buffer) => bytes[1] ?? 0,
    };
    server.addService(
      { Check: method },
      {
        Check: (call: { request: { service: string } }, done: (err: null, status: number) => void) =>
          done(null, call.request.service === "sick" ? 2 : 1),
      },
    );
    const port = await new Promise<number>((resolve, reject) =>
      server.bindAsync("0.0.0.0:0", ServerCredentials.createInsecure(), (err, bound) =>
        err ? reject(err) : resolve(bound),
      ),
    );
    try {
      const probe = (service: string) =>
        `, readinessProbe: { grpc: { port: ${port}, service: "${service}" }, ${FAST} }`;
      await create(
        "grpc",
        `${container("well", TRAP, probe(""))}, ${container("sick", TRAP, probe("sick"))}`,
        "hostNetwork: true",
      );
      await until(() => daemon.container("grpc", "well")).toMatchObject({ ready: true });
      await until(() => describePod("grpc")).toMatch(/Readiness probe failed: service is NOT_SERVING/);
      expect(await daemon.container("grpc", "sick")).toMatchObject({ ready: false });
      await remove("grpc");
    } finally {
      server.forceShutdown();
    }
  });
});

describe("liveness and startup", () => {
  test("a container that fails its liveness probe is restarted", async () => {
    await create(
      "alive",
      container("a", `touch /tmp/ok; ${TRAP}`, `, livenessProbe: { exec: { command: [test, -e, /tmp/ok] }, ${FAST} }`),
    );
    await until(() => daemon.container("alive", "a")).toMatchObject({ restartCount: 0, state: { running: {} } });
    await exec("alive", "rm", "/tmp/ok");
    await until(() => daemon.container("alive", "a")).toMatchObject({ restartCount: 1, state: { running: {} } });
    expect(await describePod("alive")).toMatch(/Killing.*Container a failed liveness probe, will be restarted/);
    await exec("alive", "rm", "/tmp/ok");
    await until(() => daemon.container("alive", "a")).toMatchObject({ restartCount: 2, state: { running: {} } });
    await remove("alive");
  });

  test("the other probes, and what follows a sidecar, wait for its startup probe", async () => {
    await create(
      "slow",
      container("main", TRAP),
      `initContainers: [${container("side", TRAP, `, restartPolicy: Always, startupProbe: { exec: { command: [test, -e, /tmp/up] }, periodSeconds: 1, failureThreshold: 60 }, livenessProbe: { exec: { command: [test, -e, /tmp/up] }, ${FAST} }`)}]`,
    );
    await until(() => describePod("slow")).toMatch(/Startup probe failed/);
    expect(await daemon.container("slow", "main")).toMatchObject({ state: { waiting: { reason: "PodInitializing" } } });
    expect(await daemon.container("slow", "side")).toMatchObject({ ready: false, started: false, restartCount: 0 });
    await daemon.expect("exec", "slow", "-c", "side", "--", "touch", "/tmp/up");
    await until(() => daemon.container("slow", "main")).toMatchObject({ state: { running: {} } });
    expect(await daemon.container("slow", "side")).toMatchObject({ ready: true, started: true, restartCount: 0 });
    await remove("slow");
  });
});

describe("hooks", () => {
  test("postStart is done before the next sidecar starts, and preStop before the signal", async () => {
    const volume = `volumes: [{ name: v, hostPath: { path: "${daemon.folder}/hooks", type: DirectoryOrCreate } }]`;
    const hooks = `, lifecycle: { postStart: { exec: { command: [sh, -c, "sleep 0.5; echo post >> /v/log"] } }, preStop: { exec: { command: [sh, -c, "sleep 0.5; echo pre >> /v/log"] } } }, volumeMounts: [{ name: v, mountPath: /v }]`;
    const side = container(
      "side",
      "trap 'echo term >> /v/log; exit 0' TERM; echo up >> /v/log; sleep 1000 & wait",
      `, restartPolicy: Always${hooks}`,
    );
    const main = container("main", `echo main >> /v/log; ${TRAP}`, ", volumeMounts: [{ name: v, mountPath: /v }]");
    await create("hooks", main, `${volume}\n  initContainers: [${side}]`);
    await until(() => daemon.container("hooks", "main")).toMatchObject({ state: { running: {} } });
    await remove("hooks");
    expect(readFileSync(`${daemon.folder}/hooks/log`, "utf8")).toBe("up\npost\nmain\npre\nterm\n");
  });

  test("a postStart that fails ends the container, and is named in an event", async () => {
    await create(
      "broken",
      container("a", TRAP, `, lifecycle: { postStart: { exec: { command: [sh, -c, "echo no luck; exit 1"] } } }`),
    );
    await until(() => describePod("broken")).toMatch(/FailedPostStartHook.*PostStart hook failed: no luck/);
    await until(async () => (await daemon.container("broken", "a")).restartCount).toBeGreaterThan(0);
    await remove("broken");
  });

  test("a preStop that is longer than the grace period is cut, with two seconds for the signal", async () => {
    await create("long", container("a", TRAP, ", lifecycle: { preStop: { sleep: { seconds: 60 } } }"));
    await until(() => daemon.container("long", "a")).toMatchObject({ state: { running: {} } });
    const begin = performance.now();
    await remove("long");
    const tookMs = performance.now() - begin;
    expect(tookMs).toBeGreaterThan(1900);
    expect(tookMs).toBeLessThan(40_000);
  });
});

describe("termination messages", () => {
  const terminated = async (pod: string) => (await daemon.container(pod, "a")).state.terminated;

  test("what a container writes to its message file is in its status, as any user, at most 4096 bytes", async () => {
    const user = ", securityContext: { runAsUser: 1234 }";
    await create(
      "says",
      container("a", "echo the reason > /dev/termination-log; exit 3", user),
      "restartPolicy: Never",
    );
    await until(() => terminated("says")).toMatchObject({ exitCode: 3, message: "the reason\n" });
    await remove("says");
    await create(
      "much",
      container("a", "yes 1234567 | head -c 100000 > /run/why; exit 0", ", terminationMessagePath: /run/why"),
      "restartPolicy: Never",
    );
    await until(async () => (await terminated("much"))?.message?.length).toBe(4096);
    await remove("much");
  });

  test("FallbackToLogsOnError takes the end of the log where nothing was written and it failed", async () => {
    const policy = ", terminationMessagePolicy: FallbackToLogsOnError";
    await create("logged", container("a", "echo first; echo last words; exit 1", policy), "restartPolicy: Never");
    await until(() => terminated("logged")).toMatchObject({ message: "first\nlast words\n" });
    await remove("logged");
  });
});
