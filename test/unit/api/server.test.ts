/**
 * The API over a real unix socket, used by the real client, on an engine whose runtime is in memory.
 */
import { appendFile, mkdir, rename, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname, join } from "node:path";
import { text } from "node:stream/consumers";
import { describe, expect, onTestFinished, test } from "vitest";
import { buffer } from "node:stream/consumers";
import { Readable } from "node:stream";
import type { ImageCareService } from "../../../src/api/image-care.js";
import { createApiServer } from "../../../src/api/server.js";
import { isAnswering, listenOnSocket } from "../../../src/api/unix-socket.js";
import { createLog } from "../../../src/base/log.js";
import { RuntimeError } from "../../../src/base/errors.js";
import { connect, type MinkeClient } from "../../../src/client/index.js";
import { type Fixture, isReady, openFixture, podYaml } from "../pod/engine-fixture.js";

const POD = {
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "p" },
  spec: { containers: [{ name: "c", image: "b:1" }] },
};
const IMAGE = { id: "sha256:1", repoTags: ["b:1"], repoDigests: [], sizeBytes: 5 };

/** Answers what the routes hand on; the verbs themselves are tested against a real store. */
function fakeCare(): ImageCareService {
  const refuse = () => Promise.reject(new RuntimeError("not here", { kind: "not-found", code: "IMAGE_NOT_FOUND" }));
  return {
    details: refuse,
    history: refuse,
    tag: refuse,
    removeByName: async (name, force) => ({ id: name, untagged: [], isRemoved: force }),
    save: async ({ names }) =>
      Readable.from(
        (async function* () {
          yield Buffer.from("begun");
          if (names.includes("broken"))
            throw new RuntimeError("a layer is damaged", { kind: "data-loss", code: "LAYER_DAMAGED" });
        })(),
        { objectMode: false },
      ),
    verify: refuse,
    prune: refuse,
    usage: refuse,
  };
}

async function serve(): Promise<{
  fixture: Fixture;
  client: MinkeClient;
  socket: string;
  stopped: { pods: boolean }[];
}> {
  const fixture = await openFixture();
  const stopped: { pods: boolean }[] = [];
  const server = createApiServer({
    engine: fixture.engine,
    images: {
      list: () => [IMAGE],
      pull: async (reference, { onProgress }) => {
        if (reference === "nope")
          throw new RuntimeError("no such image", { kind: "not-found", code: "IMAGE_NOT_FOUND" });
        onProgress({ digest: "sha256:2", state: "done" });
        return IMAGE;
      },
      explain: async () => ({}),
      loadLayout: async () => [IMAGE],
    },
    runtime: fixture.runtime,
    imageCare: { care: fakeCare(), knownNames: () => ({ containers: new Map(), pods: new Map() }), prunesCri: false },
    version: "0.0.1",
    doctor: async () => ({ checks: [] }),
    stop: async (request) => void stopped.push(request),
    log: createLog("silent"),
  });
  const socket = fixture.paths.apiSocket;
  const listening = await listenOnSocket(server, socket);
  onTestFinished(() => listening.close());
  return { fixture, client: await connect({ api: socket, startDaemon: false }), socket, stopped };
}

async function running(): Promise<Awaited<ReturnType<typeof serve>> & { log: string }> {
  const served = await serve();
  const { pod } = await served.client.createPod(POD);
  await served.fixture.until("p", isReady);
  const log = join(served.fixture.paths.podLogs("default", "p", pod.metadata.uid as never), "c", "0.log");
  return { ...served, log };
}

const line = (n: number, tag = "F") => `2026-01-01T00:00:0${n % 10}.000000000Z stdout ${tag} line ${n}\n`;

describe("the socket", () => {
  test("has mode 0600 in a directory of mode 0700", async () => {
    const { socket } = await serve();
    expect((await stat(socket)).mode & 0o777).toBe(0o600);
    expect((await stat(dirname(socket))).mode & 0o777).toBe(0o700);
  });

  test("of a daemon that answers is SOCKET_IN_USE, a stale one is replaced", async () => {
    const { socket } = await serve();
    await expect(listenOnSocket(createServer(), socket)).rejects.toMatchObject({ code: "SOCKET_IN_USE" });
    expect(await isAnswering(socket)).toBe(true);
  });

  test("with a path of more than 107 bytes is reached", async () => {
    const fixture = await openFixture();
    const path = join(fixture.paths.run, "x".repeat(120), "api.sock");
    const listening = await listenOnSocket(
      createServer((_, response) => void response.end("ok")),
      path,
    );
    onTestFinished(() => listening.close());
    expect(await isAnswering(path)).toBe(true);
  });

  test("where nobody listens is DAEMON_UNREACHABLE", async () => {
    const client = await connect({ api: "/nonexistent/api.sock", startDaemon: false });
    await expect(client.listPods()).rejects.toMatchObject({ kind: "unavailable", code: "DAEMON_UNREACHABLE" });
  });
});

