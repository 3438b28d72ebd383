/**
 * The daemon killed with -9 between any two steps of a CNI network, on the way up and down: after
 * its next start no address is lost, no namespace is bound, no record is left, and pods go on.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { TestPlugins } from "../harness/cni.js";
import { CriClient } from "../harness/cri.js";
import { TestDaemon } from "../harness/daemon.js";
import type { Snapshot } from "../harness/leaks.js";
import { isAlive } from "../harness/processes.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "cgroup2", "overlayfs"] as const;
const lacking = missing(...NEEDS);
/** gRPC: the answer was lost with the daemon. */
const UNAVAILABLE = 14;

let folder: string;
let plugins: TestPlugins;
let daemon: TestDaemon;
let cri: CriClient;
let witness: string;
let before: Snapshot;

const arm = (points: string) => writeFileSync(join(folder, "failpoints"), points);

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(tmpdir(), "minke-net-kills-"));
  arm("");
  plugins = new TestPlugins(join(folder, "bin"), ["first", "second"]);
  mkdirSync(join(folder, "net.d"));
  const config = { cniVersion: "1.1.0", name: "testnet", plugins: [{ type: "first" }, { type: "second" }] };
  writeFileSync(join(folder, "net.d", "10.conflist"), JSON.stringify(config));
  daemon = await TestDaemon.startWithImages({
    networkMode: "cni",
    tables: `[network.cni]\nconfig-dir = "${folder}/net.d"\nplugin-dirs = ["${folder}/bin"]`,
    env: { MINKE_FAILPOINTS: `@${folder}/failpoints` },
  });
  cri = new CriClient(daemon.criSocket);
  witness = await cri.runSandbox();
  before = daemon.snapshot();
});
afterEach(async () => {
  if (lacking) return;
  arm("");
  expect(keptAddresses()).toEqual([`keep.${witness}`]);
  expect(readdirSync(join(daemon.run, "netns"))).toEqual([`minke-${witness}`]);
  await daemon.expectNothingLeft({ ...before, descriptors: daemon.snapshot()["descriptors"] ?? [] });
});
afterAll(async () => {
  if (lacking) return;
  await daemon.dispose();
  expect(keptAddresses()).toEqual([]);
  rmSync(folder, { recursive: true });
});

function keptAddresses(): string[] {
  return existsSync(plugins.dir) ? readdirSync(plugins.dir).filter((name) => name.startsWith("keep.")) : [];
}

async function revive(): Promise<void> {
  await daemon.ended();
  arm("");
  await daemon.start();
  cri.close();
  cri = new CriClient(daemon.criSocket);
}

test.each([
  "network",
  "after record attachment",
  "after pin netns",
  "after cni plugin add",
  "after cni add",
  "after network",
  "record ready",
])("killed at '%s' on the way up", async (point) => {
  arm(`${point}=kill`);
  await expect(cri.runSandbox()).rejects.toMatchObject({ code: UNAVAILABLE });
  await revive();
});

test.each([
  "tear network down",
  "cni del",
  "after cni plugin del",
  "after cni del",
  "after unpin netns",
  "record stopped",
])("killed at '%s' on the way down", async (point) => {
  const id = await cri.runSandbox();
  arm(`${point}=kill`);
  await expect(cri.call("stopPodSandbox", { podSandboxId: id })).rejects.toMatchObject({ code: UNAVAILABLE });
  await revive();
  await cri.removeSandbox(id);
});

test("killed while a plugin hangs in ADD", async () => {
  plugins.behave("second", "ADD", "hang");
  const hanging = cri.runSandbox().catch((err: unknown) => err);
  await expect.poll(() => plugins.hangingPid).toBeGreaterThan(0);
  await daemon.kill9();
  await hanging;
  const { hangingPid } = plugins;
  plugins.behave("second", "ADD", undefined);
  await revive();
  expect(isAlive(hangingPid)).toBe(false);
});
