// @ts-check
/**
 * `npm run test:conformance [-- OPTIONS]`: critest, the conformance suite of CRI, against a daemon of its own.
 *
 *   --focus REGEX, --skip REGEX   only some specs; the list of expected failures is not compared then
 *   --seed N                      order of the specs; random and printed without
 *   --seeds COUNT                 so many runs, one after another, each with a random seed
 *   --parallel N                  so many specs at once
 *   --websocket                   streaming specs over WebSocket in the whole run, and over SPDY after it; else the other way round
 *   --keep                        leaves the work directory, with logs and the JSON report
 *
 * CRITEST=PROGRAM in the environment: this critest, and not the one that go.mod names.
 *
 * Ends with `N passed, N failed, N skipped`. What fails must be in expected.json with a reason, and what is
 * there must fail: a change in either direction fails the run.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { builtTool } from "./go-tools.mjs";
import { DIGEST_IMAGE, DIGEST_IN_CRITEST } from "./images.mjs";
import { builtLayout } from "./layout.mjs";
import { isOfficialProto } from "./proto.mjs";
import { pushLayout, startRegistry } from "./registry.mjs";
import { compareWithExpected, readReport } from "./report.mjs";

const PROJECT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const CACHE = join(PROJECT, ".cache/conformance");
const START_MS = 20_000;
const STOP_MS = 60_000;
/** Hosts that critest's references name. */
const HOSTS = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"];
/** cri-tools have it since their specs of NRI: after 1.36. */
const NRI_FLAG = "nri-socket";

const { values: options } = parseArgs({
  options: {
    focus: { type: "string" },
    skip: { type: "string" },
    seed: { type: "string" },
    seeds: { type: "string", default: "1" },
    parallel: { type: "string", default: "1" },
    websocket: { type: "boolean", default: false },
    keep: { type: "boolean", default: false },
  },
});

async function main() {
  if (spawnSync("go", ["version"]).status !== 0) {
    console.log("skipped: Go 1.26 or later is missing, which builds critest");
    if ((process.env["REQUIRE"] ?? "").split(",").some((need) => need === "go" || need === "all")) return 1;
    console.log("0 passed, 0 failed, 1 skipped");
    return 0;
  }
  const isOfficial = isOfficialProto(PROJECT);
  const critest = process.env["CRITEST"] || builtTool(PROJECT, "critest");
  if (options.parallel !== "1") builtTool(PROJECT, "ginkgo");
  const layout = builtLayout(PROJECT);
  const work = mkdtempSync(join(tmpdir(), "minke-cri-conformance-"));
  const registry = await startRegistry(work);
  let daemon;
  try {
    const digests = await pushLayout(layout, registry.address);
    daemon = await startDaemon(work, registry.address);
    const program = withDigest(critest, work, digests.get(DIGEST_IMAGE) ?? "");
    const hasNriSpecs = readFileSync(program).includes(NRI_FLAG);
    if (!hasNriSpecs) console.log("this critest has no specs of NRI");
    const sockets = { cri: daemon.socket, ...(hasNriSpecs && { nri: daemon.nriSocket }) };
    const seeds = options.seed ? [options.seed] : Array.from({ length: Number(options.seeds) }, randomSeed);
    let status = isOfficial ? 0 : 1;
    for (const seed of seeds) {
      for (const run of runsOf(seed)) status = (await runCritest(program, work, sockets, run)) || status;
    }
    if (seeds.length > 1)
      console.log(`${seeds.length} seeds: ${status === 0 ? "all as expected" : "not all as expected"}`);
    return status;
  } finally {
    await daemon?.close();
    await registry.close();
    if (options.keep) console.log(`kept: ${work}`);
    else rmSync(work, { recursive: true, force: true });
  }
}

/** A copy of critest that names our image by its digest, of the same length. @param {string} critest @param {string} work @param {string} digest */
function withDigest(critest, work, digest) {
  const bytes = readFileSync(critest);
  const hex = digest.replace("sha256:", "");
  let found = 0;
  for (let at = bytes.indexOf(DIGEST_IN_CRITEST); at >= 0; at = bytes.indexOf(DIGEST_IN_CRITEST, at)) {
    bytes.write(hex, at, "latin1");
    found++;
  }
  if (found === 0) throw new Error("critest does not name the digest that is to be replaced; another version?");
  const copy = join(work, "critest");
  writeFileSync(copy, bytes, { mode: 0o755 });
  return copy;
}