describe("pods", () => {
  test("created, listed, got and deleted", async () => {
    const { client } = await running();
    expect((await client.listPods("default")).items.map(({ metadata }) => metadata.name)).toEqual(["p"]);
    expect((await client.listPods("other")).items).toEqual([]);
    const { metadata } = await client.getPod("default", "p");
    await client.deletePod("default", "p");
    await client.waitGone("default", "p", metadata.uid);
    await expect(client.getPod("default", "p")).rejects.toMatchObject({ kind: "not-found", code: "POD_NOT_FOUND" });
    await client.waitGone("default", "p", metadata.uid);
  });

  test("a field without effect is a warning, and an error with strict", async () => {
    const { client } = await serve();
    const pod = { ...POD, spec: { ...POD.spec, nodeSelector: { a: "b" } } };
    await expect(client.createPod(pod, { strict: true })).rejects.toMatchObject({
      kind: "invalid-argument",
      code: "INVALID_MANIFEST",
    });
    expect((await client.createPod(pod)).warnings).toEqual(["spec.nodeSelector: has no effect here, ignored"]);
  });

  test("watched, they are ADDED first, then MODIFIED, then DELETED", async () => {
    const { client, fixture } = await running();
    const types: string[] = [];
    const watching = (async () => {
      for await (const { type } of client.watchPods({ namespace: "default" })) {
        types.push(type);
        if (type === "DELETED") return;
      }
    })();
    await expect.poll(() => types).toEqual(["ADDED"]);
    fixture.runtime.end("c", 1);
    await expect.poll(() => types).toContain("MODIFIED");
    await client.deletePod("default", "p");
    await watching;
  });

  test("an unknown path is a Status of 404", async () => {
    const { client } = await serve();
    await expect(client.getPod("default/../..", "p")).rejects.toMatchObject({ kind: "not-found" });
  });
});

describe("logs", () => {
  const read = async (client: MinkeClient, options: object) => {
    const chunks: Buffer[] = [];
    for await (const chunk of client.logs("default", "p", options)) chunks.push(chunk);
    return Buffer.concat(chunks).toString();
  };

  test("are the lines without their prefix, pieces joined", async () => {
    const { client, log } = await running();
    await writeFile(log, line(1) + line(2, "P").replace("line 2", "li") + line(3).replace("line 3", "ne 2"));
    expect(await read(client, {})).toBe(
      "line 1\nline 2\nne 2\n".replace("line 2\nne 2", "li\nne 2").replace("li\nne", "line"),
    );
  });

  test("of the last lines begin there, over a rotation too", async () => {
    const { client, log } = await running();
    await writeFile(`${log}.1`, line(1) + line(2) + line(3));
    await writeFile(log, line(4) + line(5));
    expect(await read(client, { tailLines: 3 })).toBe("line 3\nline 4\nline 5\n");
    expect(await read(client, { tailLines: 1, timestamps: true })).toBe("2026-01-01T00:00:05.000000000Z line 5\n");
    expect(await read(client, { tailLines: 0 })).toBe("");
    expect(await read(client, { tailLines: 99 })).toBe("line 1\nline 2\nline 3\nline 4\nline 5\n");
  });

  test("followed go on through a rotation and end with the container", async () => {
    const { client, log, fixture } = await running();
    await writeFile(log, line(1));
    let got = "";
    const following = (async () => {
      for await (const chunk of client.logs("default", "p", { follow: true })) got += chunk.toString();
    })();
    await expect.poll(() => got).toBe("line 1\n");
    await appendFile(log, line(2));
    await rename(log, `${log}.1`);
    await writeFile(log, line(3));
    await expect.poll(() => got).toBe("line 1\nline 2\nline 3\n");
    await appendFile(log, line(4));
    fixture.runtime.end("c", 0);
    await following;
    expect(got).toBe("line 1\nline 2\nline 3\nline 4\n");
  });

  test("of the container before are read with previous, and LOG_NOT_FOUND without one", async () => {
    const { client, log, fixture } = await running();
    await mkdir(dirname(log), { recursive: true });
    await writeFile(log, line(1));
    await expect(read(client, { previous: true })).rejects.toMatchObject({ code: "LOG_NOT_FOUND" });
    fixture.runtime.end("c", 1);
    await fixture.until("p", (pod) => isReady(pod) && pod.status.containerStatuses[0]?.restartCount === 1);
    expect(await read(client, { previous: true })).toBe("line 1\n");
  });
});

