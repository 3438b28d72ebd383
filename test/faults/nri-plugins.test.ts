/**
 * Installed NRI plugins that ignore that their connection is closed, and SIGTERM, and whose children left
 * their session: they end with the daemon all the same, however that ends, and none runs twice.
 */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { parseProcessStat } from "../../src/base/process-stat.js";
import { TestDaemon } from "../harness/daemon.js";
import { isAlive } from "../harness/processes.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "cgroup2", "overlayfs"] as const;
const lacking = missing(...NEEDS);
const PLUGIN = new URL("../unit/nri/installed-plugin.mjs", import.meta.url).pathname;

let folder: string;
let daemon: TestDaemon;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(tmpdir(), "minke-nri-faults-"));
  const dir = join(folder, "plugins");
  mkdirSync(dir, { mode: 0o755 });
  const program = join(dir, "10-deaf");
  writeFileSync(program, `#!${process.execPath}\nimport(${JSON.stringify(PLUGIN)});\n`);
  chmodSync(program, 0o755);
  writeFileSync(join(folder, "deaf.conf"), join(folder, "heard"));
  daemon = await TestDaemon.start({
    tables: `[nri]\nconfig-dir = "${folder}"\nplugin-dir = "${dir}"\nregistration-timeout-ms = 60000`,
  });
});
afterAll(async () => {
  if (lacking) return;
  await daemon.dispose();
  expect(alive()).toEqual([]);
  rmSync(folder, { recursive: true, force: true });
});

/** Pids of all plugins so far, each followed by its child's. */
function pids(): number[] {
  const file = join(folder, "heard");
  const lines = existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : [];
  return lines.map((line) => Number(/^(?:child )?(\d+)/.exec(line)?.[1]));
}

function alive(): number[] {
  return pids().filter(isAlive);
}

function parentOf(pid: number): number {
  return parseProcessStat(readFileSync(`/proc/${pid}/stat`, "utf8"))?.parent ?? 0;
}

test("after kill -9 of the daemon neither a plugin nor its child stays", async () => {
  const first = pids();
  expect(alive()).toEqual(first);
  expect(first).toHaveLength(2);
  const keeper = parentOf(first[0] ?? 0);
  expect(parentOf(keeper)).toBe(daemon.pid);
  await daemon.kill9();
  await expect.poll(() => [...alive(), keeper].filter(isAlive), { timeout: 30_000 }).toEqual([]);
  await daemon.start();
  expect(alive()).toEqual(pids().slice(2));
  expect(alive()).toHaveLength(2);
});

test("what outlives daemon and keeper ends before the next daemon starts a plugin again", async () => {
  const [plugin = 0, child = 0] = alive();
  const keeper = parentOf(plugin);
  // It can do nothing about it, as if all had died at once.
  process.kill(daemon.pid, "SIGSTOP");
  process.kill(keeper, "SIGKILL");
  await expect.poll(() => isAlive(plugin), { timeout: 30_000 }).toBe(false);
  expect(isAlive(child)).toBe(true);
  await daemon.kill9();
  await daemon.start();
  expect(isAlive(child)).toBe(false);
  expect(alive()).toEqual(pids().slice(-2));
  expect(alive()).toHaveLength(2);
});
