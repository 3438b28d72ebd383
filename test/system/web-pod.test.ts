/**
 * examples/web.yaml and what may happen to it: served by every address, refreshed by its
 * sidecar, restarted after a crash, outliving the daemon, deleted and made again.
 */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { PROJECT } from "../harness/cli.js";
import { TestDaemon } from "../harness/daemon.js";
import { freePort } from "../harness/free-port.js";
import { missing, requires } from "../harness/requires.js";

const lacking = missing("root", "cgroup2", "overlayfs");
/** The example's port may be in use by a pod of the machine's own daemon. */
const HOST_PORT = await freePort();
const manifest = readFileSync(`${PROJECT}examples/web.yaml`, "utf8").replace(
  "hostPort: 8080",
  `hostPort: ${HOST_PORT}`,
);

let daemon: TestDaemon;
let ip4: string;
let ip6: string;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  daemon = await TestDaemon.startWithImages({ tables: "[backoff]\nbase-ms = 100\nmax-ms = 1000" });
  await daemon.runPod(manifest);
  const { status } = await daemon.pod("web");
  const ips = status.podIPs?.map(({ ip }) => ip) ?? [];
  ip4 = ips.find((ip) => !ip.includes(":")) ?? "";
  ip6 = ips.find((ip) => ip.includes(":")) ?? "";
});
afterAll(() => daemon?.dispose());

async function page(host: string): Promise<string> {
  const response = await fetch(`http://${host}/`, { signal: AbortSignal.timeout(20_000) });
  expect(response.status).toBe(200);
  return response.text();
}

const exec = (container: string, ...command: string[]) =>
  daemon.minke(["exec", "web", "-c", container, "--", ...command]);

describe("the pod", () => {
  test("is Running with an address of each family", async () => {
    expect((await daemon.pod("web")).status.phase).toBe("Running");
    expect(ip4).toMatch(new RegExp(`^${daemon.network4.replaceAll(".", "\\.")}\\.`));
    expect(ip6).toMatch(/^fd6d:696e:6b65:/);
  });

  test("serves its page by IPv4, by IPv6, by host port and on 127.0.0.1", async () => {
    for (const host of [ip4, `[${ip6}]`, `127.0.0.1:${HOST_PORT}`, `${ip4}:80`]) {
      expect(await page(host)).toMatch(/^(prepared by web|refreshed \d+ times)/);
    }
  });

  test("shows the sidecar's refresh in a second fetch", async () => {
    const first = await page(ip4);
    await expect.poll(() => page(ip4), { interval: 200 }).not.toBe(first);
  });

  test("shares localhost between its containers", async () => {
    const { code, stdout } = await exec("refresh", "wget", "-qO-", "http://127.0.0.1/");
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/refreshed/) });
  });

  test("has its hostname, itself in /etc/hosts, and a resolv.conf", async () => {
    expect((await exec("refresh", "hostname")).stdout).toBe("web\n");
    expect((await exec("refresh", "cat", "/etc/hosts")).stdout).toMatch(new RegExp(`^${ip4}\\s+web$`, "m"));
    expect((await exec("refresh", "cat", "/etc/resolv.conf")).code).toBe(0);
  });

  test("shares /dev/shm between its containers", async () => {
    await exec("refresh", "sh", "-c", "echo shared > /dev/shm/note");
    expect((await exec("server", "cat", "/dev/shm/note")).stdout).toBe("shared\n");
  });

  test("never shows the overlay of a container in the host's mount table", () => {
    expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(daemon.root);
  });

  test("has a timeline in describe", async () => {
    const text = await daemon.expect("describe", "pod", "web");
    expect(text).toMatch(/network.*\d/);
    expect(text).toMatch(/ms/);
  });
});

