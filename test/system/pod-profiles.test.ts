/** Seccomp profiles of a manifest, seen from inside its containers. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;

const IMAGE = "image: minke.test/busybox:1, imagePullPolicy: IfNotPresent";
const SLEEP = 'command: ["sleep", "1000"]';
const localhost = (name: string) => `{ seccompProfile: { type: Localhost, localhostProfile: ${name} } }`;

const pod = () => `
apiVersion: v1
kind: Pod
metadata: { name: profiles }
spec:
  terminationGracePeriodSeconds: 0
  securityContext: { seccompProfile: { type: RuntimeDefault } }
  containers:
  - { name: default, ${IMAGE}, ${SLEEP} }
  - { name: free, ${IMAGE}, ${SLEEP}, securityContext: { seccompProfile: { type: Unconfined } } }
  - { name: own, ${IMAGE}, ${SLEEP}, securityContext: ${localhost("team/no-chmod.json")} }
`;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  daemon = await TestDaemon.startWithImages();
  mkdirSync(join(daemon.root, "seccomp/team"), { recursive: true });
  const rule = { names: ["chmod", "fchmodat"], action: "SCMP_ACT_ERRNO", errnoRet: 95 };
  const profile = { defaultAction: "SCMP_ACT_ALLOW", syscalls: [rule] };
  writeFileSync(join(daemon.root, "seccomp/team/no-chmod.json"), JSON.stringify(profile));
  await daemon.runPod(pod());
});
afterAll(async () => {
  await daemon?.dispose();
});

async function inside(container: string, script: string): Promise<string> {
  const { stdout, stderr } = await daemon.minke(["exec", "profiles", "-c", container, "--", "sh", "-c", script]);
  return stdout + stderr;
}

test("a container has the profile of its pod, and its own where it has one", async () => {
  const mode = "grep ^Seccomp: /proc/self/status";
  expect(await inside("default", mode)).toMatch(/\t2\n$/);
  expect(await inside("free", mode)).toMatch(/\t0\n$/);
  expect(await inside("own", mode)).toMatch(/\t2\n$/);
});

test("a Localhost profile is the file below the root's seccomp directory", async () => {
  expect(await inside("own", "chmod 700 /tmp")).toMatch(/Operation not supported/);
  expect(await inside("default", "chmod 700 /tmp")).toBe("");
});

test("a Localhost profile that is not there is CreateContainerError and names its file", async () => {
  const input = `{ apiVersion: v1, kind: Pod, metadata: { name: lost }, spec: { containers: [{ name: c, ${IMAGE}, ${SLEEP}, securityContext: ${localhost("lost.json")} }] } }`;
  const { code, stderr } = await daemon.minke(["run", "-f", "-", "--wait"], { input });
  expect(stderr).toContain(join(daemon.root, "seccomp/lost.json"));
  expect(code).toBe(1);
});
