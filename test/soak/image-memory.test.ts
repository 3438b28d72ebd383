/**
 * Memory that loading and saving an image takes: a fraction of its layer's size, in the daemon, in the command and
 * in what unpacks. Not scaled: of a small layer most would be the programs themselves.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { MINKE, runCommand } from "../harness/cli.js";
import { TestDaemon } from "../harness/daemon.js";
import { ARCHITECTURE } from "../harness/image-builder.js";
import { missing, requires } from "../harness/requires.js";

const NEEDS = ["root", "cgroup2", "overlayfs"] as const;
const lacking = missing(...NEEDS);
const LAYER_MIB = 256;
/** Whoever holds the layer in memory needs all of its size; those that stream it were seen to need a fifth. */
const MOST_MIB = LAYER_MIB / 2;
const TAG = "minke.test/large:1";

let daemon: TestDaemon;
let folder: string;
let archive: string;

beforeEach(requires(...NEEDS));
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(tmpdir(), "minke-memory-"));
  archive = writeArchive();
  daemon = await TestDaemon.start();
});
afterAll(async () => {
  await daemon?.dispose();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** As docker save writes it, of one layer that does not compress. @returns its path */
function writeArchive(): string {
  const parts = join(folder, "parts");
  mkdirSync(parts);
  execFileSync("dd", ["if=/dev/urandom", `of=${folder}/large`, "bs=1M", `count=${LAYER_MIB}`, "status=none"]);
  execFileSync("tar", ["-C", folder, "-cf", join(parts, "layer.tar"), "large"]);
  const sum = execFileSync("sha256sum", [join(parts, "layer.tar")], { encoding: "utf8" }).split(" ")[0];
  const rootfs = { type: "layers", diff_ids: [`sha256:${sum}`] };
  writeFileSync(join(parts, "config.json"), JSON.stringify({ architecture: ARCHITECTURE, os: "linux", rootfs }));
  const manifest = [{ Config: "config.json", RepoTags: [TAG], Layers: ["layer.tar"] }];
  writeFileSync(join(parts, "manifest.json"), JSON.stringify(manifest));
  const path = join(folder, "large.tar");
  execFileSync("tar", ["-C", parts, "-cf", path, "manifest.json", "config.json", "layer.tar"]);
  rmSync(parts, { recursive: true });
  return path;
}

/** VmHWM, or 0 of a process that has ended or that runs another program: proc_pid_status(5). */
function peakMib(pid: number, program = ""): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    if (!status.startsWith(`Name:\t${program}`)) return 0;
    return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}

function childrenOf(pid: number): number[] {
  const tasks = readdirSync(`/proc/${pid}/task`);
  return tasks.flatMap((task) => {
    try {
      return readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").split(" ").filter(Boolean).map(Number);
    } catch {
      return []; // the thread has ended meanwhile
    }
  });
}

/** What the command line needs at its most, in MiB: of the daemon beyond what it had, of the command, of the daemon's children. */
async function peaksOf(command: string): Promise<{ daemon: number; command: number; children: number }> {
  // "5" resets VmHWM to what is resident: proc_pid_clear_refs(5).
  writeFileSync(`/proc/${daemon.pid}/clear_refs`, "5");
  const before = peakMib(daemon.pid);
  let children = 0;
  const sampler = setInterval(() => {
    // One that has not come to its execve yet has the daemon's memory.
    for (const pid of childrenOf(daemon.pid)) children = Math.max(children, peakMib(pid, "minke-layer"));
  }, 20);
  const ofAll =
    "import resource,subprocess,sys\ncode=subprocess.call(['sh','-c',sys.argv[1]])\n" +
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\nsys.exit(code)\n";
  const run = runCommand("python3", ["-c", ofAll, command], { timeoutMs: 600_000 });
  const { code, stdout, stderr } = await run.finally(() => clearInterval(sampler));
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const commandKib = Number(stdout.trim().split("\n").at(-1));
  return { daemon: peakMib(daemon.pid) - before, command: commandKib / 1024, children };
}

const minke = (...args: string[]) =>
  [process.execPath, MINKE, "--root", daemon.root, "--run", daemon.run, ...args].map((word) => `'${word}'`).join(" ");

test(`to load a layer of ${LAYER_MIB} MiB from a pipe, and to save it, takes at most half of that in any process`, {
  timeout: 600_000,
}, async () => {
  const least = (await peaksOf(`${minke("image", "ls")} >/dev/null`)).command;
  const load = await peaksOf(`cat '${archive}' | ${minke("load")} >/dev/null`);
  const saved = join(folder, "saved.tar");
  const save = await peaksOf(minke("save", TAG, "-o", saved));
  console.log(
    `in MiB: ${JSON.stringify({ least, load, save }, (_, of) => (typeof of === "number" ? Math.round(of) : of))}`,
  );
  expect(statSync(saved).size).toBeGreaterThan(LAYER_MIB << 20);
  for (const peaks of [load, save]) {
    expect(peaks.daemon).toBeLessThan(MOST_MIB);
    expect(peaks.command - least).toBeLessThan(MOST_MIB);
    expect(peaks.children).toBeLessThan(MOST_MIB);
    expect(peaks.children, "what unpacks and makes archives was not seen").toBeGreaterThan(0);
  }
});
