/** `npm run bench -- NAME`: each benchmark is a program of its own. */
const programs = {
  "pod-start": "./pod-start.mjs",
  cri: "./cri.mjs",
  oci: "./oci.mjs",
  pull: "./pull.mjs",
  memory: "./memory.mjs",
  "log-flood": "./log-flood.mjs",
};
const program = programs[process.argv[2]];
if (!program) {
  console.error(`usage: npm run bench -- ${Object.keys(programs).join("|")} [--runs N]`);
  process.exit(2);
}
await import(program);
