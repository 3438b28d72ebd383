/**
 * How Node.js is started for the daemon; the first line of `cli/main.ts` has the same words.
 *
 * Garbage is collected by the event loop's thread alone, in steps. With helper threads a step ends when the last
 * helper has had a processor: up to 240 ms were seen where other programs had taken both. And the young
 * generation, which holds the bytes of a pull, stays small. Neither can be said to a V8 that runs already
 * (`--no-concurrent-marking` then ends it at the next collection). `--expose-gc` is for the end of the start
 * (base/start-memory.ts).
 */
export const DAEMON_NODE_FLAGS: readonly string[] = ["--single-threaded-gc", "--max-semi-space-size=2", "--expose-gc"];

/**
 * One heap of malloc(3) for all threads: what it keeps for each of its own, a megabyte or two, no other can use.
 * With 50 pods 5 MB of 102; threads of the daemon hold little and not for long. Read when a process starts.
 */
export const DAEMON_ENV: Readonly<Record<string, string>> = { MALLOC_ARENA_MAX: "1" };
