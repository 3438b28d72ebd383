/**
 * Files of /proc and of cgroups, for figures: what is asked for in one turn of the event loop goes to the
 * thread pool in a few calls. A read of node:fs takes four trips there, and a hundred pods have thousands of files.
 */
import { callAsync } from "./addon.js";

/** Of one call: enough that its trip costs little, and few enough that the pool's threads share what is asked. */
const MOST_IN_CALL = 128;

/** Collects what is asked for until the turn ends. */
class Batch<Answer> {
  readonly #run: (asked: readonly string[]) => Promise<readonly Answer[]>;
  #waiting: {
    readonly asked: string;
    readonly resolve: (answer: Answer) => void;
    readonly reject: (reason: unknown) => void;
  }[] = [];

  constructor(run: (asked: readonly string[]) => Promise<readonly Answer[]>) {
    this.#run = run;
  }

  ask(asked: string): Promise<Answer> {
    return new Promise((resolve, reject) => {
      // A tick's turn comes when all promises that have settled by now have been heard.
      if (this.#waiting.length === 0) process.nextTick(() => this.#flush());
      this.#waiting.push({ asked, resolve, reject });
    });
  }

  #flush(): void {
    const all = this.#waiting;
    this.#waiting = [];
    for (let at = 0; at < all.length; at += MOST_IN_CALL) {
      const some = all.slice(at, at + MOST_IN_CALL);
      this.#run(some.map(({ asked }) => asked)).then(
        (answers) => some.forEach(({ resolve }, index) => resolve(answers[index] as Answer)),
        (err: unknown) => some.forEach(({ reject }) => reject(err)),
      );
    }
  }
}

const files = new Batch((paths) => callAsync("read files", (native) => native.readKernelFiles(...paths)));
const cgroups = new Batch((dirs) => callAsync("read cgroups", (native) => native.processesBelow(...dirs)));
const descriptors = new Batch((pids) => callAsync("count descriptors", (native) => native.countDescriptors(...pids)));

/** The text of a file of the kernel's, of 4 MiB at most; `undefined` where it is not there or cannot be read. */
export function readKernelFile(path: string): Promise<string | undefined> {
  return files.ask(path);
}

/** Pids in a cgroup and all below it; none of one that is gone. @param dir absolute */
export function processesBelow(dir: string): Promise<readonly number[]> {
  return cgroups.ask(dir);
}

/** A process's open descriptors, and how many of them are sockets: 0 of one that has ended. */
export async function countDescriptors(pid: number): Promise<{ readonly all: number; readonly sockets: number }> {
  const [all, sockets] = await descriptors.ask(String(pid));
  return { all, sockets };
}
