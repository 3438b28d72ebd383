/** What connects a person with a pod: attach, exec with a terminal, ports, logs that rotate, watches, a daemon that is started. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { MINKE, runCommand } from "../harness/cli.js";
import { TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;
const started: ChildProcess[] = [];

const pods = `
apiVersion: v1
kind: Pod
metadata: { name: talk }
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - { name: echo, image: "minke.test/busybox:1", imagePullPolicy: IfNotPresent, stdin: true, command: [sh, -c, 'trap "exit 0" TERM; while read -r line; do echo "heard $line"; done; echo over; sleep 1000 & wait'] }
  - { name: web, image: "minke.test/nginx:1", imagePullPolicy: IfNotPresent }
  - { name: loud, image: "minke.test/busybox:1", imagePullPolicy: IfNotPresent, command: [sh, -c, 'trap "exit 0" TERM; n=0; while :; do n=$((n+1)); printf "line %06d %0200d\\n" $n 0; test $((n % 20)) -eq 0 && sleep 0.02; done'] }
`;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  daemon = await TestDaemon.startWithImages({ tables: "[logs]\nmax-bytes = 65536\nmax-files = 3" });
  await daemon.runPod(pods);
});
afterAll(async () => {
  for (const child of started) child.kill("SIGKILL");
  await daemon?.dispose();
});

interface Live {
  readonly child: ChildProcess;
  output: string;
  errors: string;
}

/** A command that goes on; what it prints is collected. */
function live(...args: string[]): Live {
  const child = spawn(process.execPath, [MINKE, ...args], {
    env: { ...process.env, MINKE_ROOT: daemon.root, MINKE_RUN: daemon.run },
    stdio: ["pipe", "pipe", "pipe"],
  });
  started.push(child);
  const state: Live = { child, output: "", errors: "" };
  child.stdout?.on("data", (chunk: Buffer) => (state.output += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (state.errors += chunk.toString()));
  return state;
}

const shows = (state: Live) => expect.poll(() => state.output, { timeout: 60_000, interval: 50 });

describe("attach", () => {
  test("carries lines in and out, several clients at once, and leaves the container running", async () => {
    const watching = live("attach", "talk", "-c", "echo");
    const typing = live("attach", "-i", "talk", "-c", "echo");
    // Typed again until both are connected: what was said before is not repeated to them.
    const heard = () => {
      typing.child.stdin?.write("one\n");
      return [typing, watching].filter(({ output }) => output.includes("heard one\n")).length;
    };
    await expect.poll(heard, { timeout: 60_000, interval: 300 }).toBe(2);
    typing.child.kill("SIGTERM");
    watching.child.kill("SIGTERM");
    expect(await daemon.container("talk", "echo")).toMatchObject({ restartCount: 0, state: { running: {} } });
  });

  test("says so where a container reads no standard input", async () => {
    const attached = live("attach", "-i", "talk", "-c", "web");
    await expect.poll(() => attached.errors).toMatch(/"web" reads no standard input/);
    attached.child.kill("SIGTERM");
  });
});

describe("port-forward", () => {
  test("leads from a local port into the pod, many connections, and names a port nobody listens on", async () => {
    const forward = live("port-forward", "talk", ":80", ":9");
    await shows(forward).toMatch(/-> 80\n.*-> 9\n/);
    const [web, none] = [...forward.output.matchAll(/127\.0\.0\.1:(\d+) ->/g)].map(([, port]) => Number(port));
    const pages = await Promise.all(
      Array.from({ length: 10 }, async () => (await fetch(`http://127.0.0.1:${web}/`)).text()),
    );
    expect(new Set(pages).size).toBe(1);
    expect(pages[0]).toMatch(/html/i);
    await expect(fetch(`http://127.0.0.1:${none}/`)).rejects.toThrow("fetch failed");
    await expect.poll(() => forward.errors).toMatch(/port 9.*ECONNREFUSED/);
    const ended = new Promise((resolve) => forward.child.once("exit", resolve));
    forward.child.kill("SIGINT");
    expect(await ended).toBe(0);
  });

  test("delivers what was sent before the connection stood", async () => {
    const forward = live("port-forward", "talk", ":80");
    await shows(forward).toMatch(/-> 80\n/);
    const port = Number(/127\.0\.0\.1:(\d+)/.exec(forward.output)?.[1]);
    const connection = createConnection(port, "127.0.0.1");
    connection.end("GET / HTTP/1.0\r\n\r\n");
    let answer = "";
    for await (const chunk of connection) answer += String(chunk);
    expect(answer).toMatch(/^HTTP\/1\.1 200/);
    forward.child.kill("SIGINT");
  });
});

describe("logs", () => {
  test("logs -f goes through rotations without a lost or doubled line", async () => {
    const follow = live("logs", "-f", "talk", "-c", "loud", "--tail", "1");
    await expect.poll(() => follow.output.split("\n").length, { timeout: 60_000 }).toBeGreaterThan(1500);
    follow.child.kill("SIGTERM");
    const numbers = follow.output
      .split("\n")
      .slice(0, -1)
      .map((line) => Number(/^line (\d{6}) 0{200}$/.exec(line)?.[1]));
    // Three rotations at least have happened in what was seen.
    expect(numbers.length).toBeGreaterThan(1000);
    numbers.forEach((number, i) => expect(number).toBe((numbers[0] ?? 0) + i));
    const { uid } = (await daemon.pod("talk")).metadata;
    const files = readdirSync(join(daemon.root, "logs", `default_talk_${uid}`, "loud"));
    expect(files.length).toBeGreaterThan(1);
    expect(files.length).toBeLessThanOrEqual(4);
  });

  test("without -c takes the first container and says so", async () => {
    const { stderr, code } = await daemon.minke(["logs", "talk", "--tail", "1"]);
    expect(stderr).toBe('Defaulted container "echo" out of: echo, web, loud\n');
    expect(code).toBe(0);
  });
});

describe("exec -it", () => {
  test("has a terminal of the caller's size, which follows a resize, and gives the exit code back", async () => {
    const minke = `${process.execPath} ${MINKE}`;
    const shown = join(daemon.folder, "typescript");
    const inside = 'stty size; while [ "$(stty size)" = "33 101" ]; do sleep 0.1; done; stty size; tty; exit 9';
    const script = `stty rows 33 cols 101
(until grep -q "33 101" ${shown}; do sleep 0.1; done; stty rows 44 cols 99 < $TTY_PATH; kill -WINCH $(cat ${daemon.folder}/pid)) &
sh -c 'echo $$ > ${daemon.folder}/pid; exec ${minke} exec -it talk -c web -- /bin/sh -c "$0"' '${inside}'`;
    writeFileSync(join(daemon.folder, "tty.sh"), `TTY_PATH=$(tty)\nexport TTY_PATH\n${script}\necho "code $?"\n`);
    const { stdout } = await runCommand("script", ["-qefc", `sh ${daemon.folder}/tty.sh`, shown], {
      env: { MINKE_ROOT: daemon.root, MINKE_RUN: daemon.run },
      timeoutMs: 60_000,
    });
    expect(stdout.replaceAll(/\r|\^@/g, "")).toBe("33 101\n44 99\n/dev/pts/0\ncode 9\n");
  });

  test("a command that is not there is said once, and is exit code 127", async () => {
    const { code, stderr } = await daemon.minke(["exec", "talk", "-c", "web", "--", "nosuch"]);
    expect(code).toBe(127);
    expect(stderr.match(/nosuch/g)).toHaveLength(1);
  });
});

describe("completion", () => {
  const complete = async (...words: string[]) => {
    const script = `source <(minke completion bash); COMP_WORDS=(minke ${words.map((w) => `'${w}'`).join(" ")}); COMP_CWORD=${words.length}; _minke; echo "\${COMPREPLY[*]}"`;
    const { stdout, stderr } = await runCommand(
      "bash",
      ["-c", `minke() { ${process.execPath} ${MINKE} "$@"; }\n${script}`],
      { env: { MINKE_ROOT: daemon.root, MINKE_RUN: daemon.run } },
    );
    expect(stderr).toBe("");
    return stdout.trim();
  };

  test("bash completes commands, options and pods", async () => {
    expect(await complete("des")).toBe("describe");
    expect(await complete("logs", "--prev")).toBe("--previous");
    expect(await complete("logs", "ta")).toBe("talk");
    expect(await complete("describe", "pod", "ta")).toBe("talk");
  });

  test("zsh and fish get a script, another shell an error", async () => {
    expect(await daemon.expect("completion", "zsh")).toMatch(/^#compdef minke\n/);
    expect(await daemon.expect("completion", "fish")).toContain("-a describe");
    expect((await daemon.minke(["completion", "dos"])).code).toBe(2);
  });
});

describe("get", () => {
  test("-w shows a pod come and go, one line a change", async () => {
    const watch = live("get", "pods", "brief", "-w");
    await shows(watch).toMatch(/^NAME/);
    await daemon.runPod(`apiVersion: v1
kind: Pod
metadata: { name: brief }
spec: { terminationGracePeriodSeconds: 1, containers: [{ name: a, image: "minke.test/busybox:1", imagePullPolicy: IfNotPresent, command: [sh, -c, "trap 'exit 0' TERM; sleep 1000 & wait"] }] }`);
    await shows(watch).toMatch(/brief\s+1\/1\s+Running/);
    await daemon.expect("delete", "pod", "brief");
    await shows(watch).toMatch(/Terminating/);
    expect(watch.output).toMatch(/brief\s+0\/1\s+(Pending|ContainerCreating)/);
    watch.child.kill("SIGTERM");
  });
});

/** As a pid 1 that is no init: the parent of all orphans, which reaps none of them (prctl(2), PR_SET_CHILD_SUBREAPER). */
const NO_INIT = `import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
pid = os.fork()
if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))`;

test("a command that finds no daemon starts one with the settings of the last, says so, and works; stop ends though nobody reaps the daemon", async () => {
  const folder = mkdtempSync(join(tmpdir(), "minke-auto-"));
  const config = join(folder, "config.toml");
  writeFileSync(
    config,
    `cgroup-root = "minke-auto-${process.pid}"\ntolerate-missing-controllers = true\n[network]\nbridge = "mka${process.pid}"\nsubnet-ipv4 = "10.205.77.0/24"\nsubnet-ipv6 = "fd6d:696e:6b65:7777::/64"\n`,
  );
  const env = { MINKE_ROOT: join(folder, "root"), MINKE_RUN: join(folder, "run"), MINKE_CONFIG: config };
  const minke = `${process.execPath} ${MINKE}`;
  // The second daemon comes after a crash, and is told of no settings.
  const crash = `kill -9 $(pgrep -f -- "[m]ain.js --root ${folder}/root ")`;
  const again = `${crash} && unset MINKE_CONFIG && ${minke} get pods`;
  const script = `${minke} get pods && ${minke} get pods && ${again} && ls /sys/class/net && ${minke} daemon stop --pods`;
  try {
    const { code, stdout, stderr } = await runCommand("python3", ["-c", NO_INIT, "sh", "-c", script], { env });
    const started = `no daemon is running, starting one (root ${folder}/root, log ${folder}/root/daemon.log, settings ${config})\n`;
    const none = "No pods found in namespace default.\n";
    expect(stderr).toBe(`${started}${none.repeat(2)}${started}${none}`);
    expect(stdout).toContain(`mka${process.pid}\n`);
    expect(stdout).toMatch(/daemon stopped, pods deleted\n$/);
    expect(code).toBe(0);
    expect(readdirSync("/sys/class/net")).not.toContain(`mka${process.pid}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
