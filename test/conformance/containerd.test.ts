/** Debian's containerd with minke-oci as its runc binary, through `ctr`. */
import type { ChildProcess } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { useEngineHost } from "./engines.js";

const host = useEngineHost({ containerd: "containerd" });
let daemon: ChildProcess;
let runtime: string;

beforeAll(async () => {
  if (!host.isMade) return;
  runtime = host.toleratingRuntime(); // containerd always sets cpu.shares
  const config = join(host.folder, "config.toml");
  const settings = { root: join(host.folder, "root"), state: join(host.folder, "state") };
  writeFileSync(
    config,
    `version = 2\nroot = "${settings.root}"\nstate = "${settings.state}"\n` +
      `disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "${join(host.folder, "sock")}"\n`,
  );
  daemon = host.start("containerd", ["-c", config]);
  for (let i = 0; (await ctr("version")).code !== 0; i++) {
    if (i === 100) throw new Error("containerd did not come up");
    await sleep(100);
  }
}, 400_000);
afterAll(async () => {
  if (!host.isMade) return;
  daemon.kill("SIGTERM");
  await new Promise((resolve) => daemon.once("exit", resolve));
}, 60_000);

const ctr = (...args: string[]) => host.run("ctr", ["-a", join(host.folder, "sock"), ...args]);
const start = (...args: string[]) => ctr("run", "--runc-binary", runtime, "--rootfs", ...args);

test("ctr run prints what the command prints and hands on its exit code", async () => {
  const { code, stdout } = await start("--rm", host.rootfs, "minke-first", "/bin/sh", "-c", "echo hello; exit 5");
  expect(stdout).toBe("hello\n");
  expect(code).toBe(5);
});

test("ctr task exec runs in a detached container, kill ends it, and delete leaves no task", async () => {
  expect(await start("--detach", host.rootfs, "minke-second", "/bin/sleep", "600")).toMatchObject({ code: 0 });
  const id = await ctr("task", "exec", "--exec-id", "probe", "minke-second", "/bin/id", "-u");
  expect(id).toMatchObject({ code: 0, stdout: "0\n" });
  expect(await ctr("task", "kill", "--signal", "SIGKILL", "minke-second")).toMatchObject({ code: 0 });
  for (let i = 0; i < 100 && !(await ctr("task", "ls")).stdout.includes("STOPPED"); i++) await sleep(100);
  await ctr("task", "rm", "minke-second");
  expect(await ctr("container", "rm", "minke-second")).toMatchObject({ code: 0 });
  expect((await ctr("task", "ls", "--quiet")).stdout).toBe("");
});
