/**
 * src/native against the real kernel: namespaces, sealed executables, spawning, locks, mounts.
 * Needs root. Every test closes what it opened.
 */
import { execFileSync, spawnSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import * as native from "../../src/native/index.js";
import { PROJECT } from "../harness/cli.js";
import { requires } from "../harness/requires.js";

let dir: string;
let open: native.Fd[];
function keep<T extends native.Fd | undefined>(fd: T): NonNullable<T> {
  if (!fd) throw new Error("no descriptor");
  open.push(fd);
  return fd;
}

beforeEach(requires("root", "netns", "cgroup2"));
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "minke-net-"));
  open = [];
});
afterEach(() => {
  for (const fd of open) fd.close();
  rmSync(dir, { recursive: true, force: true });
});

const NOTHING = { network: false, ipc: false, uts: false, hostname: "", domainname: "", sysctls: {} };

describe("createSandboxNamespaces", () => {
  test("makes namespaces that differ from the daemon's and leaves the daemon in its own", async () => {
    const before = readlinkSync("/proc/self/ns/net");
    const made = await native.createSandboxNamespaces({
      ...NOTHING,
      network: true,
      ipc: true,
      uts: true,
      hostname: "web",
    });
    const links = [keep(made.net), keep(made.ipc), keep(made.uts)].map((fd) =>
      readlinkSync(`/proc/self/fd/${fd.number}`),
    );
    keep(made.netlink);
    expect(links.map((link) => link.split(":")[0])).toEqual(["net", "ipc", "uts"]);
    expect(links).not.toContain(before);
    expect(readlinkSync("/proc/self/ns/net")).toBe(before);
  });

  test("makes only what was asked for", async () => {
    const made = await native.createSandboxNamespaces({ ...NOTHING, uts: true, hostname: "web" });
    keep(made.uts);
    expect(Object.keys(made)).toEqual(["uts"]);
  });

  test("makes them inside a user namespace with the given maps, and leaves no process of it", async (context) => {
    requires("userns")(context);
    const range = [{ containerId: 0, hostId: 200_000, length: 1000 }];
    const made = await native.createSandboxNamespaces({
      network: true,
      ipc: true,
      uts: true,
      hostname: "web",
      domainname: "",
      // The first can be written by the namespace's own root alone, from Linux 6.4 on.
      sysctls: { "kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1", "kernel.domainname": "example" },
      idMaps: { uids: range, gids: range },
    });
    const fds = [made.user, made.net, made.ipc, made.uts].map(keep);
    keep(made.netlink);
    const links = fds.map((fd) => readlinkSync(`/proc/self/fd/${fd.number}`));
    expect(links.map((link) => link.split(":")[0])).toEqual(["user", "net", "ipc", "uts"]);
    const inside = (...command: string[]) =>
      execFileSync(
        "nsenter",
        [
          ...["user", "net", "ipc", "uts"].map((kind, i) => `--${kind}=/proc/${process.pid}/fd/${fds[i]?.number}`),
          ...command,
        ],
        { encoding: "utf8" },
      );
    expect(inside("cat", "/proc/self/uid_map").trim().split(/\s+/)).toEqual(["0", "200000", "1000"]);
    expect(inside("hostname")).toBe("web\n");
    expect(inside("cat", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/kernel/domainname")).toBe("1\nexample\n");
    // It may rule the network that belongs to its user namespace.
    inside("ip", "link", "set", "lo", "up");
    expect(readFileSync("/proc/self/status", "utf8")).toMatch(/^Uid:\t0\t0\t0\t0$/m);
    const children = readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").trim().split(" ").filter(Boolean);
    const users = children.filter((pid) => readlinkSync(`/proc/${pid}/ns/user`) === links[0]);
    expect(users).toEqual([]);
  });

  test("refuses maps that the kernel does not take", async (context) => {
    requires("userns")(context);
    const range = { containerId: 0, hostId: 200_000, length: 10 };
    const idMaps = { uids: [range, range], gids: [range] };
    await expect(native.createSandboxNamespaces({ ...NOTHING, uts: true, idMaps })).rejects.toMatchObject({
      syscall: { name: "uid_map", errno: "EINVAL" },
    });
  });

  test("refuses a sysctl of the host as SYSCTL_NOT_NAMESPACED", async () => {
    const request = { ...NOTHING, network: true, sysctls: { "vm.swappiness": "1" } };
    await expect(native.createSandboxNamespaces(request)).rejects.toMatchObject({ code: "SYSCTL_NOT_NAMESPACED" });
  });

  test("refuses a net sysctl without a network namespace", async () => {
    const request = { ...NOTHING, ipc: true, sysctls: { "net.ipv4.ip_forward": "1" } };
    await expect(native.createSandboxNamespaces(request)).rejects.toMatchObject({ code: "SYSCTL_NOT_NAMESPACED" });
  });

  test("a sysctl that does not exist fails with its errno", async () => {
    const request = { ...NOTHING, network: true, sysctls: { "net.ipv4.no_such": "1" } };
    await expect(native.createSandboxNamespaces(request)).rejects.toMatchObject({
      syscall: { name: "sysctl", errno: "ENOENT" },
    });
  });

  test("writes a sysctl in the new namespace only", async () => {
    const path = "/proc/sys/kernel/shm_rmid_forced";
    const before = readFileSync(path, "utf8");
    const made = await native.createSandboxNamespaces({
      ...NOTHING,
      ipc: true,
      sysctls: { "kernel.shm_rmid_forced": "1" },
    });
    keep(made.ipc);
    expect(readFileSync(path, "utf8")).toBe(before);
  });
});

describe("sealedExecutable and spawnMonitor", () => {
  async function sealed(path: string): Promise<native.Fd> {
    return keep(await native.sealedExecutable(path, "minke-test"));
  }

  test("a sealed executable cannot be written", async () => {
    const fd = await sealed("/bin/true");
    expect(() => writeFileSync(`/proc/self/fd/${fd.number}`, "x")).toThrow(/ETXTBSY|EPERM/);
  });

  test("a spawned program is born in its cgroup with exactly its descriptors", async () => {
    const { path } = await native.findCgroup2Mount();
    const { mkdirSync, rmdirSync } = await import("node:fs");
    const group = join(path, "minke-net-spawn-test");
    mkdirSync(group, { recursive: true });
    const cgroup = keep(native.openDirectory(group));
    const made = await native.createSandboxNamespaces({ ...NOTHING, uts: true, hostname: "web" });
    const monitor = await native.spawnMonitor({
      executable: await sealed("/bin/sleep"),
      args: ["minke-monitor", "60"],
      cgroup,
      fds: { uts: keep(made.uts) },
    });
    keep(monitor.pidfd);
    keep(monitor.control);
    try {
      // execve lets the parent of a vfork go on before it closes what is close-on-exec.
      await expect
        .poll(() =>
          readdirSync(`/proc/${monitor.pid}/fd`)
            .map(Number)
            .toSorted((a, b) => a - b),
        )
        .toEqual([0, 1, 2, 3, 6]);
      expect(readlinkSync(`/proc/${monitor.pid}/fd/6`)).toMatch(/^uts:/);
      expect(readFileSync(`/proc/${monitor.pid}/cgroup`, "utf8")).toContain("0::/minke-net-spawn-test");
      expect(readFileSync(`/proc/${monitor.pid}/cmdline`, "utf8")).toBe("minke-monitor\x0060\0");
      expect(readFileSync(`/proc/${monitor.pid}/status`, "utf8")).toMatch(/SigIgn:\t0000000000000000\n/);
      expect(native.reapChild(monitor.pidfd)).toBeUndefined();
      expect(await native.waitForProcess(monitor.pidfd, 20)).toBe(false);
    } finally {
      const ended = native.waitForProcess(monitor.pidfd, 60_000);
      native.pidfdSendSignal(monitor.pidfd, "SIGKILL");
      expect(await ended).toBe(true);
      const exit = native.reapChild(monitor.pidfd);
      expect(exit).toEqual({ exitCode: 0, signal: 9 });
      rmdirSync(group);
    }
  });

  test("a file that is no program fails with execveat and leaves no child", async () => {
    writeFileSync(join(dir, "text"), "not a program");
    const executable = await sealed(join(dir, "text"));
    await expect(native.spawnMonitor({ executable, args: ["x"], fds: {} })).rejects.toThrow(
      expect.objectContaining({ syscall: { name: "execveat", errno: "ENOEXEC" } }),
    );
  });
});

test("pidfdHasExited goes on where signals interrupt it, before the end of a process and after", () => {
  const library = join(dir, "eintr.so");
  execFileSync("gcc", ["-shared", "-fPIC", "-o", library, `${PROJECT}test/native/eintr.c`, "-ldl"]);
  const script = `
    import { spawn } from "node:child_process";
    import { pidfdHasExited, pidfdOpen } from "${PROJECT}dist/native/index.js";
    const child = spawn("sleep", ["1000"], { stdio: "ignore", env: {} });
    const pidfd = pidfdOpen(child.pid);
    console.log(pidfdHasExited(pidfd));
    child.kill("SIGKILL");
    await new Promise((resolve) => child.once("exit", resolve));
    console.log(pidfdHasExited(pidfd));
    pidfd.close();`;
  const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    env: { ...process.env, LD_PRELOAD: library },
  });
  expect({ stdout, stderr }).toEqual({ stdout: "false\ntrue\n", stderr: "EINTR\n".repeat(3) });
});

