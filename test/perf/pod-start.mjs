/**
 * `npm run bench -- pod-start [--runs N] [--containers N]`: how long a pod takes to start, with
 * the floor program's figure beside it, interleaved in one run on the same machine.
 *
 * A start is measured at the API socket: from the request that makes the pod to the watch event
 * in which every container runs. The image is cached. The daemon is one of its own.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { startDaemon } from "./daemon.mjs";
import { heading, median, quantile, row } from "./figures.mjs";
import { startFloor } from "./floor.mjs";
import { withUndo } from "./undo.mjs";

const podsPath = "/api/v1/namespaces/default/pods";
const WARM_UP_RUNS = 3;
const DEADLINE_MS = 30_000;

const { values } = parseArgs({
  allowPositionals: true,
  options: { runs: { type: "string", default: "50" }, containers: { type: "string", default: "1" } },
});
const runs = Number(values.runs);
const containers = Number(values.containers);
if (process.getuid() !== 0 || !(runs > 0) || !(containers > 0)) {
  console.error("usage (as root): npm run bench -- pod-start [--runs N] [--containers N]");
  process.exit(2);
}

const folder = mkdtempSync(join(tmpdir(), "minke-bench-"));
const cgroupRoot = `minke-bench-${process.pid}`;
await withUndo(async (undo) => {
  undo.push(() => rmSync(folder, { recursive: true, force: true }));
  const floor = startFloor(folder, `${cgroupRoot}-floor`, undo);
  const daemon = await startDaemon(folder, cgroupRoot, undo);
  const watch = await openWatch(daemon.apiSocket);
  const figures = { floor: [], pod: [] };
  for (let i = -WARM_UP_RUNS; i < runs; i++) {
    const floorMs = await floor();
    const podMs = await startPod(daemon, watch, `bench-${i + WARM_UP_RUNS}`);
    if (i >= 0) {
      figures.floor.push(floorMs);
      figures.pod.push(podMs);
    }
  }
  watch.close();
  print(figures);
});

function print({ floor, pod }) {
  const columns = (list) => [median(list), quantile(list, 0.9), quantile(list, 0)];
  console.log(heading(`${runs} runs, in ms`));
  console.log(row("", ["median", "p90", "least"]));
  console.log(row("floor", columns(floor)));
  console.log(row(`pod-start, ${containers} container${containers > 1 ? "s" : ""}`, columns(pod)));
  console.log(`ratio of the medians: ${(median(pod) / median(floor)).toFixed(2)}`);
}

/** Watch events of pods; `until` waits for one that fits, from those that come after the call. */
function openWatch(socketPath) {
  return new Promise((resolve, reject) => {
    const waiting = new Set();
    const call = request({ socketPath, path: `${podsPath}?watch=true` }, (response) => {
      const lines = createInterface({ input: response });
      // Ours to end: `close` cuts the connection.
      lines.on("error", () => undefined);
      lines.on("line", (line) => {
        const event = JSON.parse(line);
        for (const one of waiting) {
          if (!one.fits(event)) continue;
          waiting.delete(one);
          one.resolve(performance.now());
        }
      });
      const until = (what, fits) =>
        new Promise((done, fail) => {
          const one = { fits, resolve: done };
          waiting.add(one);
          setTimeout(
            () => waiting.delete(one) && fail(new Error(`no event within ${DEADLINE_MS} ms: ${what}`)),
            DEADLINE_MS,
          ).unref();
        });
      resolve({ until, close: () => call.destroy() });
    });
    call.once("error", reject);
    call.end();
  });
}

async function startPod({ ask }, watch, name) {
  const started = watch.until(`${name} runs`, ({ object }) => {
    const statuses = object.metadata?.name === name ? (object.status?.containerStatuses ?? []) : [];
    return statuses.length === containers && statuses.every(({ state }) => state?.running);
  });
  const begin = performance.now();
  const { status, text } = await ask("POST", podsPath, {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name },
    spec: {
      restartPolicy: "Never",
      terminationGracePeriodSeconds: 0,
      containers: Array.from({ length: containers }, (_, i) => ({
        name: `main-${i}`,
        image: "minke.test/busybox:1",
        imagePullPolicy: "IfNotPresent",
        command: ["sleep", "1000"],
      })),
    },
  });
  if (status !== 201 && status !== 200) throw new Error(`make pod ${name}: ${status} ${text}`);
  const elapsedMs = (await started) - begin;
  const gone = watch.until(
    `${name} is gone`,
    ({ type, object }) => type === "DELETED" && object.metadata?.name === name,
  );
  await ask("DELETE", `${podsPath}/${name}?gracePeriodSeconds=0`);
  await gone;
  return elapsedMs;
}
