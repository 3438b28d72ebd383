/** What a hostile image, a hostile container or a racing process may try against minke-oci. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeEach, expect, test } from "vitest";
import { PROJECT } from "../harness/cli.js";
import { MINKE_OCI, OciBundle, type SampleSpec } from "../harness/oci-bundle.js";
import { requires } from "../harness/requires.js";

const here = new OciBundle("attack");
const { folder, rootfs, state, path: bundle } = here;
const call = here.call.bind(here);
const oci = here.oci.bind(here);
const configure = here.configure.bind(here);
const run = () => here.run();
let count = 0;

beforeEach(requires("root", "cgroup2"));
beforeEach(() => here.fill());
afterEach(() => here.removeContainers());
afterAll(() => here.dispose());

/** Exchanges rootfs/`name`, a directory, with a link to `target`, again and again. */
function exchanging(name: string, target: string): ChildProcess {
  mkdirSync(join(rootfs, name), { recursive: true });
  symlinkSync(target, join(rootfs, `${name}-link`));
  const program =
    "import ctypes,sys\nlibc=ctypes.CDLL(None)\n" +
    "a,b=(s.encode() for s in sys.argv[1:])\nwhile True: libc.renameat2(-100,a,-100,b,2)\n";
  return spawn("python3", ["-c", program, join(rootfs, name), join(rootfs, `${name}-link`)], { stdio: "ignore" });
}

test("a container cannot write to the program that execs into it", async () => {
  const program = here.copyOf(MINKE_OCI, "minke-oci");
  const writer = ["-O1", "-static", "-o", join(rootfs, "bin/writer"), `${PROJECT}test/native/exe_writer.c`];
  expect(spawnSync("gcc", writer).status).toBe(0);
  const all = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"];
  configure(["/bin/writer"], (config) => {
    config.process.capabilities = { bounding: all, permitted: all, effective: all };
  });
  // Detached: while anything else runs the program, ETXTBSY alone would keep it from being written.
  const output = join(folder, "writer");
  const start = 'exec "$@" >"$0" 2>&1 </dev/null';
  const id = "minke-attack-exe";
  spawnSync("sh", ["-c", start, output, program, "--root", state, "run", "--detach", "--bundle", bundle, id]);
  for (let i = 0; i < 600 && !(existsSync(output) && readFileSync(output, "utf8").includes("waiting")); i++) {
    await sleep(50);
  }
  // The container's own copy of the program to be attacked, as a malicious image would have it run.
  for (let i = 0; i < 100 && readFileSync(output, "utf8") === "waiting\n"; i++) {
    call(program, "--root", state, "exec", id, "/proc/self/exe", "--version");
    await sleep(20);
  }
  expect(readFileSync(output, "utf8")).toBe("waiting\nopen: EROFS\n");
  expect(readFileSync(program).equals(readFileSync(MINKE_OCI))).toBe(true);
});

test.each([
  [
    "a bind mount",
    (config: SampleSpec) => config.mounts.push({ destination: "/swap/data", source: bundle, options: ["bind"] }),
  ],
  [
    "a tmpfs",
    (config: SampleSpec) => config.mounts.push({ destination: "/swap/data", type: "tmpfs", source: "tmpfs" }),
  ],
  ["a working directory", (config: SampleSpec) => (config.process.cwd = "/swap/data")],
  ["a masked path", (config: SampleSpec) => config.linux.maskedPaths.push("/swap/secret")],
  ["a read-only path", (config: SampleSpec) => config.linux.readonlyPaths.push("/swap/secret")],
  [
    "a terminal, its console and the devices",
    (config: SampleSpec) => {
      rmSync(join(rootfs, "dev"), { recursive: true });
      symlinkSync("/swap", join(rootfs, "dev"));
      config.process.terminal = true;
      config.mounts = config.mounts.filter(({ destination }) => !/^\/dev($|\/(shm|mqueue))/.test(destination));
    },
  ],
])("%s whose directory is exchanged for a link meanwhile never reaches the host", (_what, change) => {
  const outside = join(folder, `outside-${count++}`);
  mkdirSync(outside);
  writeFileSync(join(outside, "secret"), "s");
  const racer = exchanging("swap", outside);
  configure("true", change);
  try {
    for (let i = 0; i < 12; i++) {
      const { status, output } = run();
      if (status !== 0) expect(output).toMatch(/^minke-oci: [\w ]+/);
    }
  } finally {
    racer.kill("SIGKILL");
  }
  expect(readdirSync(outside)).toEqual(["secret"]);
  expect(readFileSync(join(outside, "secret"), "utf8")).toBe("s");
  expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(folder);
});

