/**
 * The engine's promises over a Runtime in memory: restarts, ends, deletion, recovery. engine-start.test.ts has the start.
 */
import { existsSync } from "node:fs";
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.js";
import { isReady, openFixture, podYaml, WEB } from "./engine-fixture.js";

describe("restart", () => {
  test("a killed container is restarted at once, same pod IP, restart count 1, its end in lastState", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("prepare", 0);
    await fixture.run(WEB);
    const before = await fixture.until("web", isReady);
    fixture.runtime.end("nginx", 137, { signal: 9 });
    const pod = await fixture.until("web", (p) => isReady(p) && p.status.containerStatuses[0]?.restartCount === 1);
    expect(pod.status.podIP).toBe(before.status.podIP);
    expect(pod.status.containerStatuses[0]?.lastState.terminated).toMatchObject({
      exitCode: 137,
      signal: 9,
      reason: "Error",
    });
    expect(fixture.runtime.calls.filter((call) => call.startsWith("start prepare"))).toHaveLength(1);
    await expect.poll(() => fixture.runtime.calls).toContain("remove nginx 0");
  });

  test("a container that keeps ending is in CrashLoopBackOff with a growing delay", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("c", 3);
    await fixture.run(podYaml("p", '  containers: [{ name: c, image: "busybox:1" }]'));
    const pod = await fixture.until(
      "p",
      ({ status }) =>
        status.containerStatuses[0]?.state.waiting?.reason === "CrashLoopBackOff" &&
        status.containerStatuses[0].restartCount >= 2,
    );
    expect(pod.status.phase).toBe("Running");
    expect(pod.status.containerStatuses[0]?.lastState.terminated?.exitCode).toBe(3);
  });

  test("OnFailure restarts a failure and leaves a success", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("c", 1);
    await fixture.run(podYaml("p", '  restartPolicy: OnFailure\n  containers: [{ name: c, image: "busybox:1" }]'));
    await fixture.until("p", ({ status }) => (status.containerStatuses[0]?.restartCount ?? 0) >= 1);
    fixture.runtime.endsWith.set("c", 0);
    const pod = await fixture.until("p", ({ status }) => status.phase === "Succeeded");
    expect(pod.status.containerStatuses[0]?.state.terminated).toMatchObject({ exitCode: 0, reason: "Completed" });
  });

  test("Never leaves a failure, the pod is Failed and its sandbox stopped", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("c", 7);
    await fixture.run(podYaml("p", '  restartPolicy: Never\n  containers: [{ name: c, image: "busybox:1" }]'));
    const pod = await fixture.until("p", ({ status }) => status.phase === "Failed");
    expect(pod.status.containerStatuses[0]?.state.terminated).toMatchObject({ exitCode: 7, reason: "Error" });
    await expect.poll(() => fixture.runtime.calls.at(-1)).toBe("stop sandbox");
  });

  test("an init container that fails is run again, and Never makes the pod fail", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("prepare", 1);
    await fixture.run(WEB);
    await fixture.until("web", ({ status }) => (status.initContainerStatuses?.[0]?.restartCount ?? 0) >= 1);
    await fixture.run(
      podYaml(
        "q",
        '  restartPolicy: Never\n  initContainers: [{ name: prepare, image: "b:1" }]\n  containers: [{ name: c, image: "b:1" }]',
      ),
    );
    await fixture.until("q", ({ status }) => status.phase === "Failed");
    expect(fixture.runtime.calls).not.toContain("start c");
  });

  test("a pod of one whose containers have ended stops its sidecars", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("job", 0);
    await fixture.run(
      podYaml(
        "p",
        '  restartPolicy: Never\n  initContainers: [{ name: side, image: "b:1", restartPolicy: Always }]\n  containers: [{ name: job, image: "b:1" }]',
      ),
    );
    await fixture.until("p", ({ status }) => status.phase === "Succeeded");
    await expect.poll(() => fixture.runtime.calls).toContain("stop side");
  });

  test("activeDeadlineSeconds ends a pod with DeadlineExceeded", async () => {
    const fixture = await openFixture();
    await fixture.run(
      podYaml(
        "p",
        '  activeDeadlineSeconds: 1\n  terminationGracePeriodSeconds: 0\n  containers: [{ name: c, image: "busybox:1" }]',
      ),
    );
    const pod = await fixture.until("p", ({ status }) => status.phase === "Failed");
    expect(pod.status.reason).toBe("DeadlineExceeded");
    await expect.poll(() => fixture.runtime.calls).toContain("stop sandbox");
  });

  test("a lost sandbox is made again and init containers run again", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("prepare", 0);
    await fixture.run(WEB);
    await fixture.until("web", isReady);
    fixture.runtime.loseSandboxes();
    const pod = await fixture.until("web", (p) => isReady(p) && p.status.containerStatuses[0]?.restartCount === 1);
    expect(pod.status.containerStatuses[0]?.lastState.terminated?.reason).toBe("ContainerStatusUnknown");
    expect(fixture.runtime.calls.filter((call) => call === "start prepare")).toHaveLength(2);
    expect(fixture.runtime.sandboxes.size).toBe(1);
  });
});

