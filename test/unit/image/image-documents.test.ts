import { describe, expect, test } from "vitest";
import type { Digest } from "../../../src/base/ids.js";
import {
  type CheckedDescriptor,
  choosePlatform,
  parseConfig,
  parseManifestOrIndex,
} from "../../../src/image/image-documents.js";
import { createdAtNsOf } from "../../../src/image/image-record.js";
import { type ImageSource, resolveImage } from "../../../src/image/image-source.js";
import { defaultAddress, isLoopbackHost } from "../../../src/image/registry-endpoint.js";
import { MEDIA_TYPE } from "../../../src/oci/image-spec.js";

const digest = (fill: string) => `sha256:${fill.repeat(64)}` as Digest;
const json = (value: unknown) => Buffer.from(JSON.stringify(value));
const config = { mediaType: MEDIA_TYPE.config, digest: digest("a"), size: 2 };
const layer = { mediaType: MEDIA_TYPE.layerGzip, digest: digest("b"), size: 3 };
const manifest = { schemaVersion: 2, mediaType: MEDIA_TYPE.manifest, config, layers: [layer] };
const malformed = expect.objectContaining({ kind: "data-loss", code: "IMAGE_MALFORMED" }) as Error;
const unsupported = expect.objectContaining({ kind: "unimplemented", code: "IMAGE_UNSUPPORTED" }) as Error;

describe("parseManifestOrIndex", () => {
  test("of a manifest whose type was said twice alike gives it", () => {
    expect(parseManifestOrIndex(json(manifest), MEDIA_TYPE.manifest, "x")).toMatchObject({ kind: "manifest" });
  });

  test.each<[string, unknown, string | undefined]>([
    ["given as another type than it says", manifest, MEDIA_TYPE.index],
    ["manifest and index at once", { ...manifest, manifests: [] }, MEDIA_TYPE.manifest],
    ["a digest of another length", { ...manifest, config: { ...config, digest: "sha256:ab" } }, undefined],
    ["a negative size", { ...manifest, layers: [{ ...layer, size: -1 }] }, undefined],
    ["more layers than overlayfs takes", { ...manifest, layers: Array.from({ length: 501 }, () => layer) }, undefined],
    ["an array", [], undefined],
  ])("with %s is IMAGE_MALFORMED", (_, document, said) => {
    expect(() => parseManifestOrIndex(json(document), said, "x")).toThrow(malformed);
  });

  test.each<[string, unknown]>([
    ["Docker schema 1", { schemaVersion: 1, mediaType: "application/vnd.docker.distribution.manifest.v1+json" }],
    [
      "an artifact's config",
      { ...manifest, config: { ...config, mediaType: "application/vnd.cncf.helm.config.v1+json" } },
    ],
  ])("with %s is IMAGE_UNSUPPORTED", (_, document) => {
    expect(() => parseManifestOrIndex(json(document), undefined, "x")).toThrow(unsupported);
  });

  test("of more than 4 MiB is IMAGE_MALFORMED before it is parsed", () => {
    expect(() => parseManifestOrIndex(Buffer.alloc(4 * 1024 * 1024 + 1, "{"), undefined, "x")).toThrow(malformed);
  });
});

describe("parseConfig", () => {
  const body = { os: "linux", architecture: "amd64", rootfs: { type: "layers", diff_ids: [digest("c")] } };

  test("with as many diffIDs as layers gives it", () => {
    expect(parseConfig(json(body), 1, "x").rootfs.diff_ids).toEqual([digest("c")]);
  });
  test("with another number of layers is IMAGE_MALFORMED", () => {
    expect(() => parseConfig(json(body), 2, "x")).toThrow(malformed);
  });
  test("with a NUL in its environment is IMAGE_MALFORMED", () => {
    expect(() => parseConfig(json({ ...body, config: { Env: ["A=\0"] } }), 1, "x")).toThrow(malformed);
  });
});

