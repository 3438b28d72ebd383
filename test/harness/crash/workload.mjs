/**
 * What is traced: the built store at work on a root of its own, in one process. Before and after
 * each step it says so on standard output, which the trace holds among the calls.
 *
 *   workload.mjs ROOT STEPS      STEPS: a JSON array of { id, op, … }; an array inside runs side by side
 */
import {
  closeSync,
  createReadStream,
  createWriteStream,
  fsyncSync,
  mkdirSync,
  openSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { pipeline } from "node:stream/promises";
import { ImageStore } from "../../../dist/image/image-store.js";
import { Paths } from "../../../dist/settings/paths.js";
import { FileStore } from "../../../dist/state/store.js";

const [root = "", steps = "[]"] = process.argv.slice(2);
process.umask(0o022);
const paths = new Paths(root, `${root}-run`);
// As main.ts does, before anything is opened.
mkdirSync(paths.tmp, { recursive: true, mode: 0o700 });

/** @type {[any, "durable" | "boot"][]} */
const NOUNS = [
  ["pods", "durable"],
  ["configmaps", "durable"],
  ["secrets", "durable"],
  ["attachments", "durable"],
  ["leases", "boot"],
  ["containers", "boot"],
];

const say = (/** @type {string} */ word, /** @type {number} */ id) => writeSync(1, `${word} ${id}\n`);
const records = new Map();
/** @type {ImageStore} */
let images;

async function open() {
  images = await ImageStore.open(paths, { platform: { os: "linux", architecture: "amd64" } });
  for (const [noun, storeClass] of NOUNS) {
    const dir = storeClass === "boot" ? paths.bootState(noun) : paths.durableState(noun);
    records.set(noun, await FileStore.open({ dir, storeClass, quarantine: paths.quarantine, version: 1 }));
  }
}

const operations = {
  pull: (step) => images.pull(step.ref),
  load: (step) => images.loadLayout(step.path),
  remove: (step) => images.remove(step.ref),
  // As the API has it from a client's standard input.
  loadStream: (step) => images.loadLayout(createReadStream(step.path)),
  tag: (step) => images.care.tag(step.ref, step.name),
  untag: (step) => images.care.removeByName(step.name, false),
  save: async (step) => {
    const request = {
      names: [step.ref],
      format: step.format,
      compression: "zstd",
      signal: new AbortController().signal,
    };
    await pipeline(await images.care.save(request), createWriteStream(step.path));
  },
  // What a disk that lies does: a file of the topmost layer is gone.
  damage: (step) => {
    const file = `${images.lowerDirs(images.resolve(step.ref).id)[0]}/${step.path}`;
    unlinkSync(file);
    const dir = openSync(dirname(file), "r");
    fsyncSync(dir);
    closeSync(dir);
  },
  verify: (step) => verify(step.ref, false),
  repair: (step) => verify(step.ref, true),
  // The images without a name.
  prune: () => images.care.prune({ all: false, dryRun: false, includesCri: false }),
  put: (step) => records.get(step.noun).put(step.name, { value: step.value }),
  delete: (step) => records.get(step.noun).remove(step.name),
  reopen: async () => {
    await images.close();
    await open();
  },
};

async function verify(/** @type {string} */ ref, /** @type {boolean} */ repair) {
  const states = [];
  const onPart = (/** @type {{ state: string, repairError?: string }} */ part) => states.push(part);
  await images.care.verify({ names: [ref], repair, signal: new AbortController().signal, onPart });
  const unrepaired = states.find(({ repairError }) => repairError !== undefined);
  if (unrepaired) throw Object.assign(new Error(unrepaired.repairError), { code: "NOT_REPAIRED" });
}

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