describe("spawnProgram", () => {
  async function outcome(script: string, input?: string): Promise<{ text: string; exit: native.ChildExit }> {
    const program = await native.spawnProgram("/bin/sh", ["-c", script], { hasInput: input !== undefined });
    if (program.input) new Socket({ fd: program.input.take(), readable: false, writable: true }).end(input ?? "");
    let text = "";
    for await (const piece of new Socket({ fd: program.output.take(), readable: true, writable: false })) {
      text += String(piece);
    }
    for (;;) {
      const exit = native.reapChild(program.pidfd);
      await new Promise((resolve) => setTimeout(resolve, 1));
      if (!exit) continue;
      program.pidfd.close();
      return { text, exit };
    }
  }

  test("gives the input to the program, and its output, errors and exit code to the caller", async () => {
    expect(await outcome("cat; echo wrong >&2; exit 3", "given")).toEqual({
      text: "givenwrong\n",
      exit: { exitCode: 3, signal: 0 },
    });
  });

  test("starts with three descriptors, no environment, and no signal ignored", async () => {
    process.env["MINKE_TEST_SECRET"] = "x";
    const { text } = await outcome(
      'cd /proc/self/fd && echo *; grep SigIgn /proc/self/status; echo "$MINKE_TEST_SECRET"',
    );
    delete process.env["MINKE_TEST_SECRET"];
    // 3 is what the shell lists the directory by. Ignored are at most the two signals that glibc keeps to itself.
    expect(text.replace(/^0 1 2 3$/m, "0 1 2").replace("180000000", "000000000")).toBe(
      "0 1 2\nSigIgn:\t0000000000000000\n\n",
    );
  });

  test("of a program that is not there is ENOENT", async () => {
    await expect(native.spawnProgram("/none", [], { hasInput: false })).rejects.toMatchObject({
      syscall: { name: "posix_spawn", errno: "ENOENT" },
    });
  });
});

