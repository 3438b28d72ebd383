/**
 * What is traced: the built store at work on a root of its own, in one process. Before and after
 * each step it says so on standard output, which the trace holds among the calls.
 *
 *   workload.mjs ROOT STEPS      STEPS: a JSON array of { id, op, … }; an array inside runs side by side
 */
import { mkdirSync, writeSync } from "node:fs";
import { ImageStore } from "../../../dist/image/image-store.js";
import { Paths } from "../../../dist/settings/paths.js";
import { FileStore } from "../../../dist/state/store.js";

const [root = "", steps = "[]"] = process.argv.slice(2);
process.umask(0o022);
const paths = new Paths(root, `${root}-run`);
// As main.ts does, before anything is opened.
mkdirSync(paths.tmp, { recursive: true, mode: 0o700 });

const say = (/** @type {string} */ word, /** @type {number} */ id) => writeSync(1, `${word} ${id}\n`);
const records = new Map();
/** @type {ImageStore} */
let images;

async function open() {
  images = await ImageStore.open(paths, { platform: { os: "linux", architecture: "amd64" } });
  for (const noun of ["pods", "configmaps", "secrets"]) {
    const dir = paths.durableState(/** @type {"pods"} */ (noun));
    records.set(noun, await FileStore.open({ dir, storeClass: "durable", quarantine: paths.quarantine, version: 1 }));
  }
}

const operations = {
  pull: (step) => images.pull(step.ref),
  load: (step) => images.loadLayout(step.path),
  remove: (step) => images.remove(step.ref),
  // The images without a name.
  prune: () => images.care.prune({ all: false, dryRun: false, includesCri: false }),
  put: (step) => records.get(step.noun).put(step.name, { value: step.value }),
  delete: (step) => records.get(step.noun).remove(step.name),
  reopen: async () => {
    await images.close();
    await open();
  },
};

async function run(step) {
  if (Array.isArray(step)) {
    await Promise.all(step.map(run));
    return;
  }
  say("begin", step.id);
  try {
    await operations[step.op](step);
    say("done", step.id);
  } catch (err) {
    say(`failed ${err.code}`, step.id);
  }
}

await open();
for (const step of JSON.parse(steps)) await run(step);
await images.close();
