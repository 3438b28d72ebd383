/**
 * Loaded into a daemon with `--import`: writes how long its event loop was blocked since the last
 * SIGUSR2, at each SIGUSR2, as JSON to the file of MINKE_DELAY_FILE.
 *
 * `longestMs` is what a timer saw. `ownMs` is the longest without the time in which the thread was
 * ready and had no processor, `cpuMs` the most processor time that passed between two turns of the
 * loop (both /proc/PID/task/TID/schedstat): what other load on the machine does is in neither, and a
 * thread that sleeps in a call of its own is in the first only.
 */
import { closeSync, openSync, readSync, writeFileSync } from "node:fs";

const STEP_MS = 1;
const schedstat = openSync(`/proc/self/task/${process.pid}/schedstat`, "r");
const bytes = Buffer.alloc(128);
process.once("exit", () => closeSync(schedstat));

function now() {
  const [cpuNs, waitedNs] = bytes.latin1Slice(0, readSync(schedstat, bytes, 0, bytes.length, 0)).split(" ");
  return { atMs: performance.now(), cpuMs: Number(cpuNs) / 1e6, waitedMs: Number(waitedNs) / 1e6 };
}

let last = now();
let longest = { longestMs: 0, ownMs: 0, cpuMs: 0 };
setInterval(() => {
  const at = now();
  // The timer's own step is no blocking.
  const gapMs = Math.max(at.atMs - last.atMs - STEP_MS, 0);
  longest = {
    longestMs: Math.max(longest.longestMs, gapMs),
    ownMs: Math.max(longest.ownMs, gapMs - (at.waitedMs - last.waitedMs)),
    cpuMs: Math.max(longest.cpuMs, at.cpuMs - last.cpuMs),
  };
  last = at;
}, STEP_MS).unref();

process.on("SIGUSR2", () => {
  writeFileSync(process.env.MINKE_DELAY_FILE, JSON.stringify(longest));
  longest = { longestMs: 0, ownMs: 0, cpuMs: 0 };
});
