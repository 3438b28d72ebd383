/** The doctor against the kernel that runs this test; it needs the addon. */
import { spawnSync } from "node:child_process";
import { beforeEach, expect, test } from "vitest";
import { runDoctor } from "../../src/doctor/doctor.js";
import { PROJECT } from "../harness/cli.js";
import { requires } from "../harness/requires.js";

beforeEach(requires("root", "cgroup2", "overlayfs", "netns"));

test("runDoctor finds nothing missing on a machine that runs pods", async () => {
  const { checks } = await runDoctor();
  expect(checks.filter(({ status }) => status === "missing")).toEqual([]);
});

test("every check of runDoctor has a name of its own, and says what an absence costs", async () => {
  const { checks } = await runDoctor();
  const names = checks.map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
  expect(checks.filter(({ status, costs }) => status !== "ok" && costs === "")).toEqual([]);
  expect(checks.filter(({ found }) => found === "")).toEqual([]);
});

test("runDoctor leaves out no controller of cgroup v2 that a limit needs", async () => {
  const { checks } = await runDoctor();
  expect(checks.map(({ name }) => name)).toEqual(
    expect.arrayContaining(["cpu", "memory", "pids"].map((name) => `cgroup controller ${name}`)),
  );
});

test.for([
  ["", "ok", "none drops what is forwarded"],
  ["iptables-nft -P FORWARD DROP", "warn", "policy drop in ip filter FORWARD"],
  ["ip6tables-legacy -P FORWARD DROP", "warn", "policy drop in ip6tables-legacy FORWARD"],
  [
    "nft 'add table inet f; add chain inet f fw { type filter hook forward priority 0; policy drop; }'",
    "warn",
    "policy drop in inet f fw",
  ],
])(
  "runDoctor names a firewall that drops what is forwarded: after %j it is %s",
  ([deed = "", status, found], context) => {
    const ask = `const { runDoctor } = await import("${PROJECT}dist/doctor/doctor.js");
    console.log(JSON.stringify((await runDoctor()).checks.find(({ name }) => name === "other firewalls")));`;
    const script = `{ ${deed || "true"}; } >&2 || exit 77; exec "$@"`;
    const {
      stdout,
      stderr,
      status: code,
    } = spawnSync("unshare", ["--net", "sh", "-c", script, "sh", process.execPath, "--input-type=module", "-e", ask], {
      encoding: "utf8",
    });
    // The legacy tables are a module that not every kernel has.
    if (code === 77 && deed.includes("legacy")) context.skip(`missing: ${stderr.trim()}`);
    expect(JSON.parse(stdout || JSON.stringify(stderr))).toMatchObject({ status, found });
  },
);
