/**
 * CDI specifications (cncf-tags/container-device-interface, SPEC.md 0.3 to 1.0): files in which a
 * vendor says what a container needs to use its devices. Text -> types, and refusals. Pure.
 */
import { z } from "zod";
import { RuntimeError } from "../base/errors.js";

/** Released versions of SPEC.md, "Released versions", that this program reads. */
const VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0"];

const absolute = z.string().startsWith("/", "must be an absolute path");
const id = z.int().min(0).max(0xffff_fffe);
/** pkg/parser: letters, digits, and between them `_-.` (of a device also `:`); a vendor is a DNS name. */
const VENDOR = "[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?";
const CLASS = "[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?";
const NAME = "[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?";

const deviceNode = z.strictObject({
  path: absolute,
  hostPath: absolute.optional(),
  type: z.enum(["b", "c", "u", "p"]).optional(),
  major: z.int().min(0).optional(),
  minor: z.int().min(0).optional(),
  fileMode: z.int().min(0).max(0o7777).optional(),
  permissions: z
    .string()
    .regex(/^[rwm]{1,3}$/, "must be made of r, w and m")
    .optional(),
  uid: id.optional(),
  gid: id.optional(),
});

const mount = z.strictObject({
  hostPath: z.string().min(1),
  containerPath: absolute,
  type: z.string().optional(),
  options: z.array(z.string()).optional(),
});

export const CDI_HOOK_NAMES = [
  "prestart",
  "createRuntime",
  "createContainer",
  "startContainer",
  "poststart",
  "poststop",
] as const;

const hook = z.strictObject({
  hookName: z.enum(CDI_HOOK_NAMES),
  path: absolute,
  args: z.array(z.string()).optional(),
  env: z.array(z.string()).optional(),
  timeout: z.int().min(1).optional(),
});

const containerEdits = z.strictObject({
  env: z.array(z.string().regex(/^[^=\0]+=[^\0]*$/, "must be NAME=VALUE")).optional(),
  deviceNodes: z.array(deviceNode).optional(),
  netDevices: z.array(z.unknown()).optional(),
  hooks: z.array(hook).optional(),
  mounts: z.array(mount).optional(),
  intelRdt: z.unknown().optional(),
  additionalGids: z.array(id).optional(),
});

const annotations = z.record(z.string(), z.string()).optional();

const schema = z.strictObject({
  cdiVersion: z.enum(VERSIONS, { error: `must be one of ${VERSIONS.join(", ")}` }),
  kind: z.string().regex(new RegExp(`^${VENDOR}/${CLASS}$`), "must be vendor/class"),
  annotations,
  devices: z
    .array(
      z.strictObject({
        name: z.string().regex(new RegExp(`^${NAME}$`), "is no name of a device"),
        annotations,
        containerEdits,
      }),
    )
    .min(1),
  containerEdits: containerEdits.optional(),
});

export type CdiSpec = z.infer<typeof schema>;
export type CdiEdits = z.infer<typeof containerEdits>;

const QUALIFIED = new RegExp(`^${VENDOR}/${CLASS}=${NAME}$`);

/** True for `vendor.example/class=name`. */
export function isCdiDeviceName(name: string): boolean {
  return QUALIFIED.test(name);
}

/**
 * @param document what the file's JSON or YAML says
 * @throws RuntimeError `failed-precondition` CDI_SPEC_INVALID, with the path of each wrong field
 */
export function toCdiSpec(document: unknown): CdiSpec {
  const { data, error } = schema.safeParse(document);
  const names = new Set(data?.devices.map(({ name }) => name));
  if (data && names.size === data.devices.length) return data;
  const problems = error?.issues.map(({ path, message }) => `${path.join(".") || "the file"}: ${message}`);
  throw new RuntimeError((problems ?? ["devices: a name is there twice"]).join("; "), {
    kind: "failed-precondition",
    code: "CDI_SPEC_INVALID",
  });
}
