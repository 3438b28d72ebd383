/**
 * What runtime-tools does not ask: hooks, notify listeners, terminals, descriptors. Each test runs
 * with minke-oci and with Debian's crun, so that one that asks for the wrong thing is found.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { MINKE_OCI, useEngineHost } from "./engines.js";

const host = useEngineHost({ crun: "crun" });
const KINDS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] as const;
type Kind = (typeof KINDS)[number];

interface Hook {
  path: string;
  args: string[];
  timeout?: number;
}
interface Config {
  ociVersion: string;
  process: { args: string[]; terminal: boolean; consoleSize?: object; noNewPrivileges: boolean };
  root: { path: string; readonly?: boolean };
  hooks?: Partial<Record<Kind, Hook[]>>;
  annotations?: Record<string, string>;
  linux: { seccomp?: object; resources?: object };
}

let bundle: string;
let sample: string;
let count = 0;

beforeAll(async () => {
  if (!host.isMade) return;
  bundle = join(host.folder, "bundle");
  mkdirSync(bundle);
  expect(await host.run(MINKE_OCI, ["spec", "--bundle", bundle])).toMatchObject({ code: 0 });
  sample = readFileSync(join(bundle, "config.json"), "utf8");
}, 400_000);

function configure(command: string, change: (config: Config) => void = () => {}) {
  const config: Config = JSON.parse(sample);
  config.ociVersion = "1.0.2"; // what Debian's crun knows
  config.process = { ...config.process, args: ["/bin/sh", "-c", command], terminal: false };
  config.root = { path: host.rootfs };
  delete config.linux.resources;
  change(config);
  writeFileSync(join(bundle, "config.json"), JSON.stringify(config));
}

/** Receives one connection's text and descriptors, then prints what the expression says of them. */
async function receiver(socket: string, expression: string) {
  rmSync(socket, { force: true });
  const program = `
import array, fcntl, json, os, socket, struct, sys, termios
server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen(1)
text, fds, _, _ = socket.recv_fds(server.accept()[0], 65536, 8)
print(${expression})
`;
  const child = spawn("python3", ["-c", program, socket], { stdio: ["ignore", "pipe", "inherit"], timeout: 60_000 });
  let output = "";
  child.stdout.on("data", (bytes) => (output += bytes));
  const ended = new Promise<string>((resolve) => child.on("close", () => resolve(output)));
  for (let i = 0; i < 1000 && !existsSync(socket); i++) await sleep(20);
  await sleep(100); // bind(2) makes the file, listen(2) comes after it
  return { said: ended };
}

