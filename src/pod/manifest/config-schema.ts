/**
 * ConfigMap and Secret: shape, rules and what Kubernetes fills in (pkg/apis/core/validation).
 */
import { z } from "zod";
import type { FieldProblem } from "./problems.js";
import { metadataSchema } from "./schema.js";

const texts = z.record(z.string(), z.string());

export const configMapSchema = z.strictObject({
  apiVersion: z.literal("v1"),
  kind: z.literal("ConfigMap"),
  metadata: metadataSchema,
  data: texts.nullish(),
  /** Base64. */
  binaryData: texts.nullish(),
  immutable: z.boolean().nullish(),
});

export const secretSchema = z.strictObject({
  apiVersion: z.literal("v1"),
  kind: z.literal("Secret"),
  metadata: metadataSchema,
  type: z.string().optional(),
  /** Base64. */
  data: texts.nullish(),
  stringData: texts.nullish(),
  immutable: z.boolean().nullish(),
});

type ConfigManifest = z.infer<typeof configMapSchema> | z.infer<typeof secretSchema>;

/** A ConfigMap or Secret as it is kept and shown: stringData merged, names set. */
export interface ConfigObject {
  readonly apiVersion: "v1";
  readonly kind: "ConfigMap" | "Secret";
  readonly metadata: {
    readonly name: string;
    readonly namespace: string;
    readonly labels?: Readonly<Record<string, string>> | undefined;
    readonly annotations?: Readonly<Record<string, string>> | undefined;
  };
  /** Of a Secret only. */
  readonly type?: string | undefined;
  /** Text for a ConfigMap, base64 for a Secret. */
  readonly data?: Readonly<Record<string, string>> | undefined;
  /** Base64; of a ConfigMap only. */
  readonly binaryData?: Readonly<Record<string, string>> | undefined;
  readonly immutable?: boolean | undefined;
}

const KEY = /^[-._a-zA-Z0-9]{1,253}$/;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}(?:==)?|[A-Za-z0-9+/]{3}=?)?$/;
/** core.MaxSecretSize. */
const LIMIT_BYTES = 1024 * 1024;

/** What is wrong with an object whose shape is right; never shows a value. */
export function configProblems(manifest: ConfigManifest): FieldProblem[] {
  const problems: FieldProblem[] = [];
  const maps: [string, Record<string, string> | null | undefined, boolean][] =
    manifest.kind === "Secret"
      ? [
          ["data", manifest.data, true],
          ["stringData", manifest.stringData, false],
        ]
      : [
          ["data", manifest.data, false],
          ["binaryData", manifest.binaryData, true],
        ];
  let size = 0;
  for (const [field, map, isBase64] of maps) {
    for (const [key, value] of Object.entries(map ?? {})) {
      const path = `${field}["${key}"]`;
      if (!KEY.test(key) || key === "." || key.startsWith("..")) {
        problems.push({ path, message: 'a key is made of letters, digits, "-", "_" and ".", at most 253' });
      }
      if (isBase64 && !BASE64.test(value.replace(/\s/g, "")))
        problems.push({ path, message: "the value is not base64" });
      if (field === "binaryData" && manifest.data?.[key] !== undefined)
        problems.push({ path, message: "the key is in data as well" });
      size += isBase64 ? Math.floor((value.length * 3) / 4) : Buffer.byteLength(value);
    }
  }
  if (size > LIMIT_BYTES) problems.push({ path: "data", message: `more than ${LIMIT_BYTES} bytes altogether` });
  return problems;
}

/** @param namespace for a manifest that names none */
export function toConfigObject(manifest: ConfigManifest, namespace: string): ConfigObject {
  const { name = "", labels, annotations } = manifest.metadata;
  const metadata = {
    name,
    namespace: manifest.metadata.namespace ?? namespace,
    ...(labels && { labels }),
    ...(annotations && { annotations }),
  };
  const immutable = manifest.immutable ? { immutable: true } : {};
  if (manifest.kind === "ConfigMap") {
    const { data, binaryData } = manifest;
    return {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata,
      ...(data && { data }),
      ...(binaryData && { binaryData: normal(binaryData) }),
      ...immutable,
    };
  }
  const encoded = Object.entries(manifest.stringData ?? {}).map(([key, value]) => [
    key,
    Buffer.from(value).toString("base64"),
  ]);
  const data = { ...normal(manifest.data ?? {}), ...(Object.fromEntries(encoded) as Record<string, string>) };
  return { apiVersion: "v1", kind: "Secret", metadata, type: manifest.type ?? "Opaque", data, ...immutable };
}

/** YAML folds long base64 over lines. */
function normal(map: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(map).map(([key, value]) => [key, value.replace(/\s/g, "")]));
}

/** What of an object is read: variables are made from `data` alone, files from binaryData too. */
export type ConfigPart = "data" | "all";

/** The bytes by key. */
export function configContent(object: ConfigObject, part: ConfigPart): ReadonlyMap<string, Buffer> {
  const encoding = object.kind === "Secret" ? "base64" : "utf8";
  return new Map([
    ...Object.entries(object.data ?? {}).map(([key, value]): [string, Buffer] => [key, Buffer.from(value, encoding)]),
    ...Object.entries((part === "all" && object.binaryData) || {}).map(([key, value]): [string, Buffer] => [
      key,
      Buffer.from(value, "base64"),
    ]),
  ]);
}
