/**
 * The image commands as a user types them, against a real daemon with a pod that runs.
 */
import { execFile, execFileSync, spawn } from "node:child_process";
import { createReadStream, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { connect } from "../../src/client/index.js";
import { MINKE } from "../harness/cli.js";
import { FIXTURE_LAYOUT, TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";

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
    const layers = join(daemon.root, "layers");
    const hit = readdirSync(layers).find((name) => existsSync(join(layers, name, "fs/usr/sbin/nginx"))) ?? "";
    writeFileSync(join(layers, hit, "fs/usr/sbin/nginx"), "damaged");
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
