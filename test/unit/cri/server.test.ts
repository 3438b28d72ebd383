/** The CRI socket over real gRPC: introspection, errors at the edge, streams, the socket file. */
import { existsSync, linkSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { credentials, type ServiceError } from "@grpc/grpc-js";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type ErrorKind, RuntimeError } from "../../../src/base/errors.js";
import { createLog } from "../../../src/base/log.js";
import { CgroupDriver } from "../../../src/cri/generated/runtime/v1/api.js";
import { introspectionVerbs } from "../../../src/cri/introspection.js";
import { type CriServer, createCriServer } from "../../../src/cri/server.js";
import { STATUS_BY_KIND } from "../../../src/cri/status-codes.js";
import { type Method, type METHODS, type RequestOf, type ResponseOf, type Verbs } from "../../../src/cri/verbs.js";
import { ImageServiceClient, RuntimeServiceClient } from "../../harness/cri.js";

let folder: string;
let socketPath: string;
let server: CriServer | undefined;
const clients: { close(): void }[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "minke-cri-"));
  socketPath = join(folder, "cri.sock");
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  await server?.close(50);
  server = undefined;
  rmSync(folder, { recursive: true, force: true });
});

const log = createLog("silent");

async function serve(verbs: Verbs): Promise<RuntimeServiceClient> {
  server = await createCriServer({ socketPath, verbs, log });
  return connected(new RuntimeServiceClient(`unix:${socketPath}`, credentials.createInsecure()));
}

function connected<T extends { close(): void }>(client: T): T {
  clients.push(client);
  return client;
}

/** Calls a unary method and gives its answer, or throws its ServiceError. */
function ask<M extends UnaryMethod>(client: object, method: M, request: RequestOf<M>): Promise<ResponseOf<M>> {
  return new Promise((resolve, reject) => {
    const call = (client as Record<M, UnaryCall<M>>)[method].bind(client);
    call(request, (err, response) => (err ? reject(err) : resolve(response)));
  });
}

type UnaryMethod = { [M in Method]: (typeof METHODS)[M]["responseStream"] extends true ? never : M }[Method];
type UnaryCall<M extends Method> = (
  request: RequestOf<M>,
  callback: (err: ServiceError | null, response: ResponseOf<M>) => void,
) => unknown;

const facts = {
  version: "1.2.3",
  runtimeReady: () => ({ holds: true, reason: "", message: "" }),
  networkReady: () => ({ holds: false, reason: "NetworkNotReady", message: "the bridge is gone" }),
  runtimeHandlers: [{ name: "", hasUserNamespaces: false, hasRecursiveReadonlyMounts: true }],
  configuration: () => ({ stateDir: "/var/lib/minke/state", bytes: 2n ** 60n }),
};

describe("introspection", () => {
  test("version names minke, its version and v1", async () => {
    const client = await serve(introspectionVerbs(facts));
    expect(await ask(client, "version", { version: "" })).toEqual({
      version: "0.1.0",
      runtimeName: "minke",
      runtimeVersion: "1.2.3",
      runtimeApiVersion: "v1",
    });
  });

  test("status has both conditions and no info unless verbose", async () => {
    const client = await serve(introspectionVerbs(facts));
    const response = await ask(client, "status", { verbose: false });
    expect(response.status?.conditions).toEqual([
      { type: "RuntimeReady", status: true, reason: "", message: "" },
      { type: "NetworkReady", status: false, reason: "NetworkNotReady", message: "the bridge is gone" },
    ]);
    expect(response.info).toEqual({});
    expect(response.runtimeHandlers).toEqual([
      { name: "", features: { userNamespaces: false, recursiveReadOnlyMounts: true } },
    ]);
  });

  test("verbose status shows the configuration as JSON", async () => {
    const client = await serve(introspectionVerbs(facts));
    const { info } = await ask(client, "status", { verbose: true });
    expect(JSON.parse(info["config"] ?? "")).toEqual({
      stateDir: "/var/lib/minke/state",
      bytes: "1152921504606846976",
    });
  });

  test("runtimeConfig says cgroupfs", async () => {
    const client = await serve(introspectionVerbs(facts));
    const { linux } = await ask(client, "runtimeConfig", {});
    expect(linux?.cgroupDriver).toBe(CgroupDriver.CGROUPFS);
  });
});

