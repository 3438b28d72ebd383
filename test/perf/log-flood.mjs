/**
 * `npm run bench -- log-flood [--runs N] [--mib N]`: one container that writes its log as fast as it is
 * taken, beside the same program through a pipe into `cat` and a file, interleaved; and what the
 * monitor's memory does meanwhile. Speeds are of a quiet machine only; the processor time that `cat`
 * and the monitor take for the same bytes tells them apart on a busy one too.
 *
 * The container's time is that of its process, by its exit file: what then is in the pipe is at most
 * 512 KiB. Its log is rotated as any pod's, at 10 MiB.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { startDaemon } from "./daemon.mjs";
import { heading, median, quantile, row } from "./figures.mjs";
import { anonymousKib, deletePod, makePod, monitorPids, staticProgram } from "./monitors.mjs";
import { withUndo } from "./undo.mjs";

const SETTLE_MS = 1_500;
const DEADLINE_MS = 120_000;
// Lines of 100 bytes, 64 KiB a write.
const FLOOD = `#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char** argv) {
  static char text[65536];
  for (size_t i = 0; i < sizeof text; i++) text[i] = i % 100 == 99 ? '\\n' : 'a' + i % 26;
  for (long left = atol(argv[argc - 1]) * 16; left > 0; left--)
    for (size_t at = 0; at < sizeof text;) {
      const ssize_t put = write(1, text + at, sizeof text - at);
      if (put < 0) return 1;
      at += put;
    }
  return 0;
}
`;

const { values } = parseArgs({
  allowPositionals: true,
  options: { runs: { type: "string", default: "5" }, mib: { type: "string", default: "256" } },
});
const runs = Number(values.runs);
const mib = Number(values.mib);
if (process.getuid() !== 0 || !(runs > 0) || !(mib > 0)) {
  console.error("usage (as root): npm run bench -- log-flood [--runs N] [--mib N]");
  process.exit(2);
}

const folder = mkdtempSync(join(tmpdir(), "minke-bench-"));
const cgroupRoot = `minke-bench-${process.pid}`;
await withUndo(async (undo) => {
  undo.push(() => rmSync(folder, { recursive: true, force: true }));
  const programs = join(folder, "programs");
  mkdirSync(programs);
  const flood = staticProgram(programs, "flood", FLOOD);
  const daemon = await startDaemon(folder, cgroupRoot, undo);
  const figures = { cat: [], container: [], catCpu: [], monitorCpu: [], mostKib: [], afterKib: [] };
  for (let i = 0; i < runs; i++) {
    const cat = floodCat(flood);
    figures.cat.push(mib / cat.seconds);
    figures.catCpu.push((cat.cpuSeconds / mib) * 1024);
    const { seconds, cpuSeconds, mostKib, afterKib } = await floodContainer(daemon, programs, `flood-${i}`);
    figures.container.push(mib / seconds);
    figures.monitorCpu.push((cpuSeconds / mib) * 1024);
    figures.mostKib.push(mostKib);
    figures.afterKib.push(afterKib);
  }
  const columns = (list) => [median(list), quantile(list, 0), Math.max(...list)];
  console.log(heading(`${runs} runs of ${mib} MiB`));
  console.log(row("", ["median", "least", "most"]));
  console.log(row("cat to a file, MiB/s", columns(figures.cat)));
  console.log(row("container's log, MiB/s", columns(figures.container)));
  console.log(row("cat, CPU s per GiB", columns(figures.catCpu)));
  console.log(row("monitor, CPU s per GiB", columns(figures.monitorCpu)));
  console.log(row("monitor meanwhile, KiB alone", columns(figures.mostKib)));
  console.log(row("monitor after, KiB alone", columns(figures.afterKib)));
  const speed = median(figures.container) / median(figures.cat);
  const work = median(figures.catCpu) / median(figures.monitorCpu);
  console.log(
    `ratio of the medians: speed ${speed.toFixed(2)}, of processor time ${work.toFixed(2)}; goal: at least 0.5`,
  );
});

function floodCat(flood) {
  const begin = performance.now();
  const script = `TIMEFORMAT="%U %S"; "${flood}" ${mib} | { time cat >"${join(folder, "cat.out")}"; }`;
  const { status, stderr } = spawnSync("bash", ["-c", script], { encoding: "utf8" });
  if (status !== 0) throw new Error(`cat ended with ${status}: ${stderr}`);
  const seconds = (performance.now() - begin) / 1000;
  rmSync(join(folder, "cat.out"));
  const [user, system] = stderr.trim().split(" ").map(Number);
  return { seconds, cpuSeconds: user + system };
}

async function floodContainer(daemon, programs, name) {
  const containers = [
    // The second one keeps the pod, and so its monitor, when the flood is over.
    {
      name: "flood",
      command: ["/programs/flood", String(mib)],
      volumeMounts: [{ name: "programs", mountPath: "/programs" }],
    },
    { name: "idle", command: ["sleep", "1000"] },
  ];
  await makePod(daemon, name, containers, [{ name: "programs", hostPath: { path: programs } }]);
  let mostKib = 0;
  let exit;
  for (const deadline = performance.now() + DEADLINE_MS; exit === undefined; await sleep(100)) {
    if (performance.now() > deadline) throw new Error(`the flood has not ended in ${DEADLINE_MS / 1000} s`);
    for (const pid of monitorPids(cgroupRoot)) mostKib = Math.max(mostKib, memoryOf(pid));
    exit = exitOfFlood();
  }
  await sleep(SETTLE_MS);
  const [pid] = monitorPids(cgroupRoot);
  const afterKib = memoryOf(pid);
  const cpuSeconds = cpuSecondsOf(pid);
  await deletePod(daemon, name);
  return { seconds: Number(BigInt(exit.finishedAtNs) - BigInt(exit.startedAtNs)) / 1e9, cpuSeconds, mostKib, afterKib };
}

/** Its exit file, where the monitor has written it. */
function exitOfFlood() {
  const containers = join(folder, "root/containers");
  const file = (existsSync(containers) ? readdirSync(containers) : [])
    .map((id) => join(containers, id, "exit.json"))
    .find((path) => existsSync(path));
  return file && JSON.parse(readFileSync(file, "utf8"));
}

/** 0 where it is still the daemon's child before its exec, with the daemon's memory. */
function memoryOf(pid) {
  return readFileSync(`/proc/${pid}/comm`, "utf8").trim() === "minke-monitor" ? anonymousKib(pid) : 0;
}

/** Of its whole life, in which it did little else (proc_pid_stat(5): utime and stime in clock ticks of 10 ms). */
function cpuSecondsOf(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
