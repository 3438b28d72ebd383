/**
 * An update of minke under running pods: the monitors of the old version go on, and the new daemon, of a
 * newer version, adopts them. Their logs rotate and are moved away meanwhile, and every line is there once.
 */
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { PROJECT } from "../harness/cli.js";
import { CriClient } from "../harness/cri.js";
import { eventually, FaultDaemon } from "../harness/fault-daemon.js";
import { logText } from "../harness/monitor.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "cgroup2", "overlayfs"] as const;
const lacking = missing(...NEEDS);
const COUNTER = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.002; done";
const NEWER = "99.0.0";
const LOGS = "[logs]\nmax-bytes = 65536\nmax-files = 100\n";
/** Writes so many lines for each file that appears in /control, and makes another one when they are written. */
const PHASE = 1000;
const PHASES = `p=${"-".repeat(120)}; n=0; for phase in 1 2 3; do
  while [ ! -e /control/$phase ]; do sleep 0.02; done
  m=$((n+${PHASE})); while [ $n -lt $m ]; do n=$((n+1)); echo $n $p; done
  : >/control/done$phase
done; sleep 1000`;

let faults: FaultDaemon;
let newer: string;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  faults = await FaultDaemon.start({ tables: `[backoff]\nbase-ms = 100\nmax-ms = 200\n${LOGS}` });
  newer = newerBuild();
});
afterEach(() => faults?.reset());
afterAll(async () => {
  await faults?.dispose();
  if (newer) rmSync(newer, { recursive: true, force: true });
});

/** The same build under another version: a folder like the project's. */
function newerBuild(): string {
  const folder = mkdtempSync(join(tmpdir(), "minke-newer-"));
  cpSync(`${PROJECT}dist`, join(folder, "dist"), { recursive: true });
  for (const name of ["build", "node_modules"]) symlinkSync(`${PROJECT}${name}`, join(folder, name));
  const file = JSON.parse(readFileSync(`${PROJECT}package.json`, "utf8")) as object;
  writeFileSync(join(folder, "package.json"), JSON.stringify({ ...file, version: NEWER }));
  return folder;
}

async function update(whileDown: () => void = () => undefined): Promise<void> {
  await faults.daemon.kill9();
  whileDown();
  await faults.daemon.start({}, join(newer, "dist/cli/main.js"));
}

/** Content of a rotated log that nobody writes to, oldest first: `0.log.7 … 0.log.1 0.log`. */
function rotatedText(folder: string): { readonly text: string; readonly files: number } {
  const number = (name: string) => Number(/\.log\.(\d+)$/.exec(name)?.[1] ?? 0);
  const names = readdirSync(folder).toSorted((a, b) => number(b) - number(a));
  return { text: names.map((name) => logText(join(folder, name))).join(""), files: names.length };
}

/** False also while files are renamed under the reader. */
function hasLines(folder: string, count: number): boolean {
  try {
    return counted(rotatedText(folder).text).length >= count;
  } catch {
    return false;
  }
}

const counted = (text: string) =>
  text
    .split("\n")
    .slice(0, -1)
    .map((line) => Number(line.split(" ")[0]));
const oneTo = (last: number) => Array.from({ length: last }, (_, index) => index + 1);

test("a pod's monitor of an older version is adopted: nothing restarts, exec and stop work, and its log rotates on", async () => {
  const control = mkdtempSync(join(tmpdir(), "minke-phases-"));
  const go = (phase: number) => writeFileSync(join(control, String(phase)), "");
  const isDone = (phase: number) =>
    eventually(
      () => existsSync(join(control, `done${phase}`)),
      () => `phase ${phase} is not written`,
    );
  const before = await faults.run("kept", {
    containers: [{ name: "counter", script: PHASES, mounts: { control: "/control" } }],
    volumes: [{ name: "control", hostPath: { path: control } }],
    graceSeconds: 0,
  });
  const monitors = faults.monitorPids();
  go(1);
  await isDone(1);
  go(2);
  await faults.daemon.kill9();
  await isDone(2);
  await faults.daemon.start({}, join(newer, "dist/cli/main.js"));
  go(3);
  expect(await versionOfDaemon()).toBe(NEWER);
  expect(faults.monitorPids()).toEqual(monitors);
  expect((await faults.pod("kept")).status.containerStatuses).toEqual(before.status.containerStatuses);
  expect(await faults.exec("kept", "true")).toMatchObject({ code: 0 });
  await isDone(3);
  const logs = join(faults.daemon.root, "logs");
  const folder = join(logs, readdirSync(logs).find((name) => name.includes(before.metadata.uid)) ?? "none", "counter");
  await eventually(
    () => hasLines(folder, 3 * PHASE),
    () => `${folder} has too few lines`,
  );
  const { text, files } = rotatedText(folder);
  expect(files).toBeGreaterThan(5);
  expect(counted(text)).toEqual(oneTo(3 * PHASE));
  await faults.delete("kept");
  await faults.expectNothingLeft();
  rmSync(control, { recursive: true, force: true });
}, 60_000);

test("a log that is moved away while the daemon is down goes on where ReopenContainerLog says, and no line is lost or doubled", async () => {
  const folder = mkdtempSync(join(tmpdir(), "minke-reopened-"));
  const cri = new CriClient(faults.daemon.criSocket);
  try {
    const sandbox = await cri.runSandbox({ logDirectory: folder });
    const containerId = await cri.startContainer(sandbox, { command: ["sh", "-c", COUNTER], logPath: "counter.log" });
    const path = join(folder, "counter.log");
    const moved = `${path}.moved`;
    await eventually(
      () => counted(logText(path)).length > 20,
      () => "nothing is logged",
    );
    await update(() => renameSync(path, moved));
    await cri.call("reopenContainerLog", { containerId });
    await eventually(
      () => counted(logText(path)).length > 20,
      () => "nothing is logged to the new file",
    );
    await cri.call("stopContainer", { containerId, timeout: 0n });
    const lines = counted(logText(moved) + logText(path));
    expect(lines).toEqual(oneTo(lines.length));
    await cri.removeSandbox(sandbox);
  } finally {
    cri.close();
    rmSync(folder, { recursive: true, force: true });
  }
  await faults.expectNothingLeft();
}, 60_000);

async function versionOfDaemon(): Promise<string> {
  const cri = new CriClient(faults.daemon.criSocket);
  try {
    return (await cri.call("version", { version: "v1" })).runtimeVersion;
  } finally {
    cri.close();
  }
}