describe("errors", () => {
  test("a verb that does not exist answers UNIMPLEMENTED, of both services", async () => {
    const client = await serve({});
    await expect(ask(client, "stopPodSandbox", { podSandboxId: "x" })).rejects.toMatchObject({
      code: 12,
      details: expect.stringContaining("StopPodSandbox is not implemented"),
    });
    const images = connected(new ImageServiceClient(`unix:${socketPath}`, credentials.createInsecure()));
    await expect(ask(images, "imageFsInfo", {})).rejects.toMatchObject({ code: 12 });
    const stream = client.getContainerEvents({});
    await expect(new Promise((_, reject) => stream.on("error", reject))).rejects.toMatchObject({ code: 12 });
  });

  test.each(Object.entries(STATUS_BY_KIND))("kind %s arrives as status %d with its code", async (kind, status) => {
    const client = await serve({
      version: () => {
        throw new RuntimeError("refused", { kind: kind as ErrorKind, code: "IMAGE_NOT_FOUND" });
      },
    });
    const err = await ask(client, "version", { version: "" }).catch((thrown: ServiceError) => thrown);
    expect(err).toMatchObject({ code: status, details: "refused" });
    expect((err as ServiceError).metadata.get("minke-code")).toEqual(["IMAGE_NOT_FOUND"]);
  });

  test("what is no RuntimeError arrives as INTERNAL", async () => {
    const client = await serve({ version: () => Promise.reject(new TypeError("oops")) });
    await expect(ask(client, "version", { version: "" })).rejects.toMatchObject({ code: 13 });
  });

  test("a message beyond the size of trailers still carries its status", async () => {
    const client = await serve({
      version: () => {
        throw new RuntimeError("x".repeat(1_000_000), { kind: "not-found", code: "IMAGE_NOT_FOUND" });
      },
    });
    await expect(ask(client, "version", { version: "" })).rejects.toMatchObject({ code: 5 });
  });

  test("a call that was answered does not abort its verb's signal", async () => {
    let seen: AbortSignal | undefined;
    const client = await serve({
      removeContainer: (_, { signal }) => {
        seen = signal;
        return {};
      },
      stopContainer: () => ({}),
    });
    await ask(client, "removeContainer", { containerId: "x" });
    // The first call's stream has ended before the second one is answered.
    await ask(client, "stopContainer", { containerId: "x", timeout: 0n });
    await ask(client, "stopContainer", { containerId: "x", timeout: 0n });
    expect(seen?.aborted).toBe(false);
  });

  test("a caller that cancels aborts the verb's signal", async () => {
    let seen: AbortSignal | undefined;
    const client = await serve({
      version: (_request, { signal }) => {
        seen = signal;
        return new Promise(() => undefined);
      },
    });
    const call = client.version({ version: "" }, () => undefined);
    await expect.poll(() => seen).toBeDefined();
    call.cancel();
    await expect.poll(() => seen?.aborted).toBe(true);
    expect(seen?.reason).toMatchObject({ kind: "cancelled", code: "CANCELLED" });
  });
});

test("a streaming verb's responses arrive in order and the stream ends", async () => {
  const client = await serve({
    streamImages: async function* () {
      for (let i = 0; i < 500; i++) yield await Promise.resolve({ images: [image(`id-${i}`)] });
    },
  });
  const images = connected(new ImageServiceClient(`unix:${socketPath}`, credentials.createInsecure()));
  expect(client).toBeDefined();
  const ids: (string | undefined)[] = [];
  for await (const response of images.streamImages({ filter: undefined })) {
    ids.push((response as { images: { id: string }[] }).images[0]?.id);
  }
  expect(ids).toEqual(Array.from({ length: 500 }, (_, i) => `id-${i}`));
});

function image(id: string) {
  return { id, repoTags: [], repoDigests: [], size: 0n, uid: undefined, username: "", spec: undefined, pinned: false };
}

describe("the socket file", () => {
  test("has mode 0660 and is gone after close", async () => {
    await serve({});
    expect(statSync(socketPath).mode & 0o777).toBe(0o660);
    await server?.close(50);
    server = undefined;
    expect(existsSync(socketPath)).toBe(false);
  });

  test("of a dead daemon is replaced", async () => {
    await leaveStaleSocket(socketPath);
    expect(existsSync(socketPath)).toBe(true);
    const client = await serve(introspectionVerbs(facts));
    await expect(ask(client, "version", { version: "" })).resolves.toMatchObject({ runtimeName: "minke" });
  });

  test("that another process serves is SOCKET_IN_USE", async () => {
    await serve({});
    await expect(createCriServer({ socketPath, verbs: {}, log })).rejects.toMatchObject({ code: "SOCKET_IN_USE" });
  });

  test("that is no socket is SOCKET_IN_USE and left alone", async () => {
    writeFileSync(socketPath, "precious");
    await expect(createCriServer({ socketPath, verbs: {}, log })).rejects.toMatchObject({ code: "SOCKET_IN_USE" });
    expect(existsSync(socketPath)).toBe(true);
  });

  test("may have a path beyond 107 bytes", async () => {
    const deep = join(folder, "d".repeat(120));
    mkdirSync(deep);
    server = await createCriServer({ socketPath: join(deep, "cri.sock"), verbs: {}, log });
    expect(statSync(join(deep, "cri.sock")).isSocket()).toBe(true);
  });

  test("in a folder that does not exist is refused with its path", async () => {
    const nowhere = join(folder, "nowhere", "cri.sock");
    await expect(createCriServer({ socketPath: nowhere, verbs: {}, log })).rejects.toThrow(nowhere);
  });
});

/** A socket file that nobody serves: hidden from the server that would remove it while that closes. */
async function leaveStaleSocket(path: string): Promise<void> {
  const dead = createServer();
  await new Promise<void>((resolve) => dead.listen(`${path}.dead`, resolve));
  linkSync(`${path}.dead`, path);
  await new Promise((resolve) => dead.close(resolve));
}
