/**
 * Loaded into a daemon with `--import`: writes the longest time that its event loop was blocked
 * since the last SIGUSR2, in ms, to the file of MINKE_DELAY_FILE, at each SIGUSR2.
 */
import { writeFileSync } from "node:fs";
import { monitorEventLoopDelay } from "node:perf_hooks";

const STEP_MS = 1;
const delay = monitorEventLoopDelay({ resolution: STEP_MS });
delay.enable();
process.on("SIGUSR2", () => {
  // The timer's own step is no blocking.
  writeFileSync(process.env.MINKE_DELAY_FILE, String(Math.max(delay.max / 1e6 - STEP_MS, 0)));
  delay.reset();
});
