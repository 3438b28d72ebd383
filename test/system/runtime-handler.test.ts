/**
 * Containers that another OCI runtime runs: over CRI and as a pod.
 *
 * Here that is minke-oci by its command line; MINKE_TEST_HANDLERS names others. Others need a host
 * with cgroup v2 alone: test/vm/runtime-handlers.test.ts runs runc.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { ContainerState, MountPropagation, PodSandboxConfig } from "../../src/cri/generated/runtime/v1/api.js";
import { PROJECT } from "../harness/cli.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { cgroup2Mount } from "../harness/requires.js";
import { SLOWNESS } from "../harness/slowness.js";
import { SpdyClient } from "../harness/spdy-client.js";

const INVALID_ARGUMENT = 3;
const DEADLINE_EXCEEDED = 4;
const NOT_FOUND = 5;
const FAILED_PRECONDITION = 9;

const names = (process.env["MINKE_TEST_HANDLERS"] ?? "minke-oci").split(",");
const polling = { timeout: 10_000 * SLOWNESS, interval: 20 * SLOWNESS };

function programOf(name: string): string {
  const found = [`${PROJECT}build/Release`, "/usr/bin", "/usr/sbin"].map((dir) => join(dir, name)).find(existsSync);
  if (!found) throw new Error(`${name} is not installed`);
  return found;
}

const POD = PodSandboxConfig.fromPartial({ metadata: { name: "refused", uid: "u", namespace: "n", attempt: 0 } });

const folder = mkdtempSync(join(tmpdir(), "minke-handler-test-"));
// Last, as the first that is registered: until the sandboxes are gone, logs are written there.
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const tables = names.map((name) => `[runtime-handlers.${name}]\npath = "${programOf(name)}"\n`).join("");
const bench = useCriDaemon({ tables: `${tables}[runtime-handlers.gone]\npath = "/nowhere/runtime"\n` });
/** One for all tests of a handler: making and removing it takes longer than most tests. */
const shared = new Map<string, string>();

async function sandbox(runtimeHandler: string): Promise<string> {
  const id = shared.get(runtimeHandler) ?? (await bench.sharedSandbox({ logDirectory: folder }, runtimeHandler));
  shared.set(runtimeHandler, id);
  return id;
}

const ended = (id: string) =>
  expect.poll(async () => (await bench.cri.status(id)).state, polling).toBe(ContainerState.CONTAINER_EXITED);
const rootfsMounts = (containerId: string) =>
  readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line.includes(` ${bench.daemon.root}/`) && line.includes(`/${containerId}/`));