test.each(["/dev/null", "/dev/zero"])(
  "an image's own %s that is a link is refused, and its target untouched",
  (device) => {
    writeFileSync(join(rootfs, "etc/secret"), "s");
    symlinkSync("/etc/secret", join(rootfs, device));
    configure("cat /etc/secret", (config) => {
      config.mounts = config.mounts.filter(({ destination }) => !destination.startsWith("/dev"));
      config.linux.maskedPaths = ["/etc/secret"];
    });
    expect(run()).toEqual({ status: 1, output: `minke-oci: device "${device}": mknodat: EEXIST\n` });
    expect(readFileSync(join(rootfs, "etc/secret"), "utf8")).toBe("s");
  },
);

test("a masked file reads empty and takes no writes, whatever the image has at /dev", () => {
  writeFileSync(join(rootfs, "etc/secret"), "s");
  writeFileSync(join(rootfs, "dev/null"), "not the null device");
  configure("cat /etc/secret; echo x >/etc/secret; cat /etc/secret", (config) => {
    config.linux.maskedPaths = ["/etc/secret"];
  });
  expect(run()).toEqual({ status: 0, output: "" });
  expect(readFileSync(join(rootfs, "etc/secret"), "utf8")).toBe("s");
});

test("sysctls reach the container's own namespace where mounts cover /proc/sys", () => {
  mkdirSync(join(rootfs, "proc2"));
  const decoy = join(bundle, "decoy/net/ipv4");
  mkdirSync(decoy, { recursive: true });
  writeFileSync(join(decoy, "ip_forward"), "untouched");
  const host = readFileSync("/proc/sys/net/ipv4/ip_forward", "utf8");
  configure("cat /proc2/sys/net/ipv4/ip_forward", (config) => {
    config.linux.sysctl = { "net.ipv4.ip_forward": "1" };
    config.linux.readonlyPaths = [];
    config.mounts.push({ destination: "/proc2", type: "proc", source: "proc" });
    config.mounts.push({ destination: "/proc/sys", source: join(bundle, "decoy"), options: ["bind"] });
  });
  expect(run()).toEqual({ status: 0, output: "1\n" });
  expect(readFileSync(join(decoy, "ip_forward"), "utf8")).toBe("untouched");
  expect(readFileSync("/proc/sys/net/ipv4/ip_forward", "utf8")).toBe(host);
});

/** Files that look like those of /proc that a runtime writes to. */
function proc(): { decoy: string; isUntouched: () => void } {
  const decoy = join(bundle, `proc-${count++}`);
  const names = ["self", "thread-self", "1"].flatMap((task) =>
    ["oom_score_adj", "attr/exec", "attr/apparmor/exec"].map((name) => join(decoy, task, name)),
  );
  for (const name of names) {
    mkdirSync(dirname(name), { recursive: true });
    writeFileSync(name, "untouched");
  }
  return {
    decoy,
    isUntouched: () => expect(new Set(names.map((name) => readFileSync(name, "utf8")))).toEqual(new Set(["untouched"])),
  };
}

/** A second procfs, where a container sees the truth. */
const TRUTH = { destination: "/truth", type: "proc", source: "proc" };

// The classes of CVE-2019-16884 and CVE-2019-19921; labels are in test/vm/oci.test.ts, where there is AppArmor.
test.each<[string, (config: SampleSpec, decoy: string) => void]>([
  [
    "a mount covers /proc",
    (config, decoy) => config.mounts.push({ destination: "/proc", source: decoy, options: ["rbind"] }),
  ],
  [
    "/proc is a link of the image's into a volume",
    (config, decoy) => {
      rmSync(join(rootfs, "proc"), { recursive: true });
      symlinkSync("/volume", join(rootfs, "proc"));
      config.mounts = config.mounts.filter(({ destination }) => destination !== "/proc");
      config.mounts.push({ destination: "/volume", source: decoy, options: ["rbind"] });
    },
  ],
  [
    "the image has files at /proc and no procfs is mounted there",
    (config, decoy) => {
      config.mounts = config.mounts.filter(({ destination }) => destination !== "/proc");
      cpSync(decoy, join(rootfs, "proc"), { recursive: true });
    },
  ],
])("the oom score is the process's own where %s", (_what, change) => {
  const { decoy, isUntouched } = proc();
  configure("cat /truth/self/oom_score_adj", (config) => {
    config.process.oomScoreAdj = 777;
    config.linux.maskedPaths = config.linux.readonlyPaths = [];
    change(config, decoy);
    config.mounts.push(TRUTH);
  });
  expect(run()).toEqual({ status: 0, output: "777\n" });
  isUntouched();
});

