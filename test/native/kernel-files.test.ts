/** Files of /proc and of cgroups, read in batches. Needs root and cgroup v2; every test removes what it made. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  mkdirSync,
  openSync,
  closeSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { countDescriptors, processesBelow, readKernelFile } from "../../src/native/index.js";
import { cgroup2Mount, requires } from "../harness/requires.js";

const NOBODY = 2 ** 22 + 1;
let undo: (() => unknown)[];

beforeEach(requires("root", "cgroup2"));
beforeEach(() => {
  undo = [];
});
afterEach(async () => {
  for (const step of undo.reverse()) await step();
});

test("many files asked for at once each get their own text, and what cannot be read has none", async () => {
  const lines = readFileSync("/proc/self/status", "utf8").split("\n");
  const paths = Array.from({ length: 300 }, (_, at) => [
    "/proc/self/comm",
    `/proc/${NOBODY}/stat`,
    "/proc/self",
    "/proc/self/status",
    `/proc/sys/kernel/${at % 2 === 0 ? "ostype" : "osrelease"}`,
  ]).flat();
  const texts = await Promise.all(paths.map(readKernelFile));
  for (let at = 0; at < texts.length; at += 5) {
    expect(texts.slice(at, at + 3)).toEqual([readFileSync("/proc/self/comm", "utf8"), undefined, undefined]);
    expect(texts[at + 3]?.split("\n")[0]).toBe(lines[0]);
    expect(texts[at + 4]).toBe(readFileSync(paths[at + 4] as string, "utf8"));
  }
});

test("the processes of a cgroup are those in it and below it, and one that is gone has none", async () => {
  const top = join(cgroup2Mount() as string, `minke-test-${process.pid}-files`);
  const dirs = [top, join(top, "a"), join(top, "a/b")];
  const pids: number[] = [];
  for (const dir of dirs) {
    mkdirSync(dir);
    undo.push(() => rmdirSync(dir));
  }
  for (const dir of dirs) {
    const child = spawn("sleep", ["1000"], { stdio: "ignore" });
    undo.push(async () => {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    });
    writeFileSync(join(dir, "cgroup.procs"), String(child.pid));
    pids.push(child.pid as number);
  }
  const [all, below, gone] = await Promise.all([top, join(top, "a"), join(top, "none")].map(processesBelow));
  expect([...(all ?? [])].sort()).toEqual([...pids].sort());
  expect([...(below ?? [])].sort()).toEqual(pids.slice(1).sort());
  expect(gone).toEqual([]);
});

test("descriptors are counted, sockets among them, and none of a process that has ended", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  undo.push(() => new Promise((resolve) => server.close(resolve)));
  await once(server, "listening");
  const first = await countDescriptors(process.pid);
  const file = openSync("/proc/self/comm", "r");
  const second = await countDescriptors(process.pid);
  closeSync(file);
  expect(second.all).toBe(first.all + 1);
  expect(second.sockets).toBe(first.sockets);
  const sockets = readdirSync("/proc/self/fd").filter((name) => {
    try {
      return readlinkSync(`/proc/self/fd/${name}`).startsWith("socket:");
    } catch {
      return false;
    }
  });
  expect(second.sockets).toBe(sockets.length);
  expect(second.sockets).toBeGreaterThan(0);
  expect(await countDescriptors(NOBODY)).toEqual({ all: 0, sockets: 0 });
});
