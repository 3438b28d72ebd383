/** Exec, port-forward and logs over CRI, against the whole daemon. */
import { mkdirSync, readdirSync, readFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { useCriDaemon } from "../harness/cri-bench.js";
import { cgroup2Mount } from "../harness/requires.js";
import { SpdyClient } from "../harness/spdy-client.js";

const DEADLINE_EXCEEDED = 4;

const bench = useCriDaemon();

async function infoOf(containerId: string): Promise<{ readonly cgroupPath: string }> {
  const { info } = await bench.cri.call("containerStatus", { containerId, verbose: true });
  return JSON.parse(info["info"] ?? "{}") as { cgroupPath: string };
}

test("execSync gives output and exit code, and ends a command at its timeout with all that it started", async () => {
  const id = await bench.cri.startContainer(await bench.sandbox());
  const { stdout, stderr, exitCode } = await bench.cri.call("execSync", {
    containerId: id,
    cmd: ["sh", "-c", "echo o; echo e >&2; exit 9"],
    timeout: 0n,
  });
  expect([stdout.toString(), stderr.toString(), exitCode]).toEqual(["o\n", "e\n", 9]);
  const timedOut = await bench.cri.refusal("execSync", {
    containerId: id,
    cmd: ["sh", "-c", "sleep 4321 & sleep 4321"],
    timeout: 1n,
  });
  expect(timedOut).toMatchObject({ status: DEADLINE_EXCEEDED, code: "EXEC_TIMEOUT" });
  expect(await bench.cri.output(id, "ps", "-o", "args")).not.toContain("sleep 4321");
});

test("execSync of a caller that goes away ends with all that it started, timeout or not", async () => {
  const id = await bench.container();
  for (const [n, timeout] of [0n, 600n].entries()) {
    const gone = bench.cri.call(
      "execSync",
      { containerId: id, cmd: ["sh", "-c", `setsid sleep 765${n} & sleep 765${n}`], timeout },
      3_000,
    );
    await expect(gone).rejects.toMatchObject({ code: DEADLINE_EXCEEDED });
    const running = () => bench.cri.output(id, "sh", "-c", `pgrep -f '[s]leep 765${n}' || true`);
    await expect.poll(running, { timeout: 30_000 }).toBe("");
    const { cgroupPath } = await infoOf(id);
    const execs = () =>
      readdirSync(join(cgroup2Mount() ?? "", cgroupPath)).filter((name) => name.startsWith("exec-")).length;
    await expect.poll(execs, { timeout: 30_000 }).toBe(0);
  }
});

test("execSync cuts what one answer cannot hold, and still says how the command ended", async () => {
  const id = await bench.cri.startContainer(await bench.sandbox());
  const cmd = ["sh", "-c", "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exit 5"];
  const { stdout, stderr, exitCode } = await bench.cri.call("execSync", { containerId: id, cmd, timeout: 30n });
  expect(exitCode).toBe(5);
  expect(stdout.length + stderr.length).toBeGreaterThan(15_000_000);
  expect(stdout.length + stderr.length).toBeLessThan(16 * 1024 * 1024);
});

test("a log is reopened where its file was moved away", async () => {
  mkdirSync(join(bench.folder, "logs"));
  const id = await bench.sandbox({ logDirectory: join(bench.folder, "logs") });
  const container = await bench.cri.startContainer(id, {
    command: ["sh", "-c", "i=0; while :; do echo $((i+=1)); sleep 0.02; done"],
    logPath: "c/0.log",
  });
  const log = join(bench.folder, "logs/c/0.log");
  await expect.poll(() => readFileSync(log, "utf8")).toMatch(/^\S+Z stdout F 1\n/);
  renameSync(log, `${log}.old`);
  await bench.cri.call("reopenContainerLog", { containerId: container });
  await expect.poll(() => readFileSync(log, "utf8")).toMatch(/stdout F \d+\n/);
  const numbers =
    (readFileSync(`${log}.old`, "utf8") + readFileSync(log, "utf8")).match(/\d+(?=\n)/g)?.map(Number) ?? [];
  expect(numbers).toEqual(numbers.map((_, index) => index + 1));
});

test("exec over SPDY has a terminal of the client's size", async () => {
  const id = await bench.cri.startContainer(await bench.sandbox());
  const { url } = await bench.cri.call("exec", { containerId: id, cmd: ["sh"], tty: true, stdin: true, stdout: true });
  const client = await SpdyClient.connect(url, ["v4.channel.k8s.io"]);
  const error = await client.open({ streamType: "error" });
  const stdin = await client.open({ streamType: "stdin" });
  const stdout = await client.open({ streamType: "stdout" });
  const resize = await client.open({ streamType: "resize" });
  resize.write('{"Width":101,"Height":31}\n');
  await expect.poll(() => stdout.received().toString()).toContain("#");
  stdin.write("stty size; exit 4\n");
  await stdout.ended.catch(() => undefined);
  expect(stdout.received().toString()).toContain("31 101");
  expect(JSON.parse((await error.ended).toString())).toMatchObject({ details: { causes: [{ message: "4" }] } });
  client.destroy();
});

test("forty execs at once over SPDY leave nothing", async () => {
  const id = await bench.cri.startContainer(await bench.sandbox());
  await Promise.all(
    Array.from({ length: 40 }, async (_, index) => {
      const { url } = await bench.cri.call("exec", { containerId: id, cmd: ["cat"], stdin: true, stdout: true });
      const client = await SpdyClient.connect(url, ["v5.channel.k8s.io"]);
      const error = await client.open({ streamType: "error" });
      const stdin = await client.open({ streamType: "stdin" });
      const stdout = await client.open({ streamType: "stdout" });
      stdin.write(`exec ${index}`, true);
      expect((await stdout.ended).toString()).toBe(`exec ${index}`);
      expect(JSON.parse((await error.ended).toString())).toMatchObject({ status: "Success" });
      client.close();
      await client.closed;
    }),
  );
  expect(await bench.cri.output(id, "ps", "-o", "args")).not.toMatch(/^cat$/m);
});

test("port-forward reaches the pod's localhost", async () => {
  const id = await bench.sandbox();
  await bench.cri.startContainer(id, { image: { image: "minke.test/nginx:1" }, command: [] });
  const { url } = await bench.cri.call("portForward", { podSandboxId: id });
  const client = await SpdyClient.connect(url, ["portforward.k8s.io"]);
  const ask = async (requestID: string) => {
    const error = await client.open({ streamType: "error", port: "80", requestID });
    error.write("", true);
    const data = await client.open({ streamType: "data", port: "80", requestID });
    data.write("GET / HTTP/1.0\r\n\r\n", true);
    return [(await data.ended).toString().split("\r\n")[0], (await error.ended).toString()];
  };
  await expect.poll(() => ask(String(Math.random()))).toEqual(["HTTP/1.1 200 OK", ""]);
  client.destroy();
});