describe("choosePlatform", () => {
  const entry = (fill: string, architecture: string, variant?: string): CheckedDescriptor => ({
    mediaType: MEDIA_TYPE.manifest,
    digest: digest(fill),
    size: 1,
    platform: { os: "linux", architecture, variant },
  });
  const choose = (entries: CheckedDescriptor[], architecture: string, variant?: string) =>
    choosePlatform(entries, { os: "linux", architecture, variant }, "x").digest;

  test("takes the architecture, not the first", () => {
    expect(choose([entry("1", "arm64"), entry("2", "amd64")], "amd64")).toBe(digest("2"));
  });
  test("on arm takes the newest variant that runs", () => {
    expect(choose([entry("1", "arm", "v5"), entry("2", "arm", "v6"), entry("3", "arm", "v8")], "arm", "v7")).toBe(
      digest("2"),
    );
  });
  test("does not take a CPU level that the machine may lack", () => {
    expect(choose([entry("1", "amd64", "v3"), entry("2", "amd64")], "amd64")).toBe(digest("2"));
  });
  test.each<[string, string, string | undefined, (string | undefined)[], number]>([
    ["v8 of arm64 is what is meant without a variant", "arm64", undefined, ["v9", "v8"], 1],
    ["arm64 without a variant runs where v8 is wanted", "arm64", "v8", [undefined], 0],
    ["v1 of amd64 is what is meant without a variant", "amd64", undefined, ["v2", "v1"], 1],
    ["arm v7 is what is meant without a variant", "arm", undefined, ["v5", "v8", "v7"], 2],
    ["an exact variant goes before none", "arm", "v6", [undefined, "v6"], 1],
    ["of equal entries the first is taken", "amd64", undefined, [undefined, undefined], 0],
  ])("%s", (_, architecture, wanted, offered, index) => {
    const entries = offered.map((variant, i) => entry(String(i), architecture, variant));
    expect(choose(entries, architecture, wanted)).toBe(digest(String(index)));
  });
  test("an entry without a platform is taken where nothing names ours, and only then", () => {
    const { platform: _, ...any } = entry("1", "");
    expect(choose([any, entry("2", "amd64")], "amd64")).toBe(digest("2"));
    expect(choose([entry("2", "s390x"), any], "amd64")).toBe(digest("1"));
  });
  test.each([
    ["amd64", undefined, "v3"],
    ["arm64", undefined, "v9"],
    ["arm", "v6", "v7"],
  ])("%s %s does not take variant %s", (architecture, wanted, offered) => {
    expect(() => choose([entry("1", architecture, offered)], architecture, wanted)).toThrow(
      expect.objectContaining({ kind: "not-found", code: "IMAGE_PLATFORM_MISSING" }) as Error,
    );
  });
  test("without a fitting entry is IMAGE_PLATFORM_MISSING", () => {
    expect(() => choose([entry("1", "arm64"), entry("2", "unknown")], "amd64")).toThrow(
      expect.objectContaining({ kind: "not-found", code: "IMAGE_PLATFORM_MISSING" }) as Error,
    );
  });
});

test.each([
  ["2023-05-18T22:34:17.123456789Z", "1684449257123456789"],
  ["1970-01-01T00:00:00Z", "0"],
  ["2023-05-18T22:34:17+02:00", "1684442057000000000"],
  ["0001-01-01T00:00:00Z", "-62135596800000000000"],
  ["yesterday", "0"],
])("createdAtNsOf %s is %s", (created, expected) => {
  expect(createdAtNsOf({ created, architecture: "", os: "", rootfs: { type: "layers", diff_ids: [] } })).toBe(expected);
});

test.each([
  [[{ created: "2020-01-01T00:00:00Z" }, { created: "2023-05-18T22:34:17Z" }], "1684449257000000000"],
  [[{ created: 5 }], "0"],
  [[null], "0"],
  [[], "0"],
  ["nonsense", "0"],
])("createdAtNsOf an image without a date, of the history %j, is %s", (history, expected) => {
  const config = { architecture: "", os: "", rootfs: { type: "layers" as const, diff_ids: [] }, history };
  expect(createdAtNsOf(config as never)).toBe(expected);
});

