import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ImageStore } from "../../src/image/image-store.js";
import { Paths } from "../../src/settings/paths.js";
import { fixtureLayout } from "../harness/fixtures.js";

/** Of the requests of a pull, which one this is. */
function stageOf(name: string, manifest: string, layer: string | undefined): string {
  if (name === "1" || name === manifest) return "manifest";
  return name === layer ? "layer" : "config";
}

/** A registry of the probe image that sends its last layer as a test says. */
let layout: string;
let root: string;
let store: ImageStore;
let server: Server;
let ref: string;
/** Answers in the place of the registry where it gives true. */
let spoil: (stage: string, response: ServerResponse, bytes: Buffer) => boolean | undefined;
let sendLayer: (response: ServerResponse, bytes: Buffer, request: IncomingMessage) => void;

beforeEach(async () => {
  layout = await fixtureLayout();
  root = await mkdtemp(join(tmpdir(), "minke-images-trouble-"));
  store = await ImageStore.open(new Paths(root, join(root, "run")), { times: { retryBaseMs: 10 } });
  const index = JSON.parse(await readFile(join(layout, "index.json"), "utf8")) as {
    manifests: { digest: string; mediaType: string }[];
  };
  const top = index.manifests[2] ?? { digest: "", mediaType: "" };
  const blob = (digest: string) => readFile(join(layout, "blobs/sha256", digest.slice(7)));
  const last = (JSON.parse((await blob(top.digest)).toString()) as { layers: { digest: string }[] }).layers[1]?.digest;
  spoil = () => false;
  sendLayer = (response, bytes) => void response.end(bytes);
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const name =
      decodeURIComponent(request.url ?? "")
        .replace(/\?.*/, "")
        .split("/")
        .at(-1) ?? "";
    const bytes = await blob(name === "1" ? top.digest : name);
    if (spoil(stageOf(name, top.digest, last), response, bytes)) return;
    if (name === last) return sendLayer(response, bytes, request);
    response.writeHead(200, name === "1" ? { "content-type": top.mediaType } : {}).end(bytes);
  };
  server = createServer((request, response) => void answer(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  ref = `127.0.0.1:${typeof address === "object" ? address?.port : 0}/probe:1`;
});
afterEach(async () => {
  await store.close();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(root, { recursive: true, force: true });
});

async function leftovers(): Promise<string[]> {
  const dirs = ["tmp", "layers", "blobs/sha256", "state/durable/images", "state/durable/layers"];
  return (await Promise.all(dirs.map((dir) => readdir(join(root, dir))))).flat();
}

describe("a layer of a foreign address, on another host, behind an index,", () => {
  let elsewhere: Server;
  let asked: IncomingMessage[];

  /** The registry gives an index whose manifest says that its last layer is elsewhere, and does not have it. */
  beforeEach(async () => {
    const index = JSON.parse(await readFile(join(layout, "index.json"), "utf8")) as {
      manifests: { digest: string; mediaType: string }[];
    };
    const blob = (digest: string) => readFile(join(layout, "blobs/sha256", digest.slice(7)));
    const manifest = JSON.parse((await blob(index.manifests[2]?.digest ?? "")).toString()) as {
      layers: { digest: string; mediaType: string; urls?: string[] }[];
    };
    const last = manifest.layers[1];
    if (!last) throw new Error("the probe image has two layers");
    const bytes = await blob(last.digest);
    asked = [];
    elsewhere = createServer((request, response) => {
      asked.push(request);
      response.end(bytes);
    });
    await new Promise<void>((resolve) => elsewhere.listen(0, "127.0.0.1", resolve));
    const address = elsewhere.address();
    last.urls = [`http://127.0.0.1:${typeof address === "object" ? address?.port : 0}/layer.tar.gz`];
    last.mediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    const own = Buffer.from(JSON.stringify(manifest));
    const digest = `sha256:${createHash("sha256").update(own).digest("hex")}`;
    const platform = { os: "linux", architecture: process.arch === "x64" ? "amd64" : process.arch };
    const mediaType = "application/vnd.oci.image.manifest.v1+json";
    const top = {
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.index.v1+json",
      manifests: [{ mediaType, digest, size: own.length, platform }],
    };
    server.removeAllListeners("request");
    const answer = async (request: IncomingMessage, response: ServerResponse) => {
      const name =
        decodeURIComponent(request.url ?? "")
          .split("/")
          .at(-1) ?? "";
      if (name === last.digest) response.writeHead(404).end();
      else if (name === "1") response.writeHead(200, { "content-type": top.mediaType }).end(JSON.stringify(top));
      else if (name === digest) response.writeHead(200, { "content-type": mediaType }).end(own);
      else response.end(await blob(name));
    };
    server.on("request", (request, response) => void answer(request, response));
  });
  afterEach(() => new Promise((resolve) => elsewhere.close(resolve)));

  test("is refused by default, and its host is not asked", async () => {
    await expect(store.pull(ref)).rejects.toMatchObject({
      kind: "unimplemented",
      code: "IMAGE_UNSUPPORTED",
      message: expect.stringContaining("allow-foreign-layers") as string,
    });
    expect(asked).toEqual([]);
    expect(await leftovers()).toEqual([]);
  });

  test("is fetched where the settings allow it, without a credential of the registry", async () => {
    await store.close();
    store = await ImageStore.open(new Paths(root, join(root, "run")), { allowForeignLayers: true });
    const auth = { username: "anna", password: "secret" };
    const { layers } = await store.pull(ref, { auth });
    expect(layers).toHaveLength(2);
    expect(asked.map(({ url, headers }) => [url, headers.authorization])).toEqual([["/layer.tar.gz", undefined]]);
  });
});

test.each<[string, string, string, (response: ServerResponse, bytes: Buffer) => void]>([
  [
    "cut by a closed connection",
    "unavailable",
    "REGISTRY_UNAVAILABLE",
    (response, bytes) => {
      response.writeHead(200, { "content-length": bytes.length });
      response.write(bytes.subarray(0, 100_000), () => response.destroy());
    },
  ],
  [
    "shorter than its descriptor says",
    "unavailable",
    "REGISTRY_UNAVAILABLE",
    (response, bytes) => {
      // Two pieces: chunked, so that no length is announced.
      response.write(bytes.subarray(0, 100_000));
      response.end();
    },
  ],
  [
    "longer than its descriptor says",
    "data-loss",
    "DIGEST_MISMATCH",
    (response, bytes) => void response.end(Buffer.concat([bytes, bytes])),
  ],
  [
    "of a lying content-length",
    "data-loss",
    "DIGEST_MISMATCH",
    (response, bytes) => void response.writeHead(200, { "content-length": 5 }).end(bytes.subarray(0, 5)),
  ],
  ["with HTTP 500", "unavailable", "REGISTRY_UNAVAILABLE", (response) => void response.writeHead(500).end()],
  [
    "redirected in a circle",
    "unavailable",
    "REGISTRY_UNAVAILABLE",
    (response) => void response.writeHead(307, { location: "?again" }).end(),
  ],
])("a layer %s is %s %s and leaves nothing", async (_, kind, code, send) => {
  sendLayer = send;
  await expect(store.pull(ref)).rejects.toMatchObject({ kind, code });
  expect(await leftovers()).toEqual([]);
});

test("loadLayout of a tar of the layout gives the same images as the directory", async () => {
  const archive = join(root, "layout.tar");
  execFileSync("tar", ["-cf", archive, "-C", layout, "."]);
  const records = await store.loadLayout(archive);
  expect(records.map(({ repoTags }) => repoTags[0])).toEqual([
    "minke.test/busybox:1",
    "minke.test/nginx:1",
    "minke.test/probe:1",
  ]);
  expect(await readdir(join(root, "tmp"))).toEqual([]);
});

test("a layer whose connection breaks is gone on with, and the image is whole", async () => {
  let asked = 0;
  sendLayer = (response, bytes, request) => {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const range = { "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` };
    response.writeHead(from > 0 ? 206 : 200, { "content-length": bytes.length - from, ...(from > 0 ? range : {}) });
    if (++asked > 3) response.end(bytes.subarray(from));
    else response.write(bytes.subarray(from, from + 100_000), () => setTimeout(() => response.destroy(), 10));
  };
  const record = await store.pull(ref);
  expect(asked).toBe(4);
  expect(store.lowerDirs(record.id)).toHaveLength(2);
});

test("a layer that is resumed with other bytes is data-loss and leaves nothing", async () => {
  sendLayer = (response, bytes, request) => {
    const wrong = Buffer.alloc(bytes.length, 7);
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const range = { "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` };
    response.writeHead(from > 0 ? 206 : 200, { "content-length": bytes.length - from, ...(from > 0 ? range : {}) });
    if (from > 0) response.end(wrong.subarray(from));
    else response.write(bytes.subarray(0, 100_000), () => setTimeout(() => response.destroy(), 10));
  };
  await expect(store.pull(ref)).rejects.toMatchObject({ kind: "data-loss" });
  expect(await leftovers()).toEqual([]);
});

test("a pull that is cancelled at any moment leaves nothing, and the next one works", async () => {
  const pieces = (response: ServerResponse, bytes: Buffer) => {
    let at = 0;
    const timer = setInterval(() => {
      response.write(bytes.subarray(at, at + 20_000));
      at += 20_000;
      if (at < bytes.length) return;
      clearInterval(timer);
      response.end();
    }, 1);
    response.once("close", () => clearInterval(timer));
  };
  sendLayer = pieces;
  for (let afterMs = 0; afterMs <= 120; afterMs += 10) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), afterMs);
    const outcome = await store.pull(ref, { signal: abort.signal }).catch((err: unknown) => err);
    clearTimeout(timer);
    if (!(outcome instanceof Error)) break;
    expect(outcome).toMatchObject({ kind: "cancelled", code: "CANCELLED" });
    expect(await leftovers()).toEqual([]);
  }
  expect((await store.pull(ref)).repoTags).toEqual([ref]);
});