describe.each([
  ["minke-oci", MINKE_OCI],
  ["crun", "crun"],
])("%s", (name, program) => {
  const oci = (...args: string[]) => host.run(program, ["--root", join(host.folder, name), ...args]);
  const id = (what: string) => `minke-fields-${process.pid}-${name}-${what}`;

  test("hooks run in their order, each with the state on standard input", async () => {
    const log = join(host.rootfs, "tmp", `log-${name}`);
    rmSync(log, { force: true });
    // createContainer runs in the container's mount namespace before the root is changed, startContainer after.
    const hook = (kind: Kind, n: number): Hook => {
      const path = kind === "startContainer" ? log.replace(host.rootfs, "") : log;
      const script = `read -r state; case $state in *'"id"'*) echo ${kind} ${n} >>${path} ;; esac`;
      return { path: "/bin/sh", args: ["sh", "-c", script] };
    };
    configure("true", (config) => {
      config.hooks = Object.fromEntries(KINDS.map((kind) => [kind, [hook(kind, 1), hook(kind, 2)]]));
    });
    expect(await oci("run", "--bundle", bundle, id("hooks"))).toMatchObject({ code: 0 });
    const lines = readFileSync(log, "utf8").trim().split("\n");
    // crun starts its poststart hooks beside those of startContainer (seen with 1.8.1).
    const kinds = KINDS.filter((kind) => kind !== "poststart" || name !== "crun");
    const ofKinds = lines.filter((line) => kinds.some((kind) => line.startsWith(`${kind} `)));
    expect(ofKinds).toEqual(kinds.flatMap((kind) => [`${kind} 1`, `${kind} 2`]));
  });

  test.each(["prestart", "createRuntime", "createContainer", "startContainer"] as const)(
    "a %s hook that fails, or takes longer than its timeout, keeps the command from running",
    async (kind) => {
      const mark = join(host.rootfs, "tmp", `ran-${name}-${kind}`);
      for (const hook of [
        { path: "/bin/sh", args: ["sh", "-c", "cat >/dev/null; exit 3"] },
        { path: "/bin/sh", args: ["sh", "-c", "cat >/dev/null; sleep 30"], timeout: 1 },
      ]) {
        configure(`echo ran >/tmp/ran-${name}-${kind}`, (config) => {
          config.root.readonly = false;
          config.hooks = { [kind]: [hook] };
        });
        const { code } = await oci("run", "--bundle", bundle, id(`fail-${count++}`));
        expect(code, JSON.stringify(hook)).not.toBe(0);
        expect(existsSync(mark)).toBe(false);
      }
    },
  );

  test("a poststop hook that fails does not keep the next from running", async () => {
    const log = join(host.folder, `poststop-${name}`);
    configure("true", (config) => {
      config.hooks = {
        poststop: [
          { path: "/bin/sh", args: ["sh", "-c", "cat >/dev/null; exit 1"] },
          { path: "/bin/sh", args: ["sh", "-c", `cat >/dev/null; echo second >${log}`] },
        ],
      };
    });
    expect(await oci("run", "--bundle", bundle, id("poststop"))).toMatchObject({ code: 0 });
    expect(readFileSync(log, "utf8")).toBe("second\n");
  });

  test("a notify listener gets the descriptor with the container's state and its metadata", async () => {
    const socket = join(host.folder, `notify-${name}.sock`);
    const received = await receiver(
      socket,
      '[len(fds), json.loads(text)["fds"], json.loads(text)["metadata"], json.loads(text)["state"]["id"]]',
    );
    configure("true", (config) => {
      config.linux.seccomp = {
        defaultAction: "SCMP_ACT_ALLOW",
        architectures: ["SCMP_ARCH_X86_64"],
        listenerPath: socket,
        listenerMetadata: "for the agent",
        syscalls: [{ names: ["swapoff"], action: "SCMP_ACT_NOTIFY" }],
      };
    });
    expect(await oci("run", "--bundle", bundle, id("notify"))).toMatchObject({ code: 0, stderr: "" });
    expect(await received.said).toBe(`[1, ['seccompFd'], 'for the agent', '${id("notify")}']\n`);
  });

  test("a console socket gets a terminal of the size that consoleSize says", async () => {
    const socket = join(host.folder, `console-${name}.sock`);
    const received = await receiver(
      socket,
      'struct.unpack("HHHH", fcntl.ioctl(fds[0], termios.TIOCGWINSZ, bytes(8)))[:2]',
    );
    configure("sleep 30", (config) => {
      config.process.terminal = true;
      config.process.consoleSize = { height: 33, width: 99 };
    });
    const made = await oci("create", "--console-socket", socket, "--bundle", bundle, id("console"));
    expect(made).toMatchObject({ code: 0, stderr: "" });
    expect(await received.said).toBe("(33, 99)\n");
    expect(await oci("delete", "--force", id("console"))).toMatchObject({ code: 0 });
  });

  test("--no-pivot runs the container in its own root", async () => {
    configure("ls -d /proc/self /bin/busybox; ls /var");
    const result = await oci("run", "--no-pivot", "--bundle", bundle, id("no-pivot"));
    expect(result).toMatchObject({ code: 0, stderr: "", stdout: "/bin/busybox\n/proc/self\n" });
  });
});

test.each([
  ["process.selinuxLabel", "SELinux", (config: Config) => Object.assign(config.process, { selinuxLabel: "a:b:c:s0" })],
  ["process.apparmorProfile", "AppArmor", (config: Config) => Object.assign(config.process, { apparmorProfile: "p" })],
])("%s is refused by its path where the kernel has no %s", async (path, module, change) => {
  const enabled =
    module === "SELinux" ? "grep -q selinuxfs /proc/filesystems" : "grep -q Y /sys/module/apparmor/parameters/enabled";
  if ((await host.run("sh", ["-c", enabled])).code === 0) return;
  configure("true", change);
  const { code, stderr } = await host.run(MINKE_OCI, [
    "--root",
    join(host.folder, "labels"),
    "run",
    "--bundle",
    bundle,
    "labels",
  ]);
  expect(stderr).toBe(`minke-oci: ${path} is set, but ${module} is not enabled in this kernel\n`);
  expect(code).toBe(1);
});
