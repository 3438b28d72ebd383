/**
 * Damaged state and a kernel changed behind the daemon's back: the start goes on, what is damaged
 * is put aside and reported, and what can be repaired is.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { MINKE, runCommand } from "../harness/cli.js";
import { eventually, FaultDaemon, isRunning, SLEEPER } from "../harness/fault-daemon.js";
import { freePort } from "../harness/free-port.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "cgroup2", "overlayfs", "nft"] as const;
const HOST_PORT = await freePort();
const lacking = missing(...NEEDS);
let faults: FaultDaemon;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (!lacking) faults = await FaultDaemon.start();
});
afterEach(async () => {
  await faults?.reset();
  rmSync(join(faults.daemon.root, "quarantine"), { recursive: true, force: true });
});
afterAll(() => faults?.dispose());

const NOUNS = ["boot/sandboxes", "boot/containers", "boot/leases", "durable/pods"] as const;

const DAMAGES: readonly [string, (bytes: Buffer) => Buffer | string][] = [
  ["empty", () => ""],
  ["truncated", (bytes) => bytes.subarray(0, bytes.length / 2)],
  ["changed in one byte", (bytes) => Buffer.concat([bytes.subarray(0, -9), Buffer.from("!"), bytes.subarray(-8)])],
  ["newer than the program", (bytes) => bytes.toString().replace('{"version":1,', '{"version":99,')],
];

describe("at the start", () => {
  test.each(DAMAGES)(
    "records of every noun that are %s are put aside, reported, and cost no start",
    async (_, damage) => {
      await faults.run("hurt");
      let count = 0;
      await faults.killAndRestart(() => {
        for (const file of NOUNS.flatMap(recordsOf)) {
          writeFileSync(file, damage(readFileSync(file)));
          count++;
        }
      });
      expect(count).toBeGreaterThanOrEqual(NOUNS.length);
      expect(readdirSync(join(faults.daemon.root, "quarantine"))).toHaveLength(count);
      expect(faults.daemon.log).toContain("a record could not be read and was put aside");
      expect(await faults.find("hurt")).toBeUndefined();
      rmSync(join(faults.daemon.root, "quarantine"), { recursive: true });
      await faults.run("hurt");
      await faults.delete("hurt");
      await faults.expectNothingLeft();
    },
  );

  test.each(["boot/sandboxes", "boot/containers"] as const)(
    "a pod whose record in %s is damaged runs again, once",
    async (noun) => {
      await faults.run("hurt");
      const before = faults.initOf(/trap 'exit 0' TERM/);
      await faults.killAndRestart(() => {
        for (const file of recordsOf(noun)) writeFileSync(file, "damaged");
      });
      // initOf throws while there are two, or none.
      await eventually(
        () => faults.initOf(/trap 'exit 0' TERM/) !== before,
        () => "it was not made again",
      );
      await faults.untilRunning("hurt");
      expect(faults.initOf(/trap 'exit 0' TERM/)).toBeGreaterThan(0);
      rmSync(join(faults.daemon.root, "quarantine"), { recursive: true });
      await faults.delete("hurt");
      await faults.expectNothingLeft();
    },
  );

  test("a pod whose lease is damaged keeps its address and its container", async () => {
    const before = await faults.run("leased");
    const pid = faults.initOf(/trap 'exit 0' TERM/);
    await faults.killAndRestart(() => {
      for (const file of recordsOf("boot/leases")) if (/[0-9a-f]{64}/.test(file)) writeFileSync(file, "damaged");
    });
    const after = await faults.untilRunning("leased");
    expect(after.status.podIP).toBe(before.status.podIP);
    expect(faults.initOf(/trap 'exit 0' TERM/)).toBe(pid);
    rmSync(join(faults.daemon.root, "quarantine"), { recursive: true });
    await faults.delete("leased");
    await faults.expectNothingLeft();
  });

  test("records of another boot are taken for stopped, and their pods are made again", async () => {
    await faults.run("rebooted");
    await faults.killAndRestart(() => {
      for (const file of [...recordsOf("boot/sandboxes"), ...recordsOf("boot/containers")]) {
        editRecord(file, (body) => ({ ...body, bootId: "00000000-0000-0000-0000-000000000000" }));
      }
    });
    const { status } = await faults.until(
      "rebooted",
      "restarted",
      (pod) => isRunning(pod) && pod.status.containerStatuses?.[0]?.restartCount === 1,
    );
    expect(status.containerStatuses?.[0]?.lastState.terminated?.message).toContain("restarted");
    expect(faults.initOf(/trap 'exit 0' TERM/)).toBeGreaterThan(0);
    await faults.delete("rebooted");
    await faults.expectNothingLeft();
  });

  test("a second daemon on the same root says ALREADY_RUNNING's words and changes nothing", async () => {
    await faults.run("first");
    const { root, run } = faults.daemon;
    const { code, stderr } = await runCommand(process.execPath, [MINKE, "daemon", "--root", root, "--run", run]);
    expect(stderr).toMatch(/runs already; give this one another --root/);
    expect(code).toBe(1);
    expect(isRunning(await faults.pod("first"))).toBe(true);
  });
});

describe("behind the daemon's back", () => {
  const PUBLISHED = {
    containers: [{ name: "main", script: SLEEPER, ports: [{ containerPort: 80, hostPort: HOST_PORT }] }],
  };

  test("a deleted bridge is made again for the next pod, and the first pod is on it again", async () => {
    await faults.run("before");
    spawnSync("ip", ["link", "delete", faults.daemon.bridge]);
    const after = await faults.run("after");
    const { status } = await faults.pod("before");
    expect(await faults.exec("after", "ping", "-c", "1", "-W", "2", status.podIP ?? "")).toMatchObject({ code: 0 });
    expect(after.status.podIP).not.toBe(status.podIP);
    for (const name of ["before", "after"]) await faults.delete(name);
    await faults.expectNothingLeft();
  });

  test("a deleted nftables table does not keep a pod from going, and is whole for the next one", async () => {
    await faults.run("before", PUBLISHED);
    spawnSync("nft", ["delete", "table", "inet", `minke_${faults.daemon.bridge}`]);
    await faults.delete("before");
    await faults.run("after", PUBLISHED);
    expect(faults.daemon.snapshot()["rules"]?.join("\n")).toContain(String(HOST_PORT));
    await faults.delete("after");
    await faults.expectNothingLeft();
  });

  test("a deleted upper directory takes nothing with it but itself", async () => {
    await faults.run("bare");
    const containers = join(faults.daemon.root, "containers");
    for (const id of readdirSync(containers)) rmSync(join(containers, id, "upper"), { recursive: true });
    expect(isRunning(await faults.pod("bare"))).toBe(true);
    await faults.delete("bare");
    await faults.expectNothingLeft();
  });
});

function recordsOf(noun: string): string[] {
  const folder = join(faults.daemon.root, "state", noun);
  // What a killed daemon was just writing is no record yet.
  const names = readdirSync(folder).filter((name) => name.endsWith(".json"));
  return names.map((name) => join(folder, name));
}

/** Writes a record as the store does: the hash is over the body's bytes. */
function editRecord(file: string, edit: (body: Record<string, unknown>) => object): void {
  const text = readFileSync(file, "utf8");
  const { version, body } = JSON.parse(text) as { version: number; body: Record<string, unknown> };
  const edited = JSON.stringify(edit(body));
  const sha256 = createHash("sha256").update(edited).digest("hex");
  writeFileSync(file, `{"version":${version},"sha256":"${sha256}","body":${edited}}\n`);
}