describe("files, mounts and probes", () => {
  test("a second lockFile of one path is failed-precondition LOCKED until the first is closed", async () => {
    const path = join(dir, "lock");
    const first = await native.lockFile(path);
    await expect(native.lockFile(path)).rejects.toMatchObject({ kind: "failed-precondition", code: "LOCKED" });
    first.close();
    keep(await native.lockFile(path));
  });

  test("mountTmpfs mounts with the mode asked for and unmount removes it", async () => {
    await native.mountTmpfs(dir, { sizeBytes: 1 << 20, mode: 0o700 });
    expect(await native.isMountPoint(dir)).toBe(true);
    expect(statSync(dir).mode & 0o7777).toBe(0o700);
    await native.unmount(dir, { detach: false });
    expect(await native.isMountPoint(dir)).toBe(false);
  });

  test("createSandboxNamespaces makes a /dev/shm of the size asked for that is in no mount table", async () => {
    const before = (await native.mountTable()).length;
    const made = await native.createSandboxNamespaces({ ...NOTHING, ipc: true, shmBytes: 1 << 20 });
    keep(made.ipc);
    const path = `/proc/self/fd/${keep(made.shm).number}`;
    expect(statSync(path).mode & 0o7777).toBe(0o1777);
    const { bsize, blocks } = statfsSync(path);
    expect(bsize * blocks).toBe(1 << 20);
    expect((await native.mountTable()).length).toBe(before);
  });

  test("probeKernel finds every feature of this kernel", async () => {
    const probe = await native.probeKernel();
    expect(probe.openat2).toBeUndefined();
    expect(probe.pidfd).toBeUndefined();
    expect(probe.closeRange).toBeUndefined();
  });
});

