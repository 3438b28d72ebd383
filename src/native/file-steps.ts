/**
 * Small operations on files in one trip to the thread pool, and trees removed as a whole: each
 * trip costs more than a mkdir does.
 */
import { type RuntimeError, toRuntimeError } from "../base/errors.js";
import { callAsync, toNativeError } from "./addon.js";

/** One operation; `bytes` as UTF-8 where they are a string, `mode` less the umask. */
export type FileStep =
  /** Fails with EEXIST where it is there. */
  | { readonly make: "directory"; readonly path: string; readonly mode: number }
  /** With its parents, of the same mode; is there or is made. */
  | { readonly make: "directories"; readonly path: string; readonly mode: number }
  /** Made, or written over in place. */
  | { readonly make: "file"; readonly path: string; readonly mode: number; readonly bytes: string | Buffer }
  /** As `file`, with what is in another, 1 MiB at most; empty where that cannot be read. */
  | { readonly make: "copy"; readonly path: string; readonly mode: number; readonly from: string }
  /** With one write(2), as the files of cgroups and sysctls want it; must be there. */
  | { readonly make: "write"; readonly path: string; readonly bytes: string }
  | RecordStep
  /** Removes a file by making it a spare, which a `record` is written through. What is not there is removed. */
  | { readonly make: "spare"; readonly path: string; readonly spare: string }
  /**
   * `directory`: an empty one; `tree`: as `removeTree`; `cgroup`: with those below it, EBUSY where a process is
   * in one of them. What is not there is removed.
   */
  | { readonly remove: "file" | "directory" | "tree" | "cgroup"; readonly path: string };

/**
 * Replaces a file as a whole, by way of a spare file of the same directory that is made where it is
 * missing: no inode is made or freed, which ext4 makes dear where many were deleted lately. Not
 * durable. On failure the old file stays, and the spare is gone. `bytes` are two at least. One at most
 * among steps, this or `spare`.
 */
export interface RecordStep {
  readonly make: "record";
  readonly path: string;
  readonly mode: number;
  readonly bytes: Buffer;
  readonly spare: string;
}

/** How far steps came. */
export interface StepsOutcome {
  /** Why `failed` failed; without it all are done. */
  readonly error?: RuntimeError | undefined;
  readonly failed?: number | undefined;
  /** Whether the spare is there again, or is there now. */
  readonly hasSpare: boolean;
}

const KINDS = { directory: 0, directories: 1, file: 2, write: 3, copy: 4, record: 5, spare: 6 } as const;
const REMOVALS = { file: 7, directory: 8, tree: 9, cgroup: 10 } as const;

/**
 * Runs operations in order, up to the first that fails. What was done before it stays.
 *
 * @throws RuntimeError by errno that names the path
 */
export async function runFileSteps(steps: readonly FileStep[]): Promise<void> {
  const { error } = await tryFileSteps(steps);
  if (error) throw error;
}

/** As `runFileSteps`, for who has to know how far they came. */
export async function tryFileSteps(steps: readonly FileStep[]): Promise<StepsOutcome> {
  const outcome = await callAsync("write files", (native) =>
    native.runFileSteps(
      ...steps.flatMap((step) => [
        "make" in step ? KINDS[step.make] : REMOVALS[step.remove],
        step.path,
        "mode" in step ? step.mode : 0,
        bytesOf(step),
        "spare" in step ? step.spare : undefined,
      ]),
    ),
  );
  if (typeof outcome === "boolean") return { hasSpare: outcome };
  const failed = steps[outcome.step];
  const error = toNativeError(outcome, `${failed && verbOf(failed)} "${failed?.path}"`);
  return { error: toRuntimeError(error), failed: outcome.step, hasSpare: outcome.hasSpare };
}

function verbOf(step: FileStep): string {
  if (!("make" in step) || step.make === "spare") return "remove";
  return step.make.startsWith("dir") ? "make" : "write";
}

function bytesOf(step: FileStep): string | Buffer {
  if ("from" in step) return step.from;
  return "bytes" in step ? step.bytes : "";
}

/**
 * Removes a directory and all below it, whatever a container left there: no link is followed, no
 * mount is entered, no depth is too deep. Succeeds where it does not exist.
 *
 * @throws RuntimeError by errno; EBUSY: something is mounted below it
 */
export function removeTree(path: string): Promise<void> {
  return callAsync(`remove "${path}"`, (native) => native.removeTree(path));
}

/**
 * Removes a cgroup and those below it; one that is gone is removed.
 *
 * @returns false where processes are in one of them
 */
export function removeCgroups(path: string): Promise<boolean> {
  return callAsync(`remove cgroup "${path}"`, (native) => native.removeCgroups(path));
}