test("exec sets the oom score of its own process in a container that has covered /proc", async () => {
  const { decoy, isUntouched } = proc();
  const capabilities = ["CAP_SYS_ADMIN"];
  configure("busybox mount -o bind /volume /proc && exec sleep 600", (config) => {
    config.process.capabilities = { bounding: capabilities, permitted: capabilities, effective: capabilities };
    config.linux.maskedPaths = config.linux.readonlyPaths = [];
    config.mounts.push({ destination: "/volume", source: decoy, options: ["rbind"] }, TRUTH);
  });
  expect(oci("run", "--detach", "--bundle", bundle, "minke-attack-oom").status).toBe(0);
  const decoyed = () => oci("exec", "minke-attack-oom", "cat", "/proc/self/oom_score_adj").output;
  await expect.poll(decoyed, { timeout: 30_000 }).toBe("untouched");
  const process = { args: ["cat", "/truth/self/oom_score_adj"], cwd: "/", env: ["PATH=/bin"], oomScoreAdj: 778 };
  writeFileSync(join(folder, "process.json"), JSON.stringify(process));
  const { output } = oci("exec", "--process", join(folder, "process.json"), "minke-attack-oom");
  expect(output).toBe("778\n");
  isUntouched();
});

test("a working directory behind a link to a descriptor of the runtime is refused", () => {
  for (let fd = 3; fd < 16; fd++) {
    symlinkSync(`/proc/self/fd/${fd}`, join(rootfs, `leak-${fd}`));
    for (const cwd of [`/proc/self/fd/${fd}`, `/leak-${fd}`, `/leak-${fd}/../..`]) {
      configure("ls -d sys/kernel etc/debian_version 2>/dev/null", (config) => (config.process.cwd = cwd));
      const { status, output } = run();
      expect(output, cwd).toMatch(/^minke-oci: .*(ELOOP|ENOENT|ENOTDIR|EXDEV|EACCES)/);
      expect(status).toBe(1);
    }
  }
});

test("exec in a directory behind a link to a descriptor is refused", () => {
  for (let fd = 3; fd < 16; fd++) symlinkSync(`/proc/self/fd/${fd}`, join(rootfs, `leak-${fd}`));
  configure(["sleep", "600"]);
  expect(oci("run", "--detach", "--bundle", bundle, "minke-attack-cwd").status).toBe(0);
  for (let fd = 3; fd < 16; fd++) {
    const { status, output } = oci("exec", "--cwd", `/leak-${fd}`, "minke-attack-cwd", "ls");
    expect(output).toMatch(/^minke-oci: .*(chdir|getcwd): E/);
    expect(status).toBe(255);
  }
});

test("exec gives added capabilities, and none of them inheritable or ambient", () => {
  configure(["sleep", "600"]);
  expect(oci("run", "--detach", "--bundle", bundle, "minke-attack-caps").status).toBe(0);
  const { output } = oci(
    "exec",
    "--cap",
    "CAP_SYS_TIME",
    "minke-attack-caps",
    "grep",
    "-E",
    "Cap(Inh|Amb|Eff)",
    "/proc/self/status",
  );
  const sets = Object.fromEntries(
    output
      .trim()
      .split("\n")
      .map((line) => line.split(":\t") as [string, string]),
  );
  expect(BigInt(`0x${sets["CapEff"]}`) & (1n << 25n)).toBe(1n << 25n);
  expect([sets["CapInh"], sets["CapAmb"]]).toEqual(["0".repeat(16), "0".repeat(16)]);
});

test.each(["0:0x", "1e3", "-1", "4294967295", "4294967296", " 1", "1:", "root", "0 ", "1:2:3"])(
  "exec --user %j is refused",
  (user) => {
    configure(["sleep", "600"]);
    expect(oci("run", "--detach", "--bundle", bundle, "minke-attack-user").status).toBe(0);
    expect(oci("exec", "--user", user, "minke-attack-user", "true")).toEqual({
      status: 255,
      output: `minke-oci: --user "${user}" is not uid[:gid]\n`,
    });
  },
);

test("--preserve-fds hands on what is open, and is refused for what is not", () => {
  configure("ls /proc/self/fd | tr '\\n' ' '");
  symlinkSync("busybox", join(rootfs, "bin/tr"));
  const with_fds = (redirects: string, n: string) => {
    const command = `exec "$@" ${redirects}`;
    return call(
      "sh",
      "-c",
      command,
      "sh",
      MINKE_OCI,
      "--root",
      state,
      "run",
      "--preserve-fds",
      n,
      "--bundle",
      bundle,
      "minke-attack-fds",
    );
  };
  expect(with_fds("3</dev/null 4</dev/null 5</dev/null", "2")).toEqual({ status: 0, output: "0 1 2 3 4 5 " });
  expect(with_fds("3</dev/null 5</dev/null", "2")).toEqual({
    status: 1,
    output: "minke-oci: --preserve-fds 2: descriptor 4 is not open\n",
  });
  expect(with_fds("", "x").output).toBe('minke-oci: --preserve-fds "x" is not a number of descriptors\n');
});