/** @param {string} work @param {string} registry */
async function startDaemon(work, registry) {
  const config = join(work, "config.toml");
  const hosts = HOSTS.map((host) => `[registries."${host}"]\nendpoint = "${registry}"\n`).join("");
  writeFileSync(
    config,
    `cgroup-root = "minke-cri-conformance"
tolerate-missing-controllers = true
[network]
bridge = "mkcri0"
mode = "builtin"
subnet-ipv4 = "10.207.0.0/17"
subnet-ipv6 = "fd6d:696e:6b65:207::/64"
${hosts}`,
  );
  const [root, run] = [join(work, "root"), join(work, "run")];
  const log = openSync(join(work, "daemon.log"), "a");
  const args = [join(PROJECT, "dist/cli/main.js"), "daemon", "--root", root, "--run", run, "--config", config];
  const child = spawn(process.execPath, args, { stdio: ["ignore", log, log] });
  const ended = once(child, "exit");
  const socket = join(run, "cri.sock");
  for (const giveUpAt = Date.now() + START_MS; !existsSync(socket); await sleep(50)) {
    if (child.exitCode === null && Date.now() < giveUpAt) continue;
    child.kill("SIGTERM");
    throw new Error(`the daemon did not start:\n${readFileSync(join(work, "daemon.log"), "utf8")}`);
  }
  return {
    socket,
    nriSocket: join(run, "nri.sock"),
    close: async () => {
      // Not spawnSync: the command waits for the daemon's end, which this process must reap.
      const stop = spawn(
        process.execPath,
        [join(PROJECT, "dist/cli/main.js"), "--root", root, "--run", run, "daemon", "stop", "--pods"],
        {
          stdio: ["ignore", "ignore", "inherit"],
          timeout: STOP_MS,
        },
      );
      const [status] = await once(stop, "exit");
      if (status !== 0) {
        console.log("could not stop the daemon with its pods");
        child.kill("SIGTERM");
      }
      await Promise.race([ended, sleep(10_000, undefined, { ref: false })]);
    },
  };
}

/**
 * @typedef {object} Run
 * @property {string} seed
 * @property {boolean} websocket
 * @property {string} [focus]
 */

/** A whole run is followed by the streaming specs over the other transport. @param {string} seed @returns {Run[]} */
function runsOf(seed) {
  const { focus, websocket } = options;
  /** @type {Run} */
  const first = { seed, websocket, ...(focus !== undefined && { focus }) };
  if (focus !== undefined || options.skip !== undefined) return [first];
  return [first, { seed, websocket: !websocket, focus: "support streaming interfaces" }];
}

const randomSeed = () => String(Math.floor(Math.random() * 100_000));

/** @param {string} program @param {string} work @param {{ cri: string, nri?: string }} sockets @param {Run} run */
async function runCritest(program, work, sockets, { seed, websocket, focus }) {
  const report = join(work, "report.json");
  const crictl = join(work, "crictl.yaml");
  writeFileSync(crictl, "");
  const args = [
    `--config=${crictl}`,
    `--runtime-endpoint=unix://${sockets.cri}`,
    ...(sockets.nri ? [`--${NRI_FLAG}=${sockets.nri}`] : []),
    `-ginkgo.seed=${seed}`,
    `-ginkgo.json-report=${report}`,
    "-ginkgo.no-color",
    ...(focus ? [`-ginkgo.focus=${focus}`] : []),
    ...(options.skip ? [`-ginkgo.skip=${options.skip}`] : []),
    // Go's own flag of this name is another one, and critest takes it for that where it is 1.
    ...(options.parallel === "1" ? [] : [`--parallel=${options.parallel}`]),
    ...(websocket ? ["--websocket-exec", "--websocket-attach", "--websocket-portforward"] : []),
  ];
  const atOnce = options.parallel === "1" ? "" : `, ${options.parallel} specs at once`;
  console.log(`critest, seed ${seed}, ${websocket ? "WebSocket" : "SPDY"}${focus ? `, "${focus}"` : ""}${atOnce}`);
  const output = join(work, "critest.log");
  const log = openSync(output, "w");
  // critest looks for ginkgo there.
  const env = { ...process.env, PATH: `${join(PROJECT, ".cache/bin")}:${process.env["PATH"] ?? ""}` };
  rmSync(report, { force: true });
  const child = spawn(program, args, { stdio: ["ignore", log, log], cwd: work, env });
  await once(child, "exit");
  if (!existsSync(report)) throw new Error(`critest wrote no report:\n${readFileSync(output, "utf8").slice(-4000)}`);
  mkdirSync(CACHE, { recursive: true });
  cpSync(report, join(CACHE, "last-report.json"));
  const specs = readReport(report);
  const isWhole = focus === undefined && options.skip === undefined;
  return compareWithExpected(specs, join(PROJECT, "test/conformance/expected.json"), isWhole);
}

process.exitCode = await main();
