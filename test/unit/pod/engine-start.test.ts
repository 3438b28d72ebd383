/**
 * The engine's promises over a Runtime in memory: what a pod's start does in which order, and what it
 * says where a start fails.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.js";
import { deferred } from "../../../src/runtime/context.js";
import { isReady, openFixture, podYaml, WEB } from "./engine-fixture.js";

describe("start", () => {
  test("init containers run to completion in order, sidecars start between them, containers last", async () => {
    const fixture = await openFixture();
    fixture.runtime.endsWith.set("prepare", 0);
    await fixture.run(WEB);
    const pod = await fixture.until("web", isReady);
    expect(fixture.runtime.calls).toEqual([
      "run sandbox",
      "create prepare 0",
      "start prepare",
      "create refresh 0",
      "start refresh",
      "create nginx 0",
      "start nginx",
    ]);
    expect(pod.status).toMatchObject({
      phase: "Running",
      podIP: "10.205.0.2",
      podIPs: [{ ip: "10.205.0.2" }, { ip: "fd00:205::2" }],
    });
    expect(pod.status.initContainerStatuses?.map(({ name, ready }) => [name, ready])).toEqual([
      ["prepare", true],
      ["refresh", true],
    ]);
  });

  test("the sandbox is made while the pod is written, and no container before it is", async () => {
    const fixture = await openFixture();
    const written = deferred<void>();
    const put = fixture.store.put.bind(fixture.store);
    fixture.store.put = async (uid, record) => {
      await written.promise;
      await put(uid, record);
    };
    const changes: string[] = [];
    fixture.engine.watch(({ type }) => changes.push(type));
    const accepted = fixture.run(WEB);
    await expect.poll(() => fixture.runtime.listSandboxes()).toHaveLength(1);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(fixture.runtime.calls).toEqual(["run sandbox"]);
    expect(changes).toEqual([]);
    written.resolve(undefined);
    expect((await accepted).status.podIP).toBe("10.205.0.2");
    await fixture.until("web", ({ status }) => status.initContainerStatuses?.[0]?.state.running !== undefined);
    expect(changes[0]).toBe("ADDED");
  });

  test("a pod that cannot be written is refused, and its sandbox goes before the answer", async () => {
    const fixture = await openFixture();
    const full = new RuntimeError("no space", { kind: "resource-exhausted", code: "NO_SPACE" });
    fixture.store.put = async () => {
      await expect.poll(() => fixture.runtime.listSandboxes()).toHaveLength(1);
      throw full;
    };
    await expect(fixture.run(WEB)).rejects.toBe(full);
    expect(fixture.runtime.listSandboxes()).toEqual([]);
    expect(fixture.runtime.calls).not.toContain("create prepare 0");
    expect(fixture.engine.list()).toEqual([]);
    expect(fixture.store.list()).toEqual([]);
    expect(await readdir(join(fixture.paths.root, "logs")).catch(() => [])).toEqual([]);
  });

  test("a pod whose init container still runs is Pending, and its containers say PodInitializing", async () => {
    const fixture = await openFixture();
    await fixture.run(WEB);
    const pod = await fixture.until(
      "web",
      ({ status }) => status.initContainerStatuses?.[0]?.state.running !== undefined,
    );
    expect(pod.status.phase).toBe("Pending");
    expect(pod.status.containerStatuses[0]?.state.waiting?.reason).toBe("PodInitializing");
  });

  test("an image that does not exist is ErrImagePull, then ImagePullBackOff", async () => {
    const fixture = await openFixture({ restartBackoffMaxMs: 20 });
    await fixture.run(podYaml("p", '  containers: [{ name: c, image: "missing:1" }]'));
    await fixture.until("p", ({ status }) => status.containerStatuses[0]?.state.waiting?.reason === "ErrImagePull");
    const pod = await fixture.until(
      "p",
      ({ status }) => status.containerStatuses[0]?.state.waiting?.reason === "ImagePullBackOff",
    );
    expect(pod.status.phase).toBe("Pending");
  });

  test("a command that is not in the image is RunContainerError with its message", async () => {
    const fixture = await openFixture({ restartBackoffBaseMs: 60_000, restartBackoffMaxMs: 60_000 });
    fixture.runtime.startFails.set(
      "c",
      new RuntimeError('exec "nope": ENOENT', { kind: "not-found", code: "INTERNAL" }),
    );
    await fixture.run(podYaml("p", '  containers: [{ name: c, image: "busybox:1", command: [nope] }]'));
    const pod = await fixture.until(
      "p",
      ({ status }) =>
        status.containerStatuses[0]?.state.waiting !== undefined &&
        status.containerStatuses[0].lastState.terminated !== undefined,
    );
    expect(pod.status.containerStatuses[0]?.state.waiting).toEqual({
      reason: "RunContainerError",
      message: 'exec "nope": ENOENT',
    });
    expect(pod.status.containerStatuses[0]?.lastState.terminated).toMatchObject({
      exitCode: 128,
      reason: "StartError",
    });
  });

  test("a command that is not in the image fails a pod that is never restarted", async () => {
    const fixture = await openFixture();
    fixture.runtime.startFails.set(
      "c",
      new RuntimeError('exec "nope": ENOENT', { kind: "not-found", code: "INTERNAL" }),
    );
    await fixture.run(podYaml("p", '  restartPolicy: Never\n  containers: [{ name: c, image: "busybox:1" }]'));
    const pod = await fixture.until("p", ({ status }) => status.phase === "Failed");
    expect(pod.status.containerStatuses[0]?.state.terminated).toMatchObject({ exitCode: 128, reason: "StartError" });
  });

  test("a sandbox that cannot be made is said in the condition, and tried again", async () => {
    const fixture = await openFixture();
    fixture.runtime.sandboxFails = new RuntimeError("host port 80 is in use", {
      kind: "failed-precondition",
      code: "HOST_PORT_IN_USE",
    });
    await fixture.run(podYaml("p", '  containers: [{ name: c, image: "busybox:1" }]'));
    const failed = await fixture.until("p", ({ status }) => status.conditions[0]?.reason !== undefined);
    expect(failed.status.conditions[0]).toMatchObject({
      type: "PodReadyToStartContainers",
      status: "False",
      message: "host port 80 is in use",
    });
    fixture.runtime.sandboxFails = undefined;
    await fixture.until("p", isReady);
  });

  test("runAsNonRoot with a root image is CreateContainerConfigError", async () => {
    const fixture = await openFixture();
    await fixture.run(
      podYaml("p", '  securityContext: { runAsNonRoot: true }\n  containers: [{ name: c, image: "busybox:1" }]'),
    );
    const pod = await fixture.until(
      "p",
      ({ status }) => status.containerStatuses[0]?.state.waiting?.reason === "CreateContainerConfigError",
    );
    expect(pod.status.containerStatuses[0]?.state.waiting?.message).toContain("its image runs as root");
  });
});
