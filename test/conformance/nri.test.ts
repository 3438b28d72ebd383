/** NRI's own Go library, as plugins in the field use it, against the NRI socket of a real daemon. */
import { type ChildProcess, spawn } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { PROJECT, runCommand } from "../harness/cli.js";
import { CriClient } from "../harness/cri.js";
import { TestDaemon } from "../harness/daemon.js";
import { isAlive } from "../harness/processes.js";
import { missing, requires } from "../harness/requires.js";

const PLUGIN = `${PROJECT}.cache/bin/nri-plugin`;
const lacking = missing("root", "cgroup2", "overlayfs", "go");

interface Line {
  readonly event: string;
  readonly pod?: string;
  readonly pods?: number;
  readonly config?: string;
  readonly failed?: number;
  readonly pid?: number;
}

let daemon: TestDaemon;
let cri: CriClient;
let folder: string;
let plugin: ChildProcess;
let lines: Line[];

beforeEach(requires("root", "cgroup2", "overlayfs", "go"));
beforeAll(async () => {
  if (lacking) return;
  mkdirSync(`${PROJECT}.cache/bin`, { recursive: true });
  // Go's own cache makes this quick where nothing has changed.
  await runCommand(
    "go",
    ["build", "-C", `${PROJECT}test/conformance/nri-plugin`, "-mod=readonly", "-trimpath", "-o", PLUGIN, "."],
    {
      timeoutMs: 900_000,
    },
  ).then(({ code, stderr }) => {
    if (code !== 0) throw new Error(`build the NRI plugin: ${stderr}`);
  });
  folder = mkdtempSync(join(tmpdir(), "minke-nri-go-"));
  writeFileSync(join(folder, "10-gotest.conf"), "what the plugin is told");
  daemon = await TestDaemon.startWithImages({ tables: `[nri]\nconfig-dir = "${folder}"\nrequest-timeout-ms = 20000` });
  cri = new CriClient(daemon.criSocket);
}, 1_000_000);
afterAll(async () => {
  cri?.close();
  await daemon?.dispose();
  if (folder) rmSync(folder, { recursive: true, force: true });
});
beforeEach(async () => {
  lines = [];
  let pending = "";
  plugin = spawn(PLUGIN, ["-socket", join(daemon.run, "nri.sock")], { stdio: ["ignore", "pipe", "ignore"] });
  plugin.stdout?.on("data", (chunk: Buffer) => {
    const parts = (pending + chunk.toString()).split("\n");
    pending = parts.pop() ?? "";
    lines.push(...parts.map((line) => JSON.parse(line) as Line));
  });
  await expect.poll(() => lines.map(({ event }) => event)).toContain("Synchronize");
});
afterEach(() => plugin?.kill("SIGKILL"));

const events = () => lines.map(({ event }) => event);

test("a Go plugin is configured, hears of a pod's whole life, and updates a container unasked", async () => {
  expect(lines[0]).toMatchObject({ event: "Configure minke", config: "what the plugin is told" });
  const pod = await cri.runSandbox();
  const containerId = await cri.startContainer(pod);
  await expect.poll(events).toContain("UpdateContainers");
  expect(lines.find(({ event }) => event === "UpdateContainers")?.failed).toBe(1);
  expect((await cri.status(containerId)).resources?.linux?.cpuShares).toBe(512n);
  await cri.call("updateContainerResources", { containerId, linux: undefined, annotations: {} });
  expect((await cri.status(containerId)).resources?.linux?.cpuShares).toBe(777n);
  await cri.call("stopContainer", { containerId, timeout: 0n });
  await cri.call("removeContainer", { containerId });
  await cri.removeSandbox(pod);
  expect(events().filter((event) => !/^(Configure|Synchronize|UpdateContainers)/.test(event))).toEqual([
    "RunPodSandbox",
    "CreateContainer",
    "PostCreateContainer",
    "StartContainer",
    "PostStartContainer",
    "UpdateContainer",
    "PostUpdateContainer",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
  ]);
});

test("what a Go plugin adjusts is what the container has, also where it is much", async () => {
  const hooked = join(folder, "hooked");
  const pod = await cri.runSandbox({
    annotations: {
      "nri-test/env": "ADDED=yes",
      "nri-test/mount": folder,
      "nri-test/device": "1",
      "nri-test/hook": hooked,
      "nri-test/rlimit": "1",
      "nri-test/oom": "500",
      "nri-test/large": "1",
    },
  });
  const id = await cri.startContainer(pod);
  const script =
    "echo $ADDED ${#LARGE}; cat /nri/10-gotest.conf; echo; test -c /dev/nri-null && ulimit -Sn; cat /proc/self/oom_score_adj";
  expect(await cri.output(id, "sh", "-c", script)).toBe("yes 100000\nwhat the plugin is told\n256\n500\n");
  expect(readFileSync(hooked, "utf8")).toBe("hooked\n");
  await cri.removeSandbox(pod);
});

test("a pod that a Go plugin refuses is not there", async () => {
  const refused = cri.runSandbox({ annotations: { "nri-test/refuse": "pod" } });
  await expect(refused).rejects.toMatchObject({ details: expect.stringContaining("this pod is not wanted") });
  expect((await cri.call("listPodSandbox")).items).toEqual([]);
});

test("a Go plugin of a folder begins with the daemon, dies without another one, and ends with the daemon", async () => {
  plugin.kill("SIGKILL");
  const dir = join(folder, "plugins");
  mkdirSync(dir, { mode: 0o755 });
  copyFileSync(PLUGIN, join(dir, "20-installed"));
  const output = join(folder, "installed.lines");
  writeFileSync(join(folder, "installed.conf"), `output=${output}\n`);
  const second = await TestDaemon.startWithImages({
    tables: `[nri]\nconfig-dir = "${folder}"\nplugin-dir = "${dir}"\nrequest-timeout-ms = 20000\nregistration-timeout-ms = 20000`,
  });
  const client = new CriClient(second.criSocket);
  const heard = () =>
    readFileSync(output, "utf8")
      .trim()
      .split("\n")
      .map((text) => JSON.parse(text) as Line);
  const started = () => heard().flatMap(({ pid }) => (pid === undefined ? [] : [pid]));
  try {
    const pod = await client.runSandbox();
    expect(heard().map(({ event }) => event)).toEqual(["Configure minke", "Synchronize", "RunPodSandbox"]);
    await second.kill9();
    await expect.poll(() => started().filter(isAlive)).toEqual([]);
    await second.start();
    expect(heard().at(-1)).toMatchObject({ event: "Synchronize", pods: 1 });
    process.kill(started()[1] ?? 0, "SIGKILL");
    await expect.poll(() => second.log).toContain("an installed NRI plugin ended, not starting it again");
    await client.removeSandbox(pod);
    expect(started()).toHaveLength(2);
  } finally {
    client.close();
    await second.dispose();
  }
  expect(started().filter(isAlive)).toEqual([]);
});

test("many pods and containers are synchronized with a Go plugin in several messages", async () => {
  plugin.kill("SIGKILL");
  const large = "x".repeat(200_000);
  const pods: string[] = [];
  for (let i = 0; i < 12; i++) pods.push(await cri.runSandbox({ annotations: { large } }));
  lines = [];
  const second = spawn(PLUGIN, ["-socket", join(daemon.run, "nri.sock")], { stdio: ["ignore", "pipe", "ignore"] });
  let output = "";
  second.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  try {
    await expect.poll(() => output).toContain('"Synchronize","pods":12');
  } finally {
    second.kill("SIGKILL");
    for (const pod of pods) await cri.removeSandbox(pod);
  }
});