describe("sockets", () => {
  test("isPortFree is false while a process listens and true again after", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as { port: number };
    expect(native.isPortFree("tcp", "127.0.0.1", port)).toBe(false);
    expect(native.isPortFree("tcp", "0.0.0.0", port)).toBe(false);
    await new Promise((resolve) => server.close(resolve));
    expect(native.isPortFree("tcp", "0.0.0.0", port)).toBe(true);
  });

  test("dialInNetns reaches a listener of that namespace's localhost", async () => {
    const server = createServer((socket) => socket.end("hello"));
    await new Promise<void>((resolve) => server.listen(0, "::1", resolve));
    const { port } = server.address() as { port: number };
    const fd = await native.dialInNetns("/proc/self/ns/net", port);
    const socket = new Socket({ fd: fd.take() });
    const text = await new Promise<string>((resolve) => socket.on("data", (bytes) => resolve(String(bytes))));
    expect(text).toBe("hello");
    socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });

  test("dialInNetns to a port where nobody listens is ECONNREFUSED", async () => {
    await expect(native.dialInNetns("/proc/self/ns/net", 1)).rejects.toMatchObject({
      syscall: { name: "connect", errno: "ECONNREFUSED" },
    });
  });

  test("a netlink socket answers a dump of links with NLMSG_DONE", async () => {
    const made = await native.createSandboxNamespaces({ ...NOTHING, network: true });
    keep(made.net);
    const request = Buffer.alloc(32);
    request.writeUInt32LE(32, 0);
    request.writeUInt16LE(18, 4); // RTM_GETLINK
    request.writeUInt16LE(0x301, 6); // NLM_F_REQUEST | NLM_F_DUMP
    const replies = await native.netlinkTransact(keep(made.netlink), request, 1);
    expect(replies.readUInt16LE(4)).toBe(16); // RTM_NEWLINK
  });
});

test("spreadSubdirectories marks a directory of ext4 as chattr +T does, and changes nothing elsewhere", () => {
  native.spreadSubdirectories(dir);
  const { stdout: fileSystem } = spawnSync("stat", ["-f", "-c", "%T", dir], { encoding: "utf8" });
  if (fileSystem.trim() === "ext2/ext3") {
    const { stdout } = spawnSync("lsattr", ["-d", dir], { encoding: "utf8" });
    expect(stdout.split(" ")[0]).toContain("T");
  }
  native.spreadSubdirectories("/dev/shm");
  expect(() => native.spreadSubdirectories(join(dir, "missing"))).toThrow(
    expect.objectContaining({ syscall: { name: "openat", errno: "ENOENT" } }),
  );
});

test("a copy step writes what is in another file, and nothing where that is missing, none, or a directory", async () => {
  writeFileSync(join(dir, "from"), "nameserver 192.0.2.1\n", { mode: 0o600 });
  const copy = (from: string, name: string) => ({ make: "copy", path: join(dir, name), mode: 0o644, from }) as const;
  await native.runFileSteps([
    copy(join(dir, "from"), "a"),
    copy(join(dir, "missing"), "b"),
    copy(dir, "c"),
    copy("/dev/zero", "d"),
  ]);
  expect(["a", "b", "c", "d"].map((name) => readFileSync(join(dir, name), "utf8"))).toEqual([
    "nameserver 192.0.2.1\n",
    "",
    "",
    "",
  ]);
  expect(statSync(join(dir, "a")).mode & 0o777).toBe(0o644);
});

test("removal steps remove what is there, take what is not for removed, and say which one was refused", async () => {
  const path = (name: string) => join(dir, name);
  mkdirSync(path("tree/deep"), { recursive: true });
  for (const name of ["file", "retired", "tree/deep/file"]) writeFileSync(path(name), "text");
  mkdirSync(path("empty"));
  const steps = [
    { make: "spare", path: path("retired"), spare: path(".spare") },
    { remove: "file", path: path("file") },
    { remove: "directory", path: path("empty") },
    { remove: "tree", path: path("tree") },
    { remove: "cgroup", path: path("no-cgroup") },
  ] as const;
  expect(await native.tryFileSteps(steps)).toEqual({ hasSpare: true });
  expect(readdirSync(dir)).toEqual([".spare"]);
  expect(await native.tryFileSteps(steps)).toEqual({ hasSpare: false });
  const refused = await native.tryFileSteps([
    ...steps,
    { remove: "directory", path: dir },
    { remove: "file", path: path(".spare") },
  ]);
  expect(refused).toMatchObject({ failed: 5, error: { syscall: { name: "rmdir", errno: "ENOTEMPTY" } } });
  expect(readdirSync(dir)).toEqual([".spare"]);
});
