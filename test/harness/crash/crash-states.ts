/**
 * From steps to crash states to breaches: traces the workload, replays every state in which a
 * crash can leave its root, and opens a real store on each.
 */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
// @ts-expect-error plain JavaScript with JSDoc, outside of this project's root
import { tarArchive } from "../../../rootfs-fixtures/tar-writer.mjs";
import { randomOf } from "../random.js";
import { KILLED } from "./disk-model.js";
import { type CrashState, Replay, type TarEntry } from "./replay.js";
import { BOOT_NOUNS, type Expected, examine, type Trees } from "./store-check.js";
import { type SystemCall, traceCommand } from "./system-calls.js";

const WORKLOAD = fileURLToPath(new URL("workload.mjs", import.meta.url));

export interface Step {
  readonly op:
    | ("pull" | "load" | "loadStream" | "save" | "tag" | "untag" | "remove" | "prune")
    | ("damage" | "verify" | "repair" | "put" | "delete" | "reopen");
  readonly ref?: string;
  readonly path?: string;
  readonly format?: string;
  readonly noun?: string;
  readonly name?: string;
  readonly value?: string | undefined;
  /** What stands under each key once the step is done; `undefined`: nothing. */
  readonly gives: Readonly<Record<string, string | undefined>>;
  /** What may stand there while it is done, besides. */
  readonly passes?: Readonly<Record<string, string>>;
}

/** An array inside is done side by side. */
export type Steps = readonly (Step | readonly Step[])[];

export interface Recording {
  readonly calls: readonly SystemCall[];
  readonly root: string;
  readonly steps: readonly Step[];
}

/** Runs the steps under strace on a root that is left in `folder`. */
export function record(folder: string, steps: Steps): Recording {
  const root = join(realpathSync(folder), "root");
  mkdirSync(root, { mode: 0o700 });
  const { flat, script } = scriptOf(steps);
  const calls = traceCommand([process.execPath, WORKLOAD, root, script], join(folder, "trace"));
  return { calls, root, steps: flat };
}

/** What became of a program that was told to do steps. */
export interface Ending {
  readonly signal: string | null;
  /** Lines of its standard output. */
  readonly said: readonly string[];
  readonly errors: string;
}

/** Runs the steps on a root that is there already. @param wrapper a command in front of the program's */
export function runSteps(
  root: string,
  steps: Steps,
  options: { readonly env?: Readonly<Record<string, string>>; readonly wrapper?: readonly string[] } = {},
): Promise<Ending> {
  const [program, ...args] = [...(options.wrapper ?? []), process.execPath, WORKLOAD, root, scriptOf(steps).script];
  return new Promise((resolve) => {
    const child = execFile(program, args, { env: { ...process.env, ...options.env } }, (_, stdout, stderr) =>
      resolve({ signal: child.signalCode, said: stdout.split("\n").filter(Boolean), errors: stderr }),
    );
  });
}

function scriptOf(steps: Steps): { readonly flat: readonly Step[]; readonly script: string } {
  const flat: Step[] = [];
  const numbered = (step: Step) => ({ ...step, id: flat.push(step) - 1 });
  return { flat, script: JSON.stringify(steps.map((step) => ("op" in step ? numbered(step) : step.map(numbered)))) };
}

/** All states, and how many were possible before equal ones were counted once. */
export function statesOf(recording: Recording): { states: CrashState[]; candidates: number } {
  const replay = new Replay(recording.root, randomOf(1));
  const states = [...replay.states(recording.calls)];
  return { states, candidates: replay.candidates };
}

/** What may be there, by what the program had said when it was cut off. */
export function expectedAfter(said: readonly string[], steps: readonly Step[]): Expected {
  const expected = new Map<string, Set<string | undefined>>();
  for (const { gives } of steps) for (const key of Object.keys(gives)) expected.set(key, new Set([undefined]));
  for (const line of said) {
    const id = Number(line.slice(line.lastIndexOf(" ")));
    const { gives = {}, passes = {} } = steps[id] ?? {};
    for (const [key, value] of [...Object.entries(gives), ...Object.entries(passes)]) {
      if (line.startsWith("done") && key in passes && passes[key] === value) continue;
      if (line.startsWith("done")) expected.set(key, new Set([value]));
      else expected.get(key)?.add(value);
    }
  }
  return expected;
}

/** A folder for what takes thousands of syncs and is of no worth: nothing there waits for a disk. */
export const inMemory = (): string => (existsSync("/dev/shm") ? "/dev/shm" : tmpdir());

/** After a power cut, of records of this boot anything may be there: they are not read again. */
function withoutBoot(state: CrashState, steps: readonly Step[]): readonly Step[] {
  if (state.label.endsWith(`: ${KILLED}`)) return steps;
  const isBoot = (key: string) => BOOT_NOUNS.some((noun) => key.startsWith(`${noun} `));
  return steps.map((step) => ({
    ...step,
    gives: Object.fromEntries(Object.entries(step.gives).filter(([key]) => !isBoot(key))),
  }));
}

/** Writes the state down, opens a store on it, and says what is wrong. */
export async function problemsIn(state: CrashState, steps: readonly Step[], trees: Trees): Promise<string[]> {
  const folder = mkdtempSync(join(inMemory(), "minke-crash-state-"));
  try {
    const root = join(folder, "root");
    mkdirSync(root, { mode: 0o700 });
    await writeEntries(root, state.entries);
    const { problems } = await examine(root, expectedAfter(state.said, withoutBoot(state, steps)), trees);
    return problems.map((problem) => `${state.label}: ${problem.replaceAll(root, "")}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** All of them where CI asks for it, else every eighth: a state takes some 20 ms. */
export const SHARE = process.env["MINKE_CRASH_STATES"] === "all" ? 1 : 8;
const SIDE_BY_SIDE = 4;

/** What is wrong with the states, at most 20 sentences of it. */
export async function problemsOfAll(
  states: readonly CrashState[],
  steps: readonly Step[],
  trees: Trees,
): Promise<string[]> {
  const problems: string[] = [];
  const left = [...states];
  const worker = async () => {
    for (let state = left.pop(); state && problems.length < 20; state = left.pop()) {
      problems.push(...(await problemsIn(state, steps, trees)));
    }
  };
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker));
  return problems.slice(0, 20);
}

/** One program for all entries, whatever their kind: Node.js makes no devices and no FIFOs. */
export async function writeEntries(root: string, entries: readonly TarEntry[]): Promise<void> {
  const options = ["--extract", "--same-owner", "--same-permissions", "--numeric-owner", "--delay-directory-restore"];
  const args = [...options, "--xattrs", "--xattrs-include=*", "--file=-", "-C", root];
  await new Promise<void>((resolve, reject) => {
    const child = execFile("tar", args, (err) => (err ? reject(err) : resolve()));
    child.stdin?.end(tarArchive(entries) as Buffer);
  });
}
