/** What is wrong is said once, clearly, with the right exit code, and leaves nothing. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { MINKE, runCommand } from "../harness/cli.js";
import { TestDaemon } from "../harness/daemon.js";
import type { Snapshot } from "../harness/leaks.js";
import { cgroup2Mount, missing, requires } from "../harness/requires.js";

const BAD_INPUT = 2;
const NOT_FOUND = 3;
const UNREACHABLE = 4;

let daemon: TestDaemon;
let before: Snapshot;

const lacking = missing("root", "cgroup2", "overlayfs");
beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  daemon = await TestDaemon.startWithImages();
  before = daemon.snapshot();
});
afterAll(() => daemon?.dispose());

interface PodParts {
  readonly name?: string;
  readonly image?: string;
  readonly container?: string;
  readonly spec?: string;
}

/** A pod of one container in flow style, with parts put in. */
function pod({ name = "bad", image = "minke.test/busybox:1", container = "", spec = "" }: PodParts = {}): string {
  return `apiVersion: v1
kind: Pod
metadata: { name: "${name}" }
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  ${spec}
  containers:
    - name: main
      image: "${image}"
      imagePullPolicy: IfNotPresent
      ${container || 'command: ["sleep", "1000"]'}
`;
}

async function run(manifest: string, ...flags: string[]) {
  return await daemon.minke(["run", "-f", "-", "--wait", ...flags], { input: manifest });
}

/** Removes what a refused run may have left as a Pod object, as a user would, and looks for the rest. */
async function nothingLeft(): Promise<void> {
  await daemon.minke(["delete", "pod", "bad"]);
  await daemon.expectNothingLeft(before);
}

test.each([
  [
    "YAML that does not parse is refused with line and column",
    'apiVersion: v1\nkind: Pod\nmetadata: {name: "x\n',
    /line \d+.*column \d+/i,
  ],
  ["a name with capitals is refused by path", pod({ name: "Not_A_Name" }), /metadata\.name/],
  [
    "a volumeMount without volume is refused by path",
    pod({ container: 'command: ["true"]\n      volumeMounts: [{ name: ghost, mountPath: /x }]' }),
    /volumeMounts\[0\]\.name.*ghost/s,
  ],
  [
    "a manifest of another kind is refused",
    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n",
    /kind|Deployment/,
  ],
])("%s", async (_, manifest, expected) => {
  const { code, stderr } = await run(manifest);
  expect(stderr).toMatch(expected);
  expect(code).toBe(BAD_INPUT);
  await nothingLeft();
});

test("a time-out that is none is refused before anything is made", async () => {
  const { code, stdout, stderr } = await run(pod(), "--timeout", "5s");
  expect(stderr).toContain('option --timeout: "5s" is not a number of seconds');
  expect({ code, stdout }).toEqual({ code: BAD_INPUT, stdout: "" });
});

test("an unknown field is named by path, and is an error with --strict", async () => {
  const manifest = pod({ container: 'command: ["true"]\n      comand: ["false"]' });
  const strict = await run(manifest, "--strict");
  expect(strict.stderr).toContain("spec.containers[0].comand");
  expect(strict.code).toBe(BAD_INPUT);
  await nothingLeft();
  const lenient = await daemon.minke(["run", "-f", "-"], { input: manifest });
  expect(lenient.stderr).toContain("spec.containers[0].comand");
  expect(lenient.code).toBe(0);
  await nothingLeft();
});

test("an image that is nowhere is named, however long one would wait", async () => {
  // More than a timer can wait, which would run out at once.
  const { code, stderr } = await run(pod({ image: "127.0.0.1:9/none:1" }), "--timeout", "9999999");
  expect(stderr).toContain("127.0.0.1:9/none:1");
  expect([1, NOT_FOUND]).toContain(code);
  await nothingLeft();
});

test("a digest that no image has is refused", async () => {
  const digest = `sha256:${"0".repeat(64)}`;
  const { code, stderr } = await run(pod({ image: `127.0.0.1:9/none@${digest}` }));
  expect(stderr).toContain(digest);
  expect([1, NOT_FOUND]).toContain(code);
  await nothingLeft();
});

test("a host port that another process listens on is named", async () => {
  const holder = createServer();
  await new Promise<void>((resolve) => holder.listen(0, "0.0.0.0", resolve));
  const address = holder.address();
  const port = typeof address === "object" && address ? address.port : 0;
  try {
    const container = `command: ["sleep", "1000"]\n      ports: [{ containerPort: 80, hostPort: ${port} }]`;
    const { code, stderr } = await run(pod({ container }));
    expect(stderr).toMatch(new RegExp(`${port}.*(in use|taken)|HOST_PORT_IN_USE`, "s"));
    expect(code).toBe(1);
  } finally {
    await new Promise((resolve) => holder.close(resolve));
  }
  await nothingLeft();
});

test("a command that is not in the image is named", async () => {
  const { code, stderr } = await run(pod({ container: 'command: ["/no/such/program"]' }));
  expect(stderr).toContain("/no/such/program");
  expect(code).toBe(1);
  await nothingLeft();
});

test("a second pod of one name is refused and the first goes on", async () => {
  expect((await run(pod())).code).toBe(0);
  const { uid } = (await daemon.pod("bad")).metadata;
  const { code, stderr } = await run(pod({ container: 'command: ["sleep", "2000"]' }));
  expect(stderr).toMatch(/bad.*exists/s);
  expect(code).not.toBe(0);
  expect(await daemon.pod("bad")).toMatchObject({ metadata: { uid }, status: { phase: "Running" } });
  await nothingLeft();
});

test("what does not exist is exit code 3", async () => {
  for (const args of [
    ["describe", "pod", "nobody"],
    ["logs", "nobody"],
    ["exec", "nobody", "--", "true"],
    ["delete", "pod", "nobody"],
  ]) {
    const { code, stderr } = await daemon.minke(args);
    expect({ args, code }).toEqual({ args, code: NOT_FOUND });
    expect(stderr).toContain("nobody");
  }
});

test("a daemon that cannot be reached is exit code 4", async () => {
  const { code } = await runCommand(process.execPath, [MINKE, "daemon", "stop"], {
    env: { MINKE_ROOT: "/nonexistent/root", MINKE_RUN: "/nonexistent/run" },
  });
  expect([0, UNREACHABLE]).toContain(code);
});

test("not being root is said in one line", async () => {
  const { code, stderr } = await runCommand("setpriv", [
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    process.execPath,
    MINKE,
    "daemon",
    "--root",
    "/tmp/minke-not-root",
    "--run",
    "/tmp/minke-not-root",
  ]);
  expect(stderr).toMatch(/root/);
  expect(code).toBe(1);
});

test("an unknown command and an unknown flag are exit code 2", async () => {
  expect((await daemon.minke(["fly"])).code).toBe(BAD_INPUT);
  expect((await daemon.minke(["get", "pods", "--wings"])).code).toBe(BAD_INPUT);
});

test("a daemon whose start fails leaves no mount and no cgroup", async () => {
  const folder = mkdtempSync(join(tmpdir(), "minke-bad-start-"));
  const cgroups = () =>
    readdirSync(cgroup2Mount() ?? "").filter((name) => name.startsWith(`minke-test-${process.pid}-`));
  const known = cgroups();
  try {
    // Loopback's own network is taken on every machine.
    await expect(TestDaemon.start({ folder, subnetIpv4: "127.0.0.0/24" })).rejects.toThrow(/127\.0\.0\.1\/8/);
    expect(readFileSync("/proc/self/mounts", "utf8")).not.toContain(folder);
    expect(cgroups()).toEqual(known);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