describe.each(names)("a sandbox of handler %s", (name) => {
  test("runs a container with its log, exit code and environment, and says who runs it", async () => {
    const id = await sandbox(name);
    const container = await bench.cri.startContainer(id, {
      command: ["sh", "-c", 'echo "out $WHO"; echo err >&2; exit 3'],
      envs: [{ key: "WHO", value: Buffer.from("me") }],
      logPath: "0.log",
    });
    await ended(container);
    expect(await bench.cri.status(container)).toMatchObject({ exitCode: 3, reason: "Error" });
    const records = readFileSync(join(folder, "0.log"), "utf8").trim().split("\n");
    expect(records.map((line) => line.split(" ").slice(1).join(" ")).toSorted()).toEqual([
      "stderr F err",
      "stdout F out me",
    ]);
    const { status } = await bench.cri.call("podSandboxStatus", { podSandboxId: id });
    expect(status?.runtimeHandler).toBe(name);
    // Its rootfs was mounted for it, and is gone with its end.
    expect(rootfsMounts(container)).toEqual([]);
  });

  test("execs with exit code and both streams, and kills a timed-out exec with all it started", async () => {
    const container = await bench.cri.startContainer(await sandbox(name));
    expect(rootfsMounts(container)).toHaveLength(1);
    const cmd = ["sh", "-c", "echo out; echo err >&2; exit 7"];
    const { exitCode, stdout, stderr } = await bench.cri.call("execSync", {
      containerId: container,
      cmd,
      timeout: 20n,
    });
    expect([exitCode, stdout.toString(), stderr.toString()]).toEqual([7, "out\n", "err\n"]);
    const sleeping = {
      containerId: container,
      cmd: ["sh", "-c", "sleep 4321 & sleep 4321"],
      timeout: BigInt(2 * SLOWNESS),
    };
    expect(await bench.cri.refusal("execSync", sleeping)).toMatchObject({
      status: DEADLINE_EXCEEDED,
      code: "EXEC_TIMEOUT",
    });
    expect((await bench.cri.output(container, "sh", "-c", "pgrep -f 'sleep 432[1]' | wc -l")).trim()).toBe("0");
    expect(
      await bench.cri.refusal("execSync", { containerId: container, cmd: ["/nothing"], timeout: 20n }),
    ).toMatchObject({
      status: NOT_FOUND,
      code: "COMMAND_NOT_FOUND",
    });
  });

  test("gives an exec a terminal, with its size", async () => {
    const containerId = await bench.cri.startContainer(await sandbox(name));
    const request = { containerId, cmd: ["sh"], tty: true, stdin: true, stdout: true, stderr: false };
    const { url } = await bench.cri.call("exec", request);
    const client = await SpdyClient.connect(url, ["v4.channel.k8s.io"]);
    const error = await client.open({ streamType: "error" });
    const stdin = await client.open({ streamType: "stdin" });
    const stdout = await client.open({ streamType: "stdout" });
    const resize = await client.open({ streamType: "resize" });
    resize.write('{"Width":101,"Height":31}\n');
    await expect.poll(() => stdout.received().toString(), polling).toContain("#");
    stdin.write("stty size; exit 4\n");
    await stdout.ended.catch(() => undefined);
    expect(stdout.received().toString()).toContain("31 101");
    expect(JSON.parse((await error.ended).toString())).toMatchObject({ details: { causes: [{ message: "4" }] } });
    client.destroy();
  });

  test("gives a container a terminal, and takes its input over attach", async () => {
    const id = await sandbox(name);
    const command = ["sh", "-c", "test -t 0 && read line && echo got $line"];
    const container = await bench.cri.startContainer(id, { command, tty: true, stdin: true, logPath: "tty.log" });
    const request = { containerId: container, tty: true, stdin: true, stdout: true, stderr: false };
    const { url } = await bench.cri.call("attach", request);
    const client = await SpdyClient.connect(url, ["v4.channel.k8s.io"]);
    await client.open({ streamType: "error" });
    const stdin = await client.open({ streamType: "stdin" });
    await client.open({ streamType: "stdout" });
    await client.open({ streamType: "resize" });
    stdin.write("hello\n");
    await ended(container);
    client.destroy();
    expect((await bench.cri.status(container)).exitCode).toBe(0);
    expect(readFileSync(join(folder, "tty.log"), "utf8")).toContain("got hello");
  });

  test("stops by signal within the grace period, and by SIGKILL after it, also when frozen", async () => {
    const id = await sandbox(name);
    const polite = await bench.cri.startContainer(id, {
      command: ["sh", "-c", "trap 'exit 42' TERM; touch /ready; while :; do sleep 0.05; done"],
    });
    await expect.poll(() => bench.cri.output(polite, "ls", "/ready").catch(() => ""), polling).toBe("/ready\n");
    await bench.cri.call("stopContainer", { containerId: polite, timeout: BigInt(10 * SLOWNESS) });
    expect(await bench.cri.status(polite)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 42 });
    const stubborn = await bench.cri.startContainer(id, {
      command: ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
    });
    await bench.cri.call("stopContainer", { containerId: stubborn, timeout: 1n });
    expect((await bench.cri.status(stubborn)).exitCode).toBe(137);
    const frozen = await bench.cri.startContainer(id);
    writeFileSync(`${await cgroupOf(frozen)}/cgroup.freeze`, "1");
    await bench.cri.call("stopContainer", { containerId: frozen, timeout: 0n });
    expect((await bench.cri.status(frozen)).exitCode).toBe(137);
  });

  test("puts the container into its cgroup, which stats read, and shares /dev/shm and mounts", async () => {
    const id = await sandbox(name);
    mkdirSync(join(folder, "data"));
    writeFileSync(join(folder, "data/file"), "content");
    const mount = {
      hostPath: join(folder, "data"),
      containerPath: "/data",
      readonly: true,
      propagation: MountPropagation.PROPAGATION_PRIVATE,
    };
    const one = await bench.cri.startContainer(id, { mounts: [mount] });
    const other = await bench.cri.startContainer(id);
    await bench.cri.output(one, "sh", "-c", "cat /data/file >/dev/shm/shared");
    expect(await bench.cri.output(other, "cat", "/dev/shm/shared")).toBe("content");
    expect(readFileSync(`${await cgroupOf(one)}/cgroup.procs`, "utf8").trim()).toMatch(/^\d+$/);
    const { stats } = await bench.cri.call("containerStats", { containerId: one });
    expect(Number(stats?.memory?.workingSetBytes?.value)).toBeGreaterThan(10_000);
  });

  test(
    "goes on without the daemon: the next one adopts it and knows how it ended",
    async () => {
      const id = await sandbox(name);
      const goesOn = await bench.cri.startContainer(id);
      const ends = await bench.cri.startContainer(id, { command: ["sh", "-c", "sleep 0.5; exit 5"] });
      await bench.daemon.kill9();
      await bench.daemon.start();
      await ended(ends);
      expect((await bench.cri.status(ends)).exitCode).toBe(5);
      expect(await bench.cri.output(goesOn, "echo", "still here")).toBe("still here\n");
    },
    60_000 * SLOWNESS,
  );

  test("whose monitor is killed is stopped, and its rootfs unmounted", async () => {
    const id = await bench.cri.runSandbox({}, name);
    const container = await bench.cri.startContainer(id);
    const cgroup = (await cgroupOf(container)).replace("/pods/", "/monitors/").replace(/\/[^/]+$/, "");
    process.kill(Number(readFileSync(`${cgroup}/cgroup.procs`, "utf8").trim()), "SIGKILL");
    await ended(container);
    expect(await bench.cri.status(container)).toMatchObject({ exitCode: 255, reason: "ContainerStatusUnknown" });
    await expect.poll(() => rootfsMounts(container), polling).toEqual([]);
    await bench.cri.removeSandbox(id);
  });

  test("reports a command that is not there at start, with 127, and leaves nothing of it", async () => {
    const container = await bench.cri.createContainer(await sandbox(name), { command: ["/nothing"] });
    expect(await bench.cri.refusal("startContainer", { containerId: container })).toMatchObject({
      status: NOT_FOUND,
      code: "COMMAND_NOT_FOUND",
    });
    expect(await bench.cri.status(container)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 127 });
    expect(rootfsMounts(container)).toEqual([]);
  });

  test(
    "runs a pod by runtimeClassName",
    async () => {
      await bench.daemon.runPod(`
apiVersion: v1
kind: Pod
metadata: { name: classy }
spec:
  runtimeClassName: ${name}
  terminationGracePeriodSeconds: 0
  containers: [{ name: main, image: "minke.test/busybox:1", command: [sleep, "1000"] }]
`);
      const id = (await bench.daemon.container("classy", "main")).containerID?.replace("minke://", "") ?? "";
      expect(rootfsMounts(id)).toHaveLength(1);
      expect(await bench.daemon.expect("exec", "classy", "--", "echo", "in it")).toBe("in it\n");
      await bench.daemon.expect("delete", "pod", "classy");
      expect(rootfsMounts(id)).toEqual([]);
    },
    60_000 * SLOWNESS,
  );
});

