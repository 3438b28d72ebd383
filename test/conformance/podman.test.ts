/** Debian's podman with minke-oci as its runtime, as its users call it. */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { MINKE_OCI, useEngineHost } from "./engines.js";

const IMAGE = "localhost/busybox:test";
const host = useEngineHost({ podman: "podman" });

beforeAll(async () => {
  if (!host.isMade) return;
  // Its defaults ask for a pids limit and for more open files than this machine may give.
  const settings = '[containers]\npids_limit = 0\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n';
  writeFileSync(join(host.folder, "containers.conf"), settings);
  const archive = join(host.folder, "rootfs.tar");
  spawnSync("tar", ["-C", host.rootfs, "-cf", archive, "."]);
  expect(await podman("import", archive, IMAGE)).toMatchObject({ code: 0 });
}, 400_000);
afterAll(async () => {
  if (!host.isMade) return;
  await podman("rm", "--all", "--force", "--time", "0");
}, 60_000);

function podman(...args: string[]) {
  const folders = ["--root", join(host.folder, "storage"), "--runroot", join(host.folder, "run")];
  const options = ["--tmpdir", join(host.folder, "tmp"), "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"];
  return host.run("podman", [...folders, ...options, "--events-backend", "file", "--runtime", MINKE_OCI, ...args], {
    CONTAINERS_CONF: join(host.folder, "containers.conf"),
  });
}

const run = (...args: string[]) => podman("run", "--network", "none", ...args);

test("podman run prints what the command prints and hands on its exit code", async () => {
  expect(await run("--rm", IMAGE, "/bin/sh", "-c", "echo hello; exit 7")).toMatchObject({ code: 7, stdout: "hello\n" });
});

test("podman exec runs in a detached container, and stop ends it", async () => {
  expect(await run("--detach", "--name", "sleeper", IMAGE, "/bin/sleep", "600")).toMatchObject({ code: 0 });
  expect(await podman("exec", "sleeper", "/bin/id", "-u")).toMatchObject({ code: 0, stdout: "0\n" });
  expect(await podman("stop", "--time", "1", "sleeper")).toMatchObject({ code: 0 });
  const { stdout } = await podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "sleeper");
  expect(stdout).toBe("exited 137\n");
  expect(await podman("rm", "sleeper")).toMatchObject({ code: 0 });
});

test("podman run --read-only refuses writes to the rootfs", async () => {
  const { code, stderr } = await run("--rm", "--read-only", IMAGE, "/bin/touch", "/file");
  expect(stderr).toContain("Read-only file system");
  expect(code).toBe(1);
});

test("podman run --cap-drop all leaves no effective capability", async () => {
  const { stdout } = await run("--rm", "--cap-drop", "all", IMAGE, "/bin/grep", "CapEff", "/proc/self/status");
  expect(stdout).toBe("CapEff:\t0000000000000000\n");
});

test("podman run with a user namespace maps the ids as asked", async () => {
  const maps = ["--uidmap", "0:100000:1000", "--gidmap", "0:100000:1000"];
  const { stdout } = await run("--rm", ...maps, IMAGE, "/bin/cat", "/proc/self/uid_map");
  expect(stdout.trim().split(/\s+/)).toEqual(["0", "100000", "1000"]);
});

test("podman run --tty gives the command a terminal", async () => {
  const { stdout } = await run("--rm", "--tty", IMAGE, "/bin/sh", "-c", "test -t 0 && echo terminal");
  expect(stdout.trim()).toBe("terminal");
});

test("podman healthcheck run answers what the check's command answers", async () => {
  const health = ["--health-cmd", "/bin/true", "--health-interval", "disable"];
  expect(await run("--detach", "--name", "checked", ...health, IMAGE, "/bin/sleep", "600")).toMatchObject({ code: 0 });
  expect(await podman("healthcheck", "run", "checked")).toMatchObject({ code: 0 });
  expect(await podman("rm", "--force", "--time", "0", "checked")).toMatchObject({ code: 0 });
});

test("podman pod create with two containers: both run in one network namespace", async () => {
  // Not below the pod's cgroup: podman 4.3 puts a device filter on that which lets nobody make
  // /dev/null; Debian's runc 1.1.5 fails there too.
  const infra = ["--infra-image", IMAGE, "--infra-command", "/bin/sleep 600"];
  expect(
    await podman("pod", "create", "--name", "two", "--network", "none", "--share-parent=false", ...infra),
  ).toMatchObject({ code: 0 });
  for (const name of ["one", "other"]) {
    const started = await podman("run", "--detach", "--pod", "two", "--name", name, IMAGE, "/bin/sleep", "600");
    expect(started, name).toMatchObject({ code: 0 });
  }
  const namespaceOf = async (name: string) =>
    (await podman("exec", name, "/bin/busybox", "readlink", "/proc/self/ns/net")).stdout;
  expect(await namespaceOf("one")).toMatch(/^net:/);
  expect(await namespaceOf("one")).toBe(await namespaceOf("other"));
  expect(await podman("pod", "rm", "--force", "--time", "0", "two")).toMatchObject({ code: 0 });
});
