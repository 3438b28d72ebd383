/**
 * What a benchmark has made, undone newest first at its end, also where it throws or gets a signal: Ctrl-C, SIGTERM or
 * SIGHUP. Children get a process group of their own (`detached`), so that a terminal's Ctrl-C leaves them to us.
 */
const EXIT_STATUS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };

/** @param {(undo: (() => unknown)[]) => Promise<void>} work pushes a step for each thing that it makes */
export async function withUndo(work) {
  const undo = [];
  let undone;
  const unwind = () => (undone ??= runAll(undo));
  for (const [signal, status] of Object.entries(EXIT_STATUS)) {
    process.on(signal, () => {
      if (!undone) console.error(`${signal}: cleaning up`);
      void unwind().finally(() => process.exit(status));
    });
  }
  // Such as a pipe that nobody reads any more: `| head`.
  process.on("uncaughtException", (err) => {
    process.stderr.write(`${err.stack}\n`);
    void unwind().finally(() => process.exit(1));
  });
  let problem;
  try {
    await work(undo);
  } catch (err) {
    // What a signal has cut off fails in its own way, which says nothing.
    if (undone) await new Promise(() => undefined);
    problem = err;
  }
  await unwind();
  if (problem) throw problem;
}

/** Every step, whatever the others do; a step may push nothing more. */
async function runAll(undo) {
  for (let step = undo.pop(); step; step = undo.pop()) {
    try {
      await step();
    } catch (err) {
      process.exitCode = 1;
      console.error("could not undo a step:", err);
    }
  }
}
