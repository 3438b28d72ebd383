/** The client of `npm run bench -- cri` that is as a kubelet is (cri-client/main.go): built into `.cache/bin`, driven by lines. */
import { spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { goProgram } from "../conformance/go-tools.mjs";
import { startNodeClient } from "./cri-node-client.mjs";

const project = fileURLToPath(new URL("../..", import.meta.url));
const LEAST_GO = [1, 26];

/**
 * The client asked for: "go", "node", or undefined for Go's where it can be built.
 *
 * @param {string | undefined} asked @param {(() => unknown)[]} undo
 */
export async function startClient(asked, undo) {
  const client = asked === "node" || !(asked === "go" || hasGo()) ? startNodeClient() : await startGoClient();
  undo.push(() => client.close());
  return client;
}

function hasGo() {
  const version = /^go version go(\d+)\.(\d+)/.exec(spawnSync("go", ["version"], { encoding: "utf8" }).stdout ?? "");
  const [major, minor] = (version ?? []).slice(1).map(Number);
  if (major > LEAST_GO[0] || (major === LEAST_GO[0] && minor >= LEAST_GO[1])) return true;
  console.log(
    `*** Go ${LEAST_GO.join(".")} or later is missing: the client is Node's, which costs more than a kubelet's ***`,
  );
  return false;
}

/** A contender is `{ socket, image }`. Pods started are remembered by its socket until they are stopped. */
async function startGoClient() {
  const dir = join(project, "test/perf/cri-client");
  const program = goProgram(project, { name: "cri-client", dir, command: ["build", "."], sources: ["main.go"] });
  const child = spawn(program, { stdio: ["pipe", "pipe", "inherit"], detached: true });
  // An answer that does not come says it.
  child.stdin.on("error", () => undefined);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error("the client ended");
    const found = JSON.parse(value);
    if (found.error) throw new Error(found.error);
    return found;
  };
  const ask = (command) => {
    child.stdin.write(`${JSON.stringify(command)}\n`);
    return answer();
  };
  const { client } = await answer();
  return {
    name: client,
    /** @returns {Promise<Record<string, number>>} milliseconds of each verb */
    life: ({ socket, image }, name) => ask({ do: "life", socket, image, name }),
    /** @returns {Promise<{ seconds: number }>} */
    start: ({ socket, image }, { pods, workers, name }) => ask({ do: "start", socket, image, pods, workers, name }),
    /** @returns {Promise<Record<"sandboxes" | "containers", number[]>>} milliseconds */
    list: ({ socket }, times) => ask({ do: "list", socket, lists: times }),
    /** @returns {Promise<{ seconds: number }>} */
    stop: ({ socket }, workers) => ask({ do: "stop", socket, workers }),
    close: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGKILL");
      await ended;
    },
  };
}