describe("delete", () => {
  test("containers stop before sidecars, sidecars in reverse, and nothing is left", async () => {
    const fixture = await openFixture();
    await fixture.run(
      podYaml(
        "p",
        '  volumes: [{ name: v, emptyDir: {} }]\n  initContainers: [{ name: s1, image: "b:1", restartPolicy: Always }, { name: s2, image: "b:1", restartPolicy: Always }]\n  containers: [{ name: c, image: "b:1" }]',
      ),
    );
    const pod = await fixture.until("p", isReady);
    const volumes = fixture.paths.podVolumes(pod.metadata.uid as never);
    expect(existsSync(join(volumes, "v"))).toBe(true);
    await writeFile(join(volumes, "v", "file"), "content");
    await fixture.engine.delete("default", "p");
    await fixture.engine.waitGone(pod.metadata.uid);
    expect(fixture.runtime.calls.filter((call) => /^(stop|remove)/.test(call))).toEqual([
      "stop c",
      "stop s2",
      "stop s1",
      "stop sandbox",
      "remove sandbox",
    ]);
    expect(existsSync(volumes)).toBe(false);
    expect(existsSync(fixture.paths.podLogs("default", "p", pod.metadata.uid as never))).toBe(false);
    expect(fixture.store.records.size).toBe(0);
    expect(fixture.engine.list()).toEqual([]);
  });

  test("the same name made again has a new UID and an empty volume", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("prepare", 0);
    const first = await fixture.run(WEB);
    await fixture.until("web", isReady);
    await writeFile(join(fixture.paths.podVolumes(first.metadata.uid as never), "content", "old"), "x");
    await fixture.engine.delete("default", "web");
    await fixture.engine.waitGone(first.metadata.uid);
    const second = await fixture.run(WEB);
    await fixture.until("web", isReady);
    expect(second.metadata.uid).not.toBe(first.metadata.uid);
    expect(await readdir(join(fixture.paths.podVolumes(second.metadata.uid as never), "content"))).toEqual([]);
  });

  test("a second delete with less grace kills sooner", async () => {
    const fixture = await openFixture();
    fixture.runtime.stubborn.add("c");
    await fixture.run(podYaml("p", '  containers: [{ name: c, image: "b:1" }]'));
    const pod = await fixture.until("p", isReady);
    await fixture.engine.delete("default", "p", { graceSeconds: 600 });
    await expect.poll(() => fixture.runtime.calls).toContain("stop c");
    await fixture.engine.delete("default", "p", { graceSeconds: 0 });
    await fixture.engine.waitGone(pod.metadata.uid);
  });

  test("a container that could not be stopped is an event of its pod, and is stopped again", async () => {
    const fixture = await openFixture();
    const failure = { kind: "deadline-exceeded", code: "CONTAINER_STOP_TIMEOUT" } as const;
    fixture.runtime.stopFails.set("c", new RuntimeError("pid 7 is in state D", failure));
    await fixture.run(podYaml("p", '  containers: [{ name: c, image: "b:1" }]'));
    const pod = await fixture.until("p", isReady);
    await fixture.engine.delete("default", "p", { graceSeconds: 0 });
    const told = () => fixture.engine.events().filter(({ reason }) => reason === "FailedKillPod");
    await expect.poll(told).toMatchObject([{ type: "Warning", message: expect.stringContaining("state D") }]);
    fixture.runtime.stopFails.clear();
    await fixture.engine.waitGone(pod.metadata.uid);
  });

  test("a pod that is not there is POD_NOT_FOUND", async () => {
    const fixture = await openFixture();
    await expect(fixture.engine.delete("default", "nope")).rejects.toMatchObject({
      kind: "not-found",
      code: "POD_NOT_FOUND",
    });
  });
});

