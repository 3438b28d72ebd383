/**
 * A host port for a pod of a test. Not one that the kernel chooses: those it also gives to any
 * connection of this machine, a moment later.
 */
import { createServer } from "node:net";

/** Below /proc/sys/net/ipv4/ip_local_port_range, above the ports that tests of the native core write down. */
const FIRST = 23_000;
const COUNT = 9_000;
let asked = 0;

/** One that nobody listens on, and that no other call in this process was given. */
export async function freePort(): Promise<number> {
  for (; asked < COUNT; ) {
    const port = FIRST + ((process.pid * 97 + asked++) % COUNT);
    if (await isFree(port)) return port;
  }
  throw new Error(`no free port from ${FIRST} to ${FIRST + COUNT - 1}`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "::", () => server.close(() => resolve(true)));
  });
}