describe("exec", () => {
  test("hands stdin through, keeps stdout and stderr apart, and says the exit code", async () => {
    const { client } = await running();
    const streams = await client.exec("default", "p", { command: ["sh", "7"], stdin: true });
    streams.stdin.end("x".repeat(300_000));
    const [out, err, code] = await Promise.all([text(streams.stdout), text(streams.stderr), streams.exited]);
    expect([out.length, err, code]).toEqual([300_000, "from stderr\n", 7]);
  });

  test("passes sizes of the terminal on", async () => {
    const { client, fixture } = await running();
    const streams = await client.exec("default", "p", { command: ["sh"], stdin: true, tty: true });
    streams.resize(100, 40);
    await expect.poll(() => fixture.runtime.calls).toContain("resize 100x40");
    streams.stdin.end();
    expect(await streams.exited).toBe(0);
  });

  test("closed by the client closes the session", async () => {
    const { client, fixture } = await running();
    const streams = await client.exec("default", "p", { command: ["sh"], stdin: true });
    streams.exited.catch(() => undefined);
    streams.close();
    await expect.poll(() => fixture.runtime.calls).toContain("close");
  });

  test("in a pod or container that does not exist is not-found", async () => {
    const { client } = await running();
    await expect(client.exec("default", "nobody", { command: ["sh"] })).rejects.toMatchObject({
      kind: "not-found",
      code: "POD_NOT_FOUND",
    });
    await expect(client.exec("default", "p", { container: "x", command: ["sh"] })).rejects.toMatchObject({
      code: "CONTAINER_NOT_FOUND",
    });
  });
});

describe("minke's own routes", () => {
  test("images are listed, pulled with progress, and a failed pull keeps its code", async () => {
    const { client } = await serve();
    const seen: object[] = [];
    expect(await client.images()).toEqual([IMAGE]);
    expect(await client.pullImage("b:1", (progress) => seen.push(progress))).toEqual(IMAGE);
    expect(seen).toEqual([{ digest: "sha256:2", state: "done" }]);
    await expect(client.pullImage("nope")).rejects.toMatchObject({ kind: "not-found", code: "IMAGE_NOT_FOUND" });
  });

  test("an archive that breaks after its first byte fails with the reason's code", async () => {
    const { client } = await serve();
    expect(String(await buffer(await client.image.save(["fine"])))).toBe("begun");
    await expect(client.image.save(["broken"]).then(buffer)).rejects.toMatchObject({ code: "LAYER_DAMAGED" });
  });

  test("names of images with slashes reach the verb, and a wrong body is INVALID_REQUEST", async () => {
    const { client } = await serve();
    expect(await client.image.remove("a.b/c:1", { force: true })).toEqual({
      id: "a.b/c:1",
      untagged: [],
      isRemoved: true,
    });
    await expect(client.image.inspect(["a/b"])).rejects.toMatchObject({ code: "IMAGE_NOT_FOUND" });
    await expect(client.image.remove("")).rejects.toMatchObject({ kind: "invalid-argument", code: "INVALID_REQUEST" });
  });

  test("stop with pods deletes them first", async () => {
    const { client, fixture, stopped } = await running();
    await client.stopDaemon({ pods: true });
    expect(fixture.engine.list()).toEqual([]);
    await expect.poll(() => stopped).toEqual([{ pods: true }]);
  });

  test("the timeline has the steps of the start", async () => {
    const { client, fixture } = await serve();
    await fixture.run(podYaml("p", '  containers: [{ name: c, image: "b:1" }]'));
    await fixture.until("p", isReady);
    expect((await client.timeline("default", "p")).items.map(({ name }) => name).sort()).toEqual([
      "create",
      "image",
      "sandbox",
      "start",
      "volumes",
    ]);
  });
});
