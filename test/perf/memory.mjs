/**
 * `npm run bench -- memory [--pods N] [--skip-peer]`: what a monitor with one container costs among N pods, beside
 * a bare static process among as many of its kind, and the daemon's resident memory; then the same of containerd
 * (cri-peer.mjs), whose pods have a shim and a pause process.
 *
 * PSS, since monitors share their program's pages. Taken 3 s after the last start: a monitor gives
 * back what a start needed after a second.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { startClient } from "./cri-go-client.mjs";
import { startContainerd } from "./cri-peer.mjs";
import { startDaemon } from "./daemon.mjs";
import { heading, median, quantile, row } from "./figures.mjs";
import { makePod, monitorPids, pssKib, staticProgram, untilPods } from "./monitors.mjs";
import { withUndo } from "./undo.mjs";

const SETTLE_MS = 3_000;
const BUDGET_KIB = 256;

const { values } = parseArgs({
  allowPositionals: true,
  options: { pods: { type: "string", default: "50" }, "skip-peer": { type: "boolean", default: false } },
});
const pods = Number(values.pods);
if (process.getuid() !== 0 || !(pods > 0)) {
  console.error("usage (as root): npm run bench -- memory [--pods N] [--skip-peer]");
  process.exit(2);
}

const folder = mkdtempSync(join(tmpdir(), "minke-bench-"));
const cgroupRoot = `minke-bench-${process.pid}`;
await withUndo(async (undo) => {
  undo.push(() => rmSync(folder, { recursive: true, force: true }));
  const program = staticProgram(folder, "bare", "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n");
  const bare = Array.from({ length: pods }, () => spawn(program, { stdio: "ignore" }));
  undo.push(async () => bare.forEach((child) => child.kill("SIGKILL")));
  const daemon = await startDaemon(folder, cgroupRoot, undo);
  const idleMib = rssMib(daemon.pid);
  for (let i = 0; i < pods; i++) await makePod(daemon, `bench-${i}`, [{ name: "main", command: ["sleep", "1000"] }]);
  await untilPods(daemon, pods, "Running");
  await sleep(SETTLE_MS);
  const monitors = monitorPids(cgroupRoot).map(pssKib);
  if (monitors.length !== pods) throw new Error(`${monitors.length} monitors for ${pods} pods`);
  const processes = bare.map(({ pid }) => pssKib(pid));
  console.log(heading(`${pods} pods of one container, in KiB of PSS`));
  console.log(row("", ["median", "p90", "most"]));
  console.log(row("bare static process", columns(processes)));
  console.log(row("monitor", columns(monitors)));
  console.log(`goal: at most ${BUDGET_KIB} KiB; ${Math.max(...monitors) <= BUDGET_KIB ? "reached" : "not reached"}`);
  console.log(`daemon, RSS: ${rssMib(daemon.pid).toFixed(0)} MiB; before the first pod ${idleMib.toFixed(0)} MiB`);
  if (!values["skip-peer"]) await measurePeer(undo);
});

function columns(list) {
  return [median(list), quantile(list, 0.9), Math.max(...list)];
}

async function measurePeer(undo) {
  const client = await startClient(undefined, undo);
  const peer = await startContainerd(folder, undo);
  const [pid] = peer.pids("containerd");
  const idleMib = rssMib(pid);
  await client.start(peer, { pods, workers: 4, name: "bench" });
  await sleep(SETTLE_MS);
  const [shims, pauses] = ["containerd-shim", "pause"].map((name) => peer.pids(name).map(pssKib));
  if (shims.length !== pods || pauses.length !== pods) {
    throw new Error(`${shims.length} shims and ${pauses.length} pause processes for ${pods} pods`);
  }
  console.log(row("containerd's shim", columns(shims)));
  console.log(row("its pause process", columns(pauses)));
  console.log(`${peer.name}, RSS: ${rssMib(pid).toFixed(0)} MiB; before the first pod ${idleMib.toFixed(0)} MiB`);
}

function rssMib(pid) {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]) / 1024;
}
