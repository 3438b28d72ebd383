/**
 * One run of the program `minke-layer`: its streams, its end, and a way to end it. It is started
 * without the event loop standing still for it, and reaped here.
 */
import { once } from "node:events";
import { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { builtFile, type ChildExit, type Fd, pidfdSendSignal, reapChild, spawnProgram } from "../native/index.js";

const EXECUTABLE = builtFile("minke-layer");
const MAX_REAP_STEP_MS = 50;

export interface LayerProgram {
  readonly input: Socket | undefined;
  /** To be read to its end, or destroyed: `ended` waits for that. */
  readonly output: Socket;
  /** Where it has none of its own, errors go to `output`. */
  readonly errors: Socket | undefined;
  readonly ended: Promise<ChildExit>;
  /** Does nothing once it has ended. */
  kill(): void;
}

/** @throws RuntimeError whose syscall is `posix_spawn` */
export async function startProgram(
  args: readonly string[],
  wants: { readonly hasInput: boolean; readonly hasErrors?: boolean },
): Promise<LayerProgram> {
  const { pidfd, input, output, errors } = await spawnProgram(EXECUTABLE, args, wants);
  let isEnded = false;
  const readable = (fd: Fd) => new Socket({ fd: fd.take(), readable: true, writable: false });
  const stdout = readable(output);
  const reap = async () => {
    if (!stdout.closed) await once(stdout, "close").catch(() => undefined);
    // Its output ends with it, or a moment before.
    for (let waitMs = 1; ; waitMs = Math.min(waitMs * 2, MAX_REAP_STEP_MS)) {
      const exit = reapChild(pidfd);
      if (exit) {
        isEnded = true;
        pidfd.close();
        return exit;
      }
      await sleep(waitMs);
    }
  };
  return {
    input: input && new Socket({ fd: input.take(), readable: false, writable: true }),
    output: stdout,
    errors: errors && readable(errors),
    ended: reap(),
    kill: () => {
      if (!isEnded) pidfdSendSignal(pidfd, "SIGKILL");
    },
  };
}
