/**
 * `npm run test:vm -- [--kernel debian|trixie|backports] [--disk FILE] [--only NAME] [--keep]
 * [--cuts N] [--kills N] [vitest's arguments]`: what test/vm checks, on a kernel of its own. README.md says how.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { builtTool } from "../conformance/go-tools.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const KEPT = `${root}.cache/vm/kept.json`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    kernel: { type: "string", default: "debian" },
    disk: { type: "string" },
    only: { type: "string" },
    keep: { type: "boolean", default: false },
    cuts: { type: "string" },
    kills: { type: "string" },
    help: { type: "boolean", short: "h", default: false },
  },
});
if (values.help) {
  console.log(
    "usage: npm run test:vm -- [--kernel debian|trixie|backports] [--disk FILE] [--only NAME] [--keep] [FILE …]\n" +
      "       npm run test:power-cut -- [--cuts N] [--kills N]",
  );
  process.exit(0);
}

const execute = (program, args, env = process.env) =>
  spawnSync(program, args, { cwd: root, stdio: "inherit", env }).status ?? 1;

const prepared = execute("bash", ["test/vm/setup"]) || execute("bash", [".ci/setup"]);
if (prepared !== 0) process.exit(prepared);
if (!buildTools()) process.exit(1);

const vitest = ["node_modules/vitest/vitest.mjs", "run", "--config", "test/vm/vitest.config.ts"];
if (values.only) vitest.push("--testNamePattern", values.only);
process.exitCode = execute(process.execPath, [...vitest, ...positionals], {
  ...process.env,
  MINKE_VM_KERNEL: values.kernel,
  MINKE_VM_DISK: values.disk ? resolve(values.disk) : "",
  MINKE_VM_KEEP: values.keep ? "1" : "",
  ...(values.cuts && { MINKE_POWER_CUTS: values.cuts }),
  ...(values.kills && { MINKE_POWER_CUT_KILLS: values.kills }),
});

/** What the chosen files need of Go's tools, before a machine is booted for nothing. */
function buildTools() {
  const chosen = (/** @type {RegExp} */ names) =>
    positionals.length === 0 || positionals.some((name) => names.test(name));
  const needed = [
    ...(chosen(/power-cuts|runtime-handlers|cri|userns|network/) ? ["crictl"] : []),
    ...(chosen(/cri/) ? ["critest"] : []),
  ];
  for (const name of needed) {
    try {
      builtTool(root, name);
    } catch (err) {
      console.error(`test:vm needs ${name}, which Go 1.26 or later builds: ${err.message}`);
      return false;
    }
  }
  return true;
}

if (values.keep && existsSync(KEPT)) {
  const { pid, shellSocket, consoleLog } = JSON.parse(readFileSync(KEPT, "utf8"));
  rmSync(KEPT);
  console.log(`the VM goes on as pid ${pid} until the shell is left; its console: ${consoleLog}`);
  execute(process.execPath, ["test/vm/shell.mjs", shellSocket]);
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    console.log("the VM had ended by itself");
  }
  rmSync(dirname(shellSocket), { recursive: true, force: true });
}
