/**
 * Loaded into a daemon with `--import`: writes how long its event loop was blocked since the last
 * SIGUSR2, at each SIGUSR2, as JSON to the file of MINKE_DELAY_FILE.
 *
 * `longestMs` is what a timer saw. `ownMs` is the longest without the time in which the thread was
 * ready and had no processor (/proc/PID/task/TID/schedstat): what other load on the machine does to
 * it is not the daemon's. `idleMs` in pull.mjs is `longestMs` of the same daemon doing nothing.
 */
import { readFileSync, writeFileSync } from "node:fs";

const STEP_MS = 1;
const waitedMs = () => Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, "latin1").split(" ")[1]) / 1e6;

let last = { atMs: performance.now(), waitedMs: waitedMs() };
let longest = { longestMs: 0, ownMs: 0 };
setInterval(() => {
  const now = { atMs: performance.now(), waitedMs: waitedMs() };
  // The timer's own step is no blocking.
  const gapMs = Math.max(now.atMs - last.atMs - STEP_MS, 0);
  longest = {
    longestMs: Math.max(longest.longestMs, gapMs),
    ownMs: Math.max(longest.ownMs, gapMs - (now.waitedMs - last.waitedMs)),
  };
  last = now;
}, STEP_MS).unref();

process.on("SIGUSR2", () => {
  writeFileSync(process.env.MINKE_DELAY_FILE, JSON.stringify(longest));
  longest = { longestMs: 0, ownMs: 0 };
});
