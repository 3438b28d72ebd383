/**
 * Every step of every verb made to fail in turn: it is said once and clearly, or tried again by
 * the pod engine; nothing is left; and without the fault the same operation works.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { codeOf, FaultDaemon, type PodParts, SLEEPER } from "../harness/fault-daemon.js";
import { freePort } from "../harness/free-port.js";
import { missing, requires } from "../harness/requires.js";
import { STEPS_OF_MEMORY_VOLUMES, STEPS_DOWN, STEPS_UP } from "./steps.js";

const lacking = missing("root", "cgroup2", "overlayfs");
let faults: FaultDaemon;

beforeEach(requires("root", "cgroup2", "overlayfs", "nft"));
beforeAll(async () => {
  if (!lacking) faults = await FaultDaemon.start();
});
afterEach(() => faults?.reset());
afterAll(() => faults?.dispose());

/** Made to fail below, by tests of their own. */
const ELSEWHERE = ["record pod", "after record pod", "record exit", "after record exit"];

/** One of everything that a pod can own. */
const WHOLE: PodParts = {
  initContainers: [{ name: "prepare", script: "echo prepared > /kept/prepared", mounts: { kept: "/kept" } }],
  containers: [
    {
      name: "main",
      script: SLEEPER,
      mounts: { kept: "/kept", memory: "/memory" },
      ports: [{ containerPort: 80, hostPort: await freePort() }],
    },
  ],
  volumes: [
    { name: "kept", emptyDir: {} },
    { name: "memory", emptyDir: { medium: "Memory" } },
  ],
};

test("the steps that a pod passes are those that are made to fail here", async () => {
  faults.arm("*=trace");
  await faults.run("traced", WHOLE);
  await faults.delete("traced");
  faults.arm();
  const passed = new Set([...faults.daemon.log.matchAll(/^failpoint (.*)$/gm)].map(([, name]) => name ?? ""));
  const listed = new Set<string>([...STEPS_UP, ...STEPS_OF_MEMORY_VOLUMES, ...STEPS_DOWN, ...ELSEWHERE]);
  expect([...passed].filter((name) => !listed.has(name))).toEqual([]);
  expect([...listed].filter((name) => !passed.has(name))).toEqual([]);
});

describe("on the way up", () => {
  test.each([...STEPS_UP, ...STEPS_OF_MEMORY_VOLUMES])(
    "%s failing is an event, and the pod runs once it no longer does",
    async (point) => {
      faults.arm(`${point}=error`);
      const pod = await faults.create("up", WHOLE);
      await faults.untilMessage(pod, `failpoint "${point}"`);
      faults.arm();
      await faults.untilRunning("up");
      await faults.delete("up");
      await faults.expectNothingLeft();
    },
  );

  test.each(["lease", "after links", "monitor hello", "record ready", "after record container", "monitor start"])(
    "%s failing all the time leaves nothing of a pod that is deleted meanwhile",
    async (point) => {
      faults.arm(`${point}=error`);
      const pod = await faults.create("up", WHOLE);
      await faults.untilMessage(pod, `failpoint "${point}"`);
      await faults.delete("up");
      await faults.expectNothingLeft();
      faults.arm();
    },
  );

  test.each(["record pod", "after record pod"])("%s failing refuses the pod, for good", async (point) => {
    faults.arm(`${point}=error`);
    expect(await codeOf(faults.create("up", WHOLE))).toBe("FAILPOINT");
    faults.arm();
    expect(await faults.find("up")).toBeUndefined();
    await faults.expectNothingLeft();
  });
});

describe("on the way down", () => {
  test.each(STEPS_DOWN)("%s failing once is logged, and the pod goes at the second try", async (point) => {
    await faults.run("down", WHOLE);
    faults.arm(`${point}=once`);
    await faults.delete("down");
    expect(faults.daemon.log).toContain(`failpoint \\"${point}\\"`);
    faults.arm();
    await faults.expectNothingLeft();
  });
});

describe("an undo that fails", () => {
  test.each([
    ["remove files", "record ready"],
    ["end monitor", "record ready"],
    ["remove network", "record ready"],
    ["remove cgroups", "record ready"],
    ["remove directory", "after container cgroup"],
    ["remove cgroup", "after container cgroup"],
  ])("%s is logged, and what it left is removed by the next try", async (undo, step) => {
    faults.arm(`undo ${undo}=once`, `${step}=once`);
    await faults.run("undo", WHOLE);
    expect(faults.daemon.log).toContain(`failpoint \\"undo ${undo}\\"`);
    faults.arm();
    await faults.delete("undo");
    await faults.expectNothingLeft();
  });

  test("of a pod that is deleted before the next try leaves nothing", async () => {
    faults.arm("undo remove network=once", "undo end monitor=once", "record ready=error");
    const pod = await faults.create("undo", WHOLE);
    await faults.untilMessage(pod, 'failpoint "record ready"');
    await faults.delete("undo");
    faults.arm();
    await faults.expectNothingLeft();
  });
});

describe("while it runs", () => {
  test("record exit failing once delays the restart, and loses no exit code", async () => {
    faults.arm("record exit=once");
    await faults.create("exits", {
      containers: [
        { name: "main", script: "[ -e /kept/ran ] && sleep 1000; touch /kept/ran; exit 7", mounts: { kept: "/kept" } },
      ],
      volumes: [{ name: "kept", emptyDir: {} }],
    });
    const { status } = await faults.until(
      "exits",
      "restarted",
      (pod) => pod.status.containerStatuses?.[0]?.restartCount === 1,
    );
    expect(status.containerStatuses?.[0]?.lastState.terminated).toMatchObject({ exitCode: 7, reason: "Error" });
    faults.arm();
    await faults.delete("exits");
    await faults.expectNothingLeft();
  });

  test.each(["exec", "exec streams"])("%s failing is the command's one error, and leaves no process", async (point) => {
    await faults.run("exec");
    const before = faults.pids();
    faults.arm(`${point}=error`);
    expect(await codeOf(faults.exec("exec", "sleep", "1000"))).toBe("FAILPOINT");
    faults.arm();
    expect(await faults.exec("exec", "echo", "works")).toEqual({ code: 0, stdout: "works\n" });
    await expect.poll(() => faults.pids()).toEqual(before);
    await faults.delete("exec");
    await faults.expectNothingLeft();
  });
});
