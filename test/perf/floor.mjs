/** The floor program (floor.c) as a function: what one pod costs the kernel, with no runtime at all. */
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const SOURCE = fileURLToPath(new URL("floor.c", import.meta.url));

/**
 * @param {string} folder empty scratch folder that the caller removes
 * @param {string} cgroupName of a cgroup that is made below the root of cgroup v2, and removed at the end
 * @param {(() => Promise<void>)[]} undo gets what ends it
 * @returns {() => Promise<number>} one pod a call, in milliseconds
 */
export function startFloor(folder, cgroupName, undo) {
  const scratch = join(folder, "floor");
  const cgroup = join(findCgroup2(), cgroupName);
  mkdirSync(join(scratch, "lower/bin"), { recursive: true });
  mkdirSync(join(scratch, "root"));
  mkdirSync(cgroup);
  const program = join(scratch, "floor");
  compile(["-O2", "-o", program, SOURCE, "-lpthread"]);
  const trivial = join(scratch, "true.c");
  writeFileSync(trivial, "int main(void) { return 0; }\n");
  compile(["-O2", "-static", "-o", join(scratch, "lower/bin/true"), trivial]);

  const child = spawn(program, [scratch, cgroup], { stdio: ["pipe", "pipe", "inherit"], detached: true });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  undo.push(async () => {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.stdin.end();
    if (child.exitCode === null) await ended;
    for (const entry of readdirSync(cgroup, { withFileTypes: true })) {
      if (entry.isDirectory()) rmdirSync(join(cgroup, entry.name));
    }
    rmdirSync(cgroup);
  });
  return async () => {
    child.stdin.write("\n");
    const { value, done } = await lines.next();
    if (done) throw new Error("the floor program ended");
    return JSON.parse(value).totalUs / 1000;
  };
}

function compile(args) {
  const { status, stderr } = spawnSync("gcc", args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`gcc ${args.join(" ")}:\n${stderr}`);
}

/** Where cgroup v2 is mounted. */
export function findCgroup2() {
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const [before, after] = line.split(" - ");
    if (after?.startsWith("cgroup2 ")) return before.split(" ")[4];
  }
  throw new Error("cgroup v2 is not mounted");
}