describe("accept", () => {
  test("a second pod of the same name is POD_EXISTS", async () => {
    const fixture = await openFixture();
    await fixture.run(WEB);
    await expect(fixture.run(WEB)).rejects.toMatchObject({ kind: "already-exists", code: "POD_EXISTS" });
  });

  test("a host port of another pod is HOST_PORT_IN_USE", async () => {
    const fixture = await openFixture();
    await fixture.run(WEB);
    await expect(fixture.run(WEB.replace("name: web", "name: web2"))).rejects.toMatchObject({
      kind: "failed-precondition",
      code: "HOST_PORT_IN_USE",
    });
  });
});

describe("recovery", () => {
  test("a running pod is not touched, and an exit in between is applied", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("prepare", 0);
    await fixture.run(WEB);
    const before = await fixture.until("web", isReady);
    fixture.runtime.calls.length = 0;
    await fixture.restart(() => fixture.runtime.end("nginx", 5));
    const pod = await fixture.until("web", (p) => isReady(p) && p.status.containerStatuses[0]?.restartCount === 1);
    expect(pod.metadata.uid).toBe(before.metadata.uid);
    expect(pod.status.containerStatuses[0]?.lastState.terminated?.exitCode).toBe(5);
    expect(fixture.runtime.calls.filter((call) => call.startsWith("start"))).toEqual(["start nginx"]);
  });

  test("what was made after the last written record is adopted, not made twice", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("prepare", 0);
    const { metadata } = await fixture.run(WEB);
    const early = structuredClone(fixture.store.get(metadata.uid));
    await fixture.until("web", isReady);
    await fixture.engine.close();
    if (early) fixture.store.records.set(metadata.uid, early);
    fixture.runtime.calls.length = 0;
    await fixture.restart();
    const pod = await fixture.until("web", isReady);
    expect(fixture.runtime.calls).toEqual([]);
    expect(pod.status.containerStatuses[0]?.restartCount).toBe(0);
  });

  test("a container that was created and not started is removed and made again", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("prepare", 0);
    await fixture.run(WEB);
    await fixture.until("web", isReady);
    await fixture.restart(() => {
      const nginx = [...fixture.runtime.containers.values()].find(({ config }) => config.metadata.name === "nginx");
      if (nginx) nginx.state = "created";
      fixture.runtime.calls.length = 0;
    });
    const pod = await fixture.until("web", isReady);
    expect(fixture.runtime.calls).toEqual(["remove nginx 0", "create nginx 0", "start nginx"]);
    expect(pod.status.containerStatuses[0]?.restartCount).toBe(0);
  });

  test("a deletion goes on after a restart", async () => {
    const fixture = await openFixture();
    fixture.runtime.stubborn.add("c");
    await fixture.run(podYaml("p", '  containers: [{ name: c, image: "b:1" }]'));
    const pod = await fixture.until("p", isReady);
    await fixture.engine.delete("default", "p", { graceSeconds: 600 });
    await fixture.restart(() => fixture.runtime.end("c", 0));
    await fixture.engine.waitGone(pod.metadata.uid);
    expect(fixture.runtime.sandboxes.size).toBe(0);
  });

  test("sandboxes and volumes of pods that nobody desires are removed", async () => {
    const fixture = await openFixture();
    const { metadata } = await fixture.run(
      podYaml("p", '  volumes: [{ name: v, emptyDir: {} }]\n  containers: [{ name: c, image: "b:1" }]'),
    );
    await fixture.until("p", isReady);
    await fixture.restart(() => fixture.store.records.clear());
    expect(fixture.runtime.sandboxes.size).toBe(0);
    expect(existsSync(fixture.paths.podVolumes(metadata.uid as never))).toBe(false);
  });
});