test("a layer whose resumed rest is of another blob is fetched anew, whole, and is right", async () => {
  const ranges: (string | undefined)[] = [];
  sendLayer = (response, bytes, request) => {
    const { range } = request.headers;
    ranges.push(range);
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
    const part = { "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` };
    response.writeHead(from > 0 ? 206 : 200, { "content-length": bytes.length - from, ...(from > 0 ? part : {}) });
    if (from > 0) response.end(Buffer.alloc(bytes.length - from, 7));
    else if (ranges.length > 1) response.end(bytes);
    else response.write(bytes.subarray(0, 100_000), () => setTimeout(() => response.destroy(), 200));
  };
  const record = await store.pull(ref);
  expect(store.lowerDirs(record.id)).toHaveLength(2);
  expect(ranges).toEqual([undefined, expect.stringMatching(/^bytes=\d+-$/), undefined]);
});

describe("a registry that dies", () => {
  const STAGES = ["manifest", "config", "layer"] as const;
  const WAYS: Readonly<Record<string, (response: ServerResponse, bytes: Buffer) => void>> = {
    "before it answers": (response) => void response.destroy(),
    "within the head of its answer": (response) => {
      response.socket?.write("HTTP/1.1 200 OK\r\ncontent-le");
      setTimeout(() => response.destroy(), 5);
    },
    "before the first byte": (response, bytes) => {
      response.writeHead(200, { "content-length": bytes.length }).flushHeaders();
      setTimeout(() => response.destroy(), 5);
    },
    "within the body": (response, bytes) => {
      response.writeHead(200, { "content-length": bytes.length });
      response.write(bytes.subarray(0, bytes.length >> 1), () => setTimeout(() => response.destroy(), 5));
    },
  };
  const cases = STAGES.flatMap((stage) => Object.keys(WAYS).map((way) => [stage, way] as const));

  test.each(cases)(
    "at the %s, %s, for good: unavailable REGISTRY_UNAVAILABLE, and nothing is left",
    async (stage, way) => {
      spoil = (name, response, bytes) => name === stage && (WAYS[way]?.(response, bytes), true);
      await expect(store.pull(ref)).rejects.toMatchObject({ kind: "unavailable", code: "REGISTRY_UNAVAILABLE" });
      expect(await leftovers()).toEqual([]);
    },
  );

  test.each(cases)("at the %s, %s, once: the image is pulled", async (stage, way) => {
    let isDone = false;
    spoil = (name, response, bytes) => {
      if (isDone || name !== stage) return false;
      isDone = true;
      WAYS[way]?.(response, bytes);
      return true;
    };
    const record = await store.pull(ref);
    expect(isDone).toBe(true);
    expect(store.lowerDirs(record.id)).toHaveLength(2);
  });
});