test("the built-in handler has a name as well", async () => {
  const container = await bench.cri.startContainer(await sandbox("minke"));
  expect(await bench.cri.output(container, "echo", "x")).toBe("x\n");
  expect(rootfsMounts(container)).toEqual([]);
});

test("a handler that the settings do not have is refused by name", async () => {
  expect(await bench.cri.refusal("runPodSandbox", { config: POD, runtimeHandler: "kata" })).toMatchObject({
    status: INVALID_ARGUMENT,
    code: "RUNTIME_HANDLER_UNKNOWN",
  });
});

test("a handler whose program is missing is refused when a sandbox is made", async () => {
  expect(await bench.cri.refusal("runPodSandbox", { config: POD, runtimeHandler: "gone" })).toMatchObject({
    status: FAILED_PRECONDITION,
    code: "RUNTIME_HANDLER_MISSING",
  });
});

test("Status lists the handlers with what they can do", async () => {
  const { runtimeHandlers } = await bench.cri.call("status");
  expect(runtimeHandlers.map(({ name }) => name)).toEqual(["", "minke", ...names, "gone"]);
  const features = (wanted: string) => runtimeHandlers.find(({ name }) => name === wanted)?.features;
  expect(features("")?.recursiveReadOnlyMounts).toBe(true);
  expect(features("gone")?.recursiveReadOnlyMounts).toBe(false);
});

async function cgroupOf(containerId: string): Promise<string> {
  const { info } = await bench.cri.call("containerStatus", { containerId, verbose: true });
  const pid = Number((JSON.parse(info["info"] ?? "{}") as { pid?: number }).pid);
  const path = /^0::(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, "utf8"))?.[1] ?? "";
  return join(cgroup2Mount() ?? "", path);
}
