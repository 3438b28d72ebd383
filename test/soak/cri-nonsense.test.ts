/**
 * Nonsense in every field of every request of CRI, in every class: a status that says whose fault it is, a daemon
 * that goes on, and nothing left. `npm test` does a sample of it. Needs root.
 */
import { expect, test } from "vitest";
import { nonsenseCases, PROTO, sample } from "../harness/cri-nonsense.js";
import { randomOf } from "../harness/random.js";
import { NonsenseRun } from "../harness/cri-nonsense-run.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { scaled } from "./scale.js";

const bench = useCriDaemon();
/** Another number is another sample. */
const seed = Number(process.env["MINKE_NONSENSE_SEED"] ?? 2721727172);

test.each(PROTO.methods)(
  "$path answers every nonsense with a status of its own",
  async (method) => {
    const all = nonsenseCases(method);
    const chosen = sample(all, scaled(all.length), randomOf(seed));
    console.log(`${method.path}: ${chosen.length} of ${all.length}, MINKE_NONSENSE_SEED=${seed}`);
    const run = await NonsenseRun.start(bench.daemon);
    try {
      expect(await run.complaints(chosen)).toEqual([]);
    } finally {
      await run.close();
    }
  },
  1_200_000,
);
