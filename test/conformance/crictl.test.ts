/** crictl, as its users run it, against the CRI socket of a real daemon. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { PROJECT, runCommand } from "../harness/cli.js";
import { CriClient } from "../harness/cri.js";
import { TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";

const CRICTL = `${PROJECT}.cache/bin/crictl`;
const lacking = missing("root", "cgroup2", "go");
let daemon: TestDaemon;

beforeEach(requires("root", "cgroup2", "go"));
beforeAll(async () => {
  if (lacking) return;
  if (!existsSync(CRICTL)) await runCommand("bash", [`${PROJECT}.ci/crictl`], { timeoutMs: 900_000 });
  daemon = await TestDaemon.startWithImages();
}, 1_000_000);
afterAll(() => daemon?.dispose());

const crictl = (...args: string[]) =>
  runCommand(CRICTL, ["--config", "/dev/null", "--runtime-endpoint", `unix://${daemon.criSocket}`, ...args]);

test("crictl version shows minke and v1", async () => {
  const { code, stdout } = await crictl("version");
  expect(stdout).toMatch(/RuntimeName:\s+minke\nRuntimeVersion:\s+\d+\.\d+\.\d+\nRuntimeApiVersion:\s+v1/);
  expect(code).toBe(0);
});

test("crictl info shows both conditions true and the state directory", async () => {
  const { code, stdout } = await crictl("info");
  expect(code).toBe(0);
  const info = JSON.parse(stdout) as { status: { conditions: { type: string; status: boolean }[] }; config: object };
  expect(info.status.conditions.map(({ type, status }) => [type, status])).toEqual([
    ["RuntimeReady", true],
    ["NetworkReady", true],
  ]);
  expect(info.config).toMatchObject({ stateDir: expect.stringContaining(daemon.root) });
});

test("crictl runtime-config shows cgroupfs", async () => {
  const { code, stdout } = await crictl("runtime-config");
  expect(code).toBe(0);
  expect(stdout).toMatch(/cgroup driver:\s+CGROUPFS/);
});

test("crictl pods and ps list nothing that CRI did not make", async () => {
  expect(await crictl("pods", "-q")).toMatchObject({ code: 0, stdout: "" });
  expect(await crictl("ps", "-a", "-q")).toMatchObject({ code: 0, stdout: "" });
});

test("crictl stats, statsp, metricdescs, metricsp and events show a running container", async () => {
  const endpoint = ["--config", "/dev/null", "--runtime-endpoint", `unix://${daemon.criSocket}`];
  const events = spawn(CRICTL, [...endpoint, "events"], { stdio: ["ignore", "pipe", "ignore"] });
  let seen = "";
  events.stdout.on("data", (chunk: Buffer) => (seen += chunk.toString()));
  const cri = new CriClient(daemon.criSocket);
  try {
    const pod = await cri.runSandbox();
    const id = await cri.startContainer(pod, { metadata: { name: "shown", attempt: 0 } });
    const json = async (...args: string[]) => {
      const { code, stdout, stderr } = await crictl(...args);
      expect([args[0], code, stderr]).toEqual([args[0], 0, ""]);
      return JSON.parse(stdout) as Record<string, { attributes?: { id: string } }[] | undefined>;
    };
    expect((await json("stats", "-o", "json"))["stats"]?.map(({ attributes }) => attributes?.id)).toEqual([id]);
    expect((await json("statsp", "-o", "json"))["stats"]?.map(({ attributes }) => attributes?.id)).toEqual([pod]);
    expect((await crictl("stats")).stdout).toMatch(/shown\s+\d+\.\d\d\s+[\d.]+[kM]B/);
    expect(JSON.stringify(await json("metricdescs"))).toContain("container_memory_working_set_bytes");
    expect(JSON.stringify(await json("metricsp"))).toContain(id);
    await expect.poll(() => seen).toContain(id);
    await cri.removeSandbox(pod);
    await expect.poll(() => seen).toContain("CONTAINER_DELETED_EVENT");
  } finally {
    events.kill();
    cri.close();
  }
});
