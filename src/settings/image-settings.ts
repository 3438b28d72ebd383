/** The tables `[registries]`, `[images]` and `[images.collection]` of the settings file. */
import { z } from "zod";
import { absolutePath, MAX_TIMER_MS } from "./fields.js";

export interface RegistrySettings {
  /** Base address that replaces `https://<host>`: `http://127.0.0.1:5000`. */
  readonly endpoint?: string | undefined;
  /** Base addresses that are asked before it, in this order. */
  readonly mirrors?: readonly string[] | undefined;
  /** PEM files, absolute paths. */
  readonly ca?: readonly string[] | undefined;
  readonly clientCert?: string | undefined;
  readonly clientKey?: string | undefined;
  /** Takes any certificate. */
  readonly skipVerify?: boolean | undefined;
  /** HTTP instead of HTTPS where no endpoint is given. */
  readonly plainHttp?: boolean | undefined;
}

export interface ImageSettings {
  /** Layers fetched and unpacked at once, over all pulls. */
  readonly parallelLayers: number;
  /** Of one layer's tar stream; also of its files together. */
  readonly maxLayerBytes: number;
  /** A download without progress for so long is given up. */
  readonly progressTimeoutMs: number;
  /** Fetch layers from the foreign addresses that an image names. */
  readonly allowForeignLayers: boolean;
  /** Docker's config.json, for registry credentials; absolute. */
  readonly dockerConfigPath?: string | undefined;
  readonly collection: CollectionSettings;
}

/** When images that nobody needs are removed without being asked for. */
export interface CollectionSettings {
  /** Of images that minke's own pods and commands brought. */
  readonly enabled: boolean;
  /** Also of those that came through CRI; a kubelet collects its own. */
  readonly cri: boolean;
  /** Above so much of the file system in use, until it is below the low mark. */
  readonly highPercent: number;
  readonly lowPercent: number;
  /** Younger in disuse than this nothing is collected. */
  readonly minUnusedMs: number;
  /** Older in disuse than this it is, whatever the file system; 0: never by age. */
  readonly maxUnusedMs: number;
  readonly intervalMs: number;
  /** References that are kept whatever happens. */
  readonly pinned: readonly string[];
}

const address = z
  .url({ protocol: /^https?$/, error: "must be an http or https address" })
  .transform((text) => text.replace(/\/+$/, ""));

export const registrySchema = z
  .strictObject({
    endpoint: address.optional(),
    mirrors: z.array(address).max(16).optional(),
    ca: z.union([absolutePath, z.array(absolutePath)]).optional(),
    "client-cert": absolutePath.optional(),
    "client-key": absolutePath.optional(),
    "skip-verify": z.boolean().optional(),
    "plain-http": z.boolean().optional(),
  })
  .refine((file) => file["client-key"] === undefined || file["client-cert"] !== undefined, {
    path: ["client-key"],
    error: "needs a client-cert",
  })
  .transform(
    (file): RegistrySettings => ({
      ...(file.endpoint === undefined ? {} : { endpoint: file.endpoint }),
      ...(file.mirrors === undefined ? {} : { mirrors: file.mirrors }),
      ...(file.ca === undefined ? {} : { ca: [file.ca].flat() }),
      ...(file["client-cert"] === undefined ? {} : { clientCert: file["client-cert"] }),
      ...(file["client-key"] === undefined ? {} : { clientKey: file["client-key"] }),
      ...(file["skip-verify"] === undefined ? {} : { skipVerify: file["skip-verify"] }),
      ...(file["plain-http"] === undefined ? {} : { plainHttp: file["plain-http"] }),
    }),
  );

const collectionSchema = z
  .strictObject({
    enabled: z.boolean().default(true),
    cri: z.boolean().default(false),
    "high-percent": z.number().min(0).max(100).default(85),
    "low-percent": z.number().min(0).max(100).default(80),
    "min-unused-ms": z.int().min(0).default(120_000),
    "max-unused-ms": z.int().min(0).default(0),
    "interval-ms": z.int().min(1000).max(MAX_TIMER_MS).default(300_000),
    pinned: z.array(z.string().min(1)).max(1000).default([]),
  })
  .refine((file) => file["low-percent"] <= file["high-percent"], "low-percent must not be above high-percent")
  .transform(
    (file): CollectionSettings => ({
      enabled: file.enabled,
      cri: file.cri,
      highPercent: file["high-percent"],
      lowPercent: file["low-percent"],
      minUnusedMs: file["min-unused-ms"],
      maxUnusedMs: file["max-unused-ms"],
      intervalMs: file["interval-ms"],
      pinned: file.pinned,
    }),
  );

export const imagesSchema = z
  .strictObject({
    "parallel-layers": z.int().min(1).max(64).default(4),
    "max-layer-bytes": z
      .int()
      .min(1)
      .default(64 * 1024 ** 3),
    "progress-timeout-ms": z.int().min(1000).max(MAX_TIMER_MS).default(60_000),
    "allow-foreign-layers": z.boolean().default(false),
    "docker-config-path": absolutePath.optional(),
    collection: collectionSchema.prefault({}),
  })
  .transform(
    (file): ImageSettings => ({
      parallelLayers: file["parallel-layers"],
      maxLayerBytes: file["max-layer-bytes"],
      progressTimeoutMs: file["progress-timeout-ms"],
      allowForeignLayers: file["allow-foreign-layers"],
      collection: file.collection,
      ...(file["docker-config-path"] === undefined ? {} : { dockerConfigPath: file["docker-config-path"] }),
    }),
  );