describe("the web server's process killed", () => {
  test("is restarted with the same pod IP and volume, count 1, and the previous log is readable", async () => {
    const volumeBefore = (await exec("refresh", "sh", "-c", "echo kept > /site/kept; cat /site/kept")).stdout;
    daemon.killProcess(/^nginx: master/);
    await expect
      .poll(() => daemon.container("web", "server"), { interval: 200 })
      .toMatchObject({ restartCount: 1, state: { running: {} }, lastState: { terminated: { exitCode: 137 } } });
    expect((await daemon.pod("web")).status.podIPs?.map(({ ip }) => ip)).toEqual([ip4, ip6]);
    expect((await exec("server", "cat", "/usr/share/nginx/html/kept")).stdout).toBe(volumeBefore);
    await expect.poll(() => page(ip4).catch(() => "")).toMatch(/refreshed/);
    expect((await daemon.minke(["logs", "web", "-c", "server", "--previous"])).code).toBe(0);
  });
});

describe("the daemon killed with -9", () => {
  test("leaves the page served; started again it has the pod, its logs, exec and later exits", async () => {
    const before = await daemon.pod("web");
    await daemon.kill9();
    expect(await page(ip4)).toMatch(/refreshed/);
    expect(await page(`127.0.0.1:${HOST_PORT}`)).toMatch(/refreshed/);

    await daemon.start();
    const after = await daemon.pod("web");
    expect(after.metadata.uid).toBe(before.metadata.uid);
    expect(after.status.phase).toBe("Running");
    expect(await daemon.container("web", "prepare")).toMatchObject({ restartCount: 0 });
    expect(await daemon.expect("logs", "web", "-c", "refresh")).toMatch(/^refreshed 1 times\n/);
    expect((await exec("server", "true")).code).toBe(0);
  });

  test("knows the exit code of a container that ended meanwhile", async () => {
    const { restartCount } = await daemon.container("web", "refresh");
    await daemon.kill9();
    daemon.killProcess(/refreshed \$n times/);
    await daemon.start();
    await expect
      .poll(() => daemon.container("web", "refresh"), { interval: 200 })
      .toMatchObject({ restartCount: restartCount + 1, lastState: { terminated: { exitCode: 137 } } });
  });
});

describe("the pod deleted and made again under its name", () => {
  test("has a new UID and an empty volume", async () => {
    const { uid } = (await daemon.pod("web")).metadata;
    await exec("refresh", "sh", "-c", "echo old > /site/old");
    await daemon.expect("delete", "pod", "web");
    await daemon.runPod(manifest);
    expect((await daemon.pod("web")).metadata.uid).not.toBe(uid);
    expect((await exec("refresh", "ls", "/site/old")).code).not.toBe(0);
  });
});

describe("two pods", () => {
  const other = `
apiVersion: v1
kind: Pod
metadata: { name: other }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: minke.test/busybox:1
      command: ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
`;

  test("reach each other by IP, share no semaphores and no shared memory, and one leaves nothing", async () => {
    const before = daemon.snapshot();
    await daemon.runPod(other);
    const inOther = (...command: string[]) => daemon.minke(["exec", "other", "--", ...command]);
    const address = (await daemon.pod("web")).status.podIPs ?? [];
    for (const { ip } of address) {
      const host = ip.includes(":") ? `[${ip}]` : ip;
      expect((await inOther("wget", "-qO-", `http://${host}/`)).stdout).toMatch(/refreshed|prepared/);
    }
    await exec("refresh", "sh", "-c", "echo secret > /dev/shm/secret");
    expect((await inOther("cat", "/dev/shm/secret")).code).not.toBe(0);
    const namespaces = async (run: Promise<{ stdout: string }>) => (await run).stdout;
    const ipcOfWeb = await namespaces(exec("refresh", "readlink", "/proc/self/ns/ipc"));
    const ipcOfServer = await namespaces(exec("server", "readlink", "/proc/self/ns/ipc"));
    const ipcOfOther = await namespaces(inOther("readlink", "/proc/self/ns/ipc"));
    expect(ipcOfServer).toBe(ipcOfWeb);
    expect(ipcOfOther).not.toBe(ipcOfWeb);

    await daemon.expect("delete", "pod", "other");
    await daemon.expectNothingLeft(before);
  });
});
