/**
 * The image commands as a user types them, against a real daemon with a pod that runs.
 */
import { execFile, execFileSync, spawn } from "node:child_process";
import { createReadStream, existsSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { connect } from "../../src/client/index.js";
import { MINKE, PROJECT, runCommand } from "../harness/cli.js";
import { FIXTURE_LAYOUT, TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";
import { SmallDisk } from "../harness/small-disk.js";

const BUSYBOX = "minke.test/busybox:1";
const NGINX = "minke.test/nginx:1";
const lacking = missing("root", "cgroup2", "overlayfs");

let daemon: TestDaemon;
beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  daemon = await TestDaemon.startWithImages();
  await daemon.runPod(`
apiVersion: v1
kind: Pod
metadata: { name: web }
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{ name: c, image: "${BUSYBOX}", command: [sleep, "1000"] }]
`);
});
afterAll(() => daemon?.dispose());

const json = async <T>(...args: string[]): Promise<T> => {
  const { code, stdout, stderr } = await daemon.minke([...args, "-o", "json"]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout) as T;
};
/** Where nginx is stored. */
function nginxProgram(): string {
  const layers = join(daemon.root, "layers");
  const paths = readdirSync(layers).map((name) => join(layers, name, "fs/usr/sbin/nginx"));
  return paths.find((path) => existsSync(path)) ?? "";
}
const global = () => ["--root", daemon.root, "--run", daemon.run];

describe("minke image", () => {
  test("ls shows images, -q their ids, -o json all of it", async () => {
    const { items } = await json<{ items: { id: string; repoTags: string[]; sizeBytes: number; pulled: string }[] }>(
      "image",
      "ls",
    );
    const busybox = items.find(({ repoTags }) => repoTags.includes(BUSYBOX));
    expect(busybox?.sizeBytes).toBeGreaterThan(1_000_000);
    expect(Date.parse(busybox?.pulled ?? "")).toBeGreaterThan(Date.now() - 600_000);
    expect((await daemon.minke(["image", "ls", "-q"])).stdout.split("\n")).toContain(busybox?.id);
    expect((await daemon.minke(["images"])).stdout).toContain(BUSYBOX);
  });

  test("inspect says who uses it, and of an unknown image exits with 3", async () => {
    const [image] = await json<{ RepoTags: string[]; Minke: { UsedBy: string[] } }[]>("image", "inspect", BUSYBOX);
    expect(image).toMatchObject({ RepoTags: [BUSYBOX], Os: "linux", Minke: { UsedBy: ["pod default/web"] } });
    expect((await daemon.minke(["image", "inspect", "no/such:1"])).code).toBe(3);
  });

  test("rm refuses the image of a pod by its name, goes on with the next, and exits with 1", async () => {
    await daemon.minke(["image", "tag", NGINX, "to.go/away:1"]);
    const { code, stdout, stderr } = await daemon.minke(["image", "rm", BUSYBOX, "to.go/away:1"]);
    expect(code).toBe(1);
    expect(stderr).toContain("pod default/web");
    expect(stdout).toBe("untagged to.go/away:1\n");
  });

  test("prune --all --dry-run spares what a pod needs and removes nothing", async () => {
    const result = await json<{ removed: { repoTags: string[] }[]; freedBytes: number }>(
      "image",
      "prune",
      "--all",
      "--dry-run",
    );
    expect(result.removed.flatMap(({ repoTags }) => repoTags)).not.toContain(BUSYBOX);
    expect(result.freedBytes).toBeGreaterThan(0);
    expect((await daemon.minke(["image", "history", NGINX])).code).toBe(0);
  });

  test("verify finds planted damage and exits with 1; no container starts from it; load mends it", async () => {
    writeFileSync(nginxProgram(), "damaged");
    const { code, stdout } = await daemon.minke(["image", "verify"]);
    expect(code).toBe(1);
    expect(stdout).toContain("usr/sbin/nginx: content");
    const api = await connect({ root: daemon.root, run: daemon.run, startDaemon: false });
    const { pod } = await api.createPod({
      ...{ apiVersion: "v1", kind: "Pod" },
      metadata: { name: "victim" },
      spec: { restartPolicy: "Never", containers: [{ name: "c", image: NGINX, command: ["true"] }] },
    });
    const status = async () => JSON.stringify((await api.getPod("default", "victim")).status);
    await expect.poll(status).toContain("is damaged");
    await api.deletePod("default", "victim", { graceSeconds: 0 });
    await api.waitGone("default", "victim", pod.metadata.uid ?? "");
    expect((await daemon.minke(["load", FIXTURE_LAYOUT])).code).toBe(0);
    expect((await daemon.minke(["image", "verify"])).code).toBe(0);
  });
});

