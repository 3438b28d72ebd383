/** One pod of one container through the whole daemon: also run on the newer Node lines. */
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (!lacking) daemon = await TestDaemon.startWithImages();
});
afterAll(() => daemon?.dispose());

test("a pod runs, says its name, executes a command and leaves nothing", async () => {
  const before = daemon.snapshot();
  await daemon.runPod(`
apiVersion: v1
kind: Pod
metadata: { name: smoke }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: minke.test/busybox:1
      command: ["sh", "-c", "echo I am $(hostname); trap 'exit 0' TERM; sleep 1000 & wait"]
`);
  expect((await daemon.pod("smoke")).status.phase).toBe("Running");
  expect(JSON.parse(await daemon.expect("get", "pods", "-o", "json"))).toMatchObject({
    items: [{ kind: "Pod", metadata: { name: "smoke" }, status: { phase: "Running" } }],
  });
  expect(await daemon.expect("logs", "smoke")).toBe("I am smoke\n");
  const exec = await daemon.minke(["exec", "smoke", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
  expect(exec).toEqual({ code: 7, stdout: "out\n", stderr: "err\n" });
  await daemon.expect("delete", "pod", "smoke");
  await daemon.expectNothingLeft(before);
});