describe("resolveImage", () => {
  const amd64 = { os: "linux", architecture: "amd64" };
  const ownConfig = { ...amd64, rootfs: { type: "layers", diff_ids: [layer.digest] } };
  /** Indexes around the manifest, the outermost last; each names a stranger first. */
  const nest = (depth: number) => {
    const documents = [json(manifest)];
    for (let i = 0; i < depth; i++) {
      const mediaType = i === 0 ? MEDIA_TYPE.manifest : i % 2 === 0 ? MEDIA_TYPE.dockerManifestList : MEDIA_TYPE.index;
      const inner = { mediaType, digest: digest(String(i)), size: 1, ...(i === 0 ? { platform: amd64 } : {}) };
      const stranger = { ...inner, digest: digest("f"), platform: { os: "linux", architecture: "s390x" } };
      const own = i % 2 === 0 ? MEDIA_TYPE.index : MEDIA_TYPE.dockerManifestList;
      documents.push(json({ schemaVersion: 2, mediaType: own, manifests: [stranger, inner] }));
    }
    return documents;
  };
  const resolve = (documents: readonly Buffer[], top = documents.length - 1, asked: string[] = []) => {
    const source: ImageSource = {
      document: async (item) => {
        asked.push(item.digest);
        return documents[Number(item.digest[7])] as Buffer;
      },
      config: async () => json(ownConfig),
      layer: () => Promise.reject(new Error("not asked for")),
    };
    const outer = { bytes: documents[top] as Buffer, digest: digest("e"), mediaType: undefined };
    return resolveImage(source, outer, amd64, "x", new AbortController().signal);
  };

  test.each([0, 1, 2, 3])("follows %i indexes in each other to the manifest of the platform", async (depth) => {
    const documents = nest(depth);
    const { manifestBytes, manifestDigest } = await resolve(documents);
    expect(manifestBytes).toEqual(documents[0]);
    expect(manifestDigest).toBe(digest(depth === 0 ? "e" : "0"));
  });
  test("with indexes nested deeper than 3 is IMAGE_MALFORMED", async () => {
    await expect(resolve(nest(4))).rejects.toEqual(malformed);
  });
  test("of an index that leads to itself asks 3 times and is IMAGE_MALFORMED", async () => {
    const loop = json({
      schemaVersion: 2,
      mediaType: MEDIA_TYPE.index,
      manifests: [{ mediaType: MEDIA_TYPE.index, digest: digest("0"), size: 1 }],
    });
    const asked: string[] = [];
    await expect(resolve([loop], 0, asked)).rejects.toEqual(malformed);
    expect(asked).toHaveLength(3);
  });
  test("of an index whose manifest is an index is IMAGE_MALFORMED", async () => {
    const [, index] = nest(1);
    await expect(resolve([index as Buffer], 0)).rejects.toEqual(malformed);
  });
});

test.each([undefined, true])("a foreign layer is taken where the source allows it: %s", async (allowsForeignLayers) => {
  const foreign = { ...manifest, layers: [{ ...layer, mediaType: MEDIA_TYPE.dockerLayerForeign }] };
  const ownConfig = { os: "linux", architecture: "amd64", rootfs: { type: "layers", diff_ids: [layer.digest] } };
  const source: ImageSource = {
    allowsForeignLayers,
    document: () => Promise.reject(new Error("not asked for")),
    config: async () => json(ownConfig),
    layer: () => Promise.reject(new Error("not asked for")),
  };
  const top = { bytes: json(foreign), digest: layer.digest, mediaType: undefined };
  const resolved = resolveImage(source, top, { os: "linux", architecture: "amd64" }, "x", new AbortController().signal);
  if (allowsForeignLayers) expect((await resolved).manifest.layers).toHaveLength(1);
  else await expect(resolved).rejects.toMatchObject({ kind: "unimplemented", code: "IMAGE_UNSUPPORTED" });
});

describe("endpoints", () => {
  test.each(["127.0.0.1:5000", "127.8.9.1", "[::1]:5000", "localhost", "localhost:80"])(
    "%s is loopback and plain HTTP",
    (host) => {
      expect(isLoopbackHost(host)).toBe(true);
      expect(defaultAddress(host)).toBe(`http://${host}`);
    },
  );
  test.each(["127.0.0.1.example.com", "localhost.example.com", "registry.k8s.io", "[fd00::1]"])(
    "%s is reached over HTTPS",
    (host) => {
      expect(defaultAddress(host)).toBe(`https://${host}`);
    },
  );
});