describe("minke save and load", () => {
  test("work in a pipe: save | load gives the image back", async () => {
    const [before] = await json<{ Id: string }[]>("image", "inspect", NGINX);
    const shell = `${MINKE} ${global().join(" ")} save --compress gzip ${NGINX} > ${daemon.folder}/n.tgz`;
    execFileSync("sh", ["-c", `node ${shell}`]);
    await daemon.minke(["image", "rm", NGINX]);
    const load = spawn("node", [MINKE, ...global(), "load"], { stdio: ["pipe", "pipe", "pipe"] });
    createReadStream(join(daemon.folder, "n.tgz")).pipe(load.stdin);
    expect(await new Promise((resolve) => load.once("close", resolve))).toBe(0);
    const [after] = await json<{ Id: string }[]>("image", "inspect", NGINX);
    expect(after?.Id).toBe(before?.Id);
  });

  test("refuse a terminal, and leave no file of an image that is not there", async () => {
    const terminal = `${MINKE} ${global().join(" ")} save ${NGINX}`;
    const { stdout } = await promisify(execFile)("script", ["-qec", `node ${terminal}; echo code $?`, "/dev/null"]);
    expect(stdout).toContain("standard output is a terminal");
    expect(stdout).toContain("code 2");
    const file = join(daemon.folder, "none.tar");
    expect((await daemon.minke(["save", "no/such:1", "-o", file])).code).toBe(3);
    expect(readdirSync(daemon.folder).filter((name) => name.startsWith("none"))).toEqual([]);
  });

  describe("to a target that is not to be had", () => {
    const whole = ["minke.test/probe:1", NGINX];
    const stdout = (redirect: string) =>
      runCommand("bash", [
        "-c",
        `set -o pipefail; node ${MINKE} ${global().join(" ")} save ${whole.join(" ")} ${redirect}`,
      ]);

    test.for(["docker-archive", "oci-dir"])(
      "a full disk is named, and left as it was: %s",
      async (format, { skip }) => {
        let whyNot = "";
        const disk = SmallDisk.make(4 * 1024 * 1024, (reason) => (whyNot = reason));
        if (!disk) {
          skip(`missing: ${whyNot}`);
          return;
        }
        try {
          const free = disk.freeBlocks;
          const target = join(disk.path, "saved");
          writeFileSync(join(disk.path, "saved.before"), "");
          const { code, stderr } = await daemon.minke(["save", ...whole, "--format", format, "-o", target]);
          expect({ code, stderr }).toEqual({ code: 1, stderr: `error: save to "${target}": write: ENOSPC\n` });
          expect(readdirSync(disk.path).sort()).toEqual(["lost+found", "saved.before"]);
          expect(disk.freeBlocks).toBe(free);
        } finally {
          disk.remove();
        }
      },
    );

    test("a file that was there stays as it was", async () => {
      const file = join(daemon.folder, "before.tar");
      writeFileSync(file, "before");
      const name = nginxProgram();
      const bytes = readFileSync(name);
      const { atime, mtime } = statSync(name);
      writeFileSync(name, "damaged");
      try {
        const { code, stderr } = await daemon.minke(["save", NGINX, "-o", file]);
        expect(code).toBe(1);
        expect(stderr).toContain(`save to "${file}": `);
      } finally {
        writeFileSync(name, bytes);
        utimesSync(name, atime, mtime);
      }
      expect(readFileSync(file, "utf8")).toBe("before");
      expect((await daemon.minke(["image", "verify", NGINX])).code).toBe(0);
      expect(readdirSync(daemon.folder).filter((entry) => entry.startsWith("before"))).toEqual(["before.tar"]);
    });

    test("a reader that goes away, and a full device, are errors of standard output", async () => {
      const { code, stderr } = await stdout("| head -c 1000 >/dev/null");
      expect({ code, stderr }).toEqual({ code: 1, stderr: "error: save to standard output: write: EPIPE\n" });
      expect(await stdout(">/dev/full")).toMatchObject({
        code: 1,
        stderr: "error: save to standard output: write: ENOSPC\n",
      });
    });

    test("an interrupt leaves no file", async () => {
      const file = join(daemon.folder, "interrupted.tar");
      const entries = () => readdirSync(daemon.folder).filter((entry) => entry.startsWith("interrupted"));
      const program = `const { saveTarget } = await import("${PROJECT}dist/cli/save-target.js");
        await (await saveTarget(${JSON.stringify(file)}, false))(process.stdin);`;
      const save = spawn("node", ["--input-type=module", "-e", program], { stdio: ["pipe", "ignore", "ignore"] });
      save.stdin.write("the beginning of an archive");
      const ended = new Promise((resolve) => save.once("close", (code, signal) => resolve(signal ?? code)));
      await expect.poll(entries, { timeout: 60_000 }).toHaveLength(1);
      save.kill("SIGTERM");
      expect(await ended).toBe("SIGTERM");
      expect(entries()).toEqual([]);
    });
  });

  test("load of a stream that ends in the middle is an error, and leaves nothing", async () => {
    const all = readFileSync(join(daemon.folder, "n.tgz"));
    const file = join(daemon.folder, "half.tgz");
    writeFileSync(file, all.subarray(0, all.length / 2));
    for (const from of [`< ${file}`, file, "< /dev/null"]) {
      const { code, stderr, stdout } = await runCommand("bash", [
        "-c",
        `node ${MINKE} ${global().join(" ")} load ${from}`,
      ]);
      expect({ from, code, stdout }).toEqual({ from, code: 2, stdout: "" });
      expect(stderr).toMatch(/^error: open image archive "/);
    }
    expect(readdirSync(join(daemon.root, "tmp"))).toEqual([]);
    expect(await daemon.isServing()).toBe(true);
  });

  test("a client that goes away in the middle leaves no process and no pin", async () => {
    const save = spawn("node", [MINKE, ...global(), "save", NGINX], { stdio: ["ignore", "pipe", "ignore"] });
    await new Promise((resolve) => save.stdout.once("data", resolve));
    save.kill("SIGKILL");
    const emitting = () =>
      readdirSync("/proc").filter((pid) => {
        try {
          return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`--emit\0${daemon.root}`);
        } catch {
          return false;
        }
      });
    await expect.poll(emitting).toEqual([]);
    // The daemon lets go of the image when it has seen the program end.
    await expect.poll(async () => (await daemon.minke(["image", "rm", NGINX])).code).toBe(0);
    expect((await daemon.minke(["load", FIXTURE_LAYOUT])).code).toBe(0);
  });
});

test("df: the parts of a daemon with a pod sum up to what du says", async () => {
  await expect
    .poll(async () => {
      const { totalBytes, parts } = await json<{ totalBytes: number; parts: { part: string; bytes: number }[] }>("df");
      expect(parts.map(({ part }) => part)).toEqual(
        expect.arrayContaining(["layers", "writable layers", "logs", "records"]),
      );
      expect(parts.map(({ part }) => part)).not.toContain("orphans");
      const du = Number(execFileSync("du", ["-sx", "-B1", daemon.root], { encoding: "utf8" }).split("\t")[0]);
      return totalBytes - du;
    })
    .toBe(0);
});
