/** Every verb of crictl, in the order of a day's work, against the CRI socket of a real daemon. */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type CommandOptions, type CommandResult, PROJECT, runCommand } from "../harness/cli.js";
import { FIXTURE_LAYOUT, TestDaemon } from "../harness/daemon.js";
import type { Snapshot } from "../harness/leaks.js";
import { pushLayout, type Registry, startRegistry } from "../harness/registry.js";
import { missing, requires } from "../harness/requires.js";

const CRICTL = `${PROJECT}.cache/bin/crictl`;
const NEEDS = ["root", "cgroup2", "overlayfs", "registry", "go"] as const;
const lacking = missing(...NEEDS);
let daemon: TestDaemon;
let registry: Registry;
let folder: string;
let before: Snapshot;
let image: string;
let [pod, container] = ["", ""];

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  if (!existsSync(CRICTL)) await runCommand("bash", [`${PROJECT}.ci/crictl`], { timeoutMs: 900_000 });
  registry = await startRegistry();
  await pushLayout(registry, FIXTURE_LAYOUT);
  daemon = await TestDaemon.start({ tables: `[registries."${registry.host}"]\nendpoint = "${registry.endpoint}"\n` });
  image = `${registry.host}/minke.test/busybox:1`;
  folder = mkdtempSync(join(tmpdir(), "minke-crictl-test-"));
  mkdirSync(join(folder, "logs"));
  writeFileSync(join(folder, "crictl.yaml"), `runtime-endpoint: unix://${daemon.criSocket}\n`);
  file("pod.json", { ...podConfig("main"), log_directory: join(folder, "logs") });
  file("one.json", podConfig("one"));
  file("container.json", {
    metadata: { name: "shell" },
    image: { image },
    command: ["sh", "-c", "echo begun; httpd -p 8080 -h /; while read line; do echo got $line; done; sleep 1000"],
    log_path: "shell.log",
    stdin: true,
    envs: [{ key: "WHO", value: "minke" }],
    linux: {},
  });
  file("second.json", { metadata: { name: "second" }, image: { image }, linux: {} });
  before = daemon.snapshot();
}, 1_000_000);
afterAll(async () => {
  await daemon?.dispose();
  await registry?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const podConfig = (name: string) => ({
  metadata: { name, namespace: "default", uid: `uid-${name}`, attempt: 0 },
  labels: { app: name },
  linux: {},
});
const file = (name: string, content: object) => writeFileSync(join(folder, name), JSON.stringify(content));
const at = (name: string) => join(folder, name);

const crictl = (...args: string[]) => crictlWith({}, ...args);
const crictlWith = (options: CommandOptions, ...args: string[]): Promise<CommandResult> =>
  runCommand(CRICTL, ["--config", at("crictl.yaml"), ...args], options);

/** What it prints; it has to end with 0. */
async function says(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await crictl(...args);
  if (code !== 0) throw new Error(`crictl ${args.join(" ")} ended with ${code}: ${stderr}`);
  return stdout.trim();
}

describe.sequential("crictl", () => {
  test("pull, images, inspecti and imagefsinfo", async () => {
    expect(await says("pull", image)).toContain("up to date");
    expect(await says("images")).toContain(`${registry.host}/minke.test/busybox`);
    expect(JSON.parse(await says("inspecti", image))).toMatchObject({ status: { repoTags: [image] } });
    expect(JSON.parse(await says("imagefsinfo"))).toMatchObject({
      status: { imageFilesystems: [{ fsId: { mountpoint: expect.stringContaining(daemon.root) } }] },
    });
  });

  test("runp, pods and inspectp", async () => {
    pod = await says("runp", at("pod.json"));
    expect(await says("pods", "-q", "--label", "app=main", "--state", "Ready")).toBe(pod);
    expect(JSON.parse(await says("inspectp", pod))).toMatchObject({
      status: { id: pod, state: "SANDBOX_READY", metadata: { name: "main" } },
    });
  });

  test("create, start, ps and inspect", async () => {
    container = await says("create", pod, at("container.json"), at("pod.json"));
    expect(await says("ps", "-a", "-q", "--state", "Created")).toBe(container);
    expect(await says("start", container)).toBe(container);
    expect(await says("ps", "-q")).toBe(container);
    expect(JSON.parse(await says("inspect", container))).toMatchObject({
      status: { state: "CONTAINER_RUNNING", image: { userSpecifiedImage: image }, metadata: { name: "shell" } },
    });
  });

  test("logs", async () => {
    await expect.poll(() => says("logs", container)).toBe("begun");
  });

  test.for(["spdy", "websocket"])("exec and exec -it over %s, with exit codes", async (transport) => {
    const flags = ["exec", "-r", transport];
    expect(await says(...flags, container, "sh", "-c", "echo $WHO; echo err >&2")).toBe("minke");
    expect(await crictlWith({ input: "typed\n" }, ...flags, "-i", container, "cat")).toMatchObject({
      code: 0,
      stdout: "typed\n",
    });
    expect((await crictl(...flags, container, "sh", "-c", "exit 3")).stderr).toContain("exit code 3");
    const line = `${CRICTL} --config ${at("crictl.yaml")} ${flags.join(" ")} -it ${container} sh -c 'until stty size 2>/dev/null | grep -v ^0; do sleep 0.05; done'`;
    // Its input stays open: at the end of it script(1) ends the terminal.
    const child = spawn("script", ["-qec", `stty rows 33 cols 77; ${line}`, "/dev/null"]);
    let shown = "";
    child.stdout.on("data", (chunk: Buffer) => (shown += chunk.toString()));
    await expect.poll(() => shown).toMatch(/^33 77\r?$/m);
    await expect.poll(() => child.exitCode).toBe(0);
  });

  test("exec -s, and its timeout", async () => {
    expect(await says("exec", "-s", container, "echo", "sync")).toBe("sync");
    const late = await crictl("exec", "-s", "--timeout", "1", container, "sleep", "50");
    expect([late.code, late.stderr]).toEqual([1, expect.stringContaining("DeadlineExceeded")]);
  });

  test.for(["spdy", "websocket"])("attach over %s", async (transport) => {
    const child = spawn(CRICTL, ["--config", at("crictl.yaml"), "attach", "-r", transport, "-i", container]);
    let heard = "";
    child.stdout.on("data", (chunk: Buffer) => (heard += chunk.toString()));
    child.stdin.write(`${transport}\n`);
    await expect.poll(() => heard).toContain(`got ${transport}\n`);
    child.kill("SIGKILL");
  });

  test.for(["spdy", "websocket"])("port-forward over %s", async (transport) => {
    const child = spawn(CRICTL, ["--config", at("crictl.yaml"), "port-forward", "-r", transport, pod, ":8080"]);
    let said = "";
    child.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
    await expect.poll(() => /127\.0\.0\.1:(\d+)/.exec(said)?.[1]).toBeDefined();
    const answer = await fetch(`http://127.0.0.1:${/127\.0\.0\.1:(\d+)/.exec(said)?.[1]}/etc/hostname`);
    expect(answer.status).toBe(200);
    await answer.arrayBuffer();
    child.kill("SIGKILL");
  });

  test("update, with a value that needs no controller, and one that no host has", async () => {
    expect(await says("update", "--cpuset-cpus", "", container)).toBe(container);
    const wrong = await crictl("update", "--cpuset-cpus", "nonsense", container);
    expect([wrong.code, wrong.stderr]).toEqual([1, expect.stringContaining("cpuset_cpus")]);
  });

  test("update-runtime-config and runtime-config", async () => {
    await says("update-runtime-config", "--pod-cidr", "10.9.0.0/24");
    expect(await says("runtime-config")).toMatch(/CGROUPFS/);
  });

  test("checkpoint is refused in words", async () => {
    const { code, stderr } = await crictl("checkpoint", "--export", at("checkpoint.tar"), container);
    expect([code, stderr]).toEqual([1, expect.stringContaining("checkpoints are not implemented")]);
  });

  test("stats and statsp", async () => {
    expect(await says("stats", "-o", "json", container)).toContain(container);
    expect(await says("statsp", "-o", "json", pod)).toContain(pod);
  });

  test("events", async () => {
    const child = spawn(CRICTL, ["--config", at("crictl.yaml"), "events"]);
    let heard = "";
    child.stdout.on("data", (chunk: Buffer) => (heard += chunk.toString()));
    await expect
      .poll(
        async () => {
          await says("rm", await says("create", pod, at("second.json"), at("pod.json")));
          return heard;
        },
        { timeout: 10_000 },
      )
      .toContain("CONTAINER_CREATED_EVENT");
    child.kill("SIGKILL");
  });

  test("run, in a pod of its own", async () => {
    const id = await says("run", "--no-pull", at("container.json"), at("one.json"));
    expect(await says("ps", "-q", "--id", id)).toBe(id);
    const [other = ""] = (await says("pods", "-q", "--name", "one")).split("\n");
    await says("rmp", "-f", other);
  });

  test("stop, rm, stopp, rmp and rmi --prune leave nothing", async () => {
    await says("stop", "--timeout", "0", container);
    expect(await says("ps", "-a", "-q", "--state", "Exited")).toBe(container);
    await says("rm", container);
    await says("stopp", pod);
    expect(await says("pods", "-q", "--state", "NotReady")).toBe(pod);
    await says("rmp", pod);
    expect(await says("pods", "-q")).toBe("");
    await says("rmi", "--prune");
    expect(await says("images", "-q")).toBe("");
    await daemon.expectNothingLeft(before);
  });

  test("config", async () => {
    await says("config", "--set", "timeout=7");
    expect(await says("config", "--get", "timeout")).toMatch(/7/);
    expect(await says("config", "--list")).toContain(daemon.criSocket);
  });
});
