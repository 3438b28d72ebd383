/**
 * The daemon's settings: defaults, and what `/etc/minke/config.toml` says over them.
 *
 * Keys in the file are kebab-case, in code camelCase. A key that is unknown here is refused
 * by its path: a misspelt limit must not be a missing limit. Read once, at start; main hands
 * the parts to those who need them, nobody reads the file a second time.
 */
import { readFile } from "node:fs/promises";
import { parse, TomlError } from "smol-toml";
import { z } from "zod";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";
import { absolutePath, MAX_TIMER_MS } from "./fields.js";
import { type ImageSettings, imagesSchema, registrySchema, type RegistrySettings } from "./image-settings.js";
import { networkSchema, type NetworkSettings } from "./network-settings.js";
import {
  metricsSchema,
  type MetricsSettings,
  nriSchema,
  type NriSettings,
  streamingSchema,
  type StreamingSettings,
} from "./socket-settings.js";
import { wrongValue } from "./wrong-value.js";

export const DEFAULT_SETTINGS_FILE = "/etc/minke/config.toml";

/** More than any settings file needs: limits come before parsing. */
const MAX_FILE_BYTES = 1024 * 1024;

export type LogLevel = "trace" | "debug" | "info" | "warn" | "error" | "silent";

/** An OCI runtime that serves as runtime handler. */
export interface RuntimeHandlerSettings {
  /** Its program, absolute. */
  readonly path: string;
  /** Arguments before the command. */
  readonly args: readonly string[];
}

export interface Settings {
  readonly logLevel: LogLevel;
  /** Below the cgroup v2 mount; everything that minke makes lies below this. */
  readonly cgroupRoot: string;
  /** A limit whose controller cgroup v2 lacks is a warning in the status instead of an error. */
  readonly tolerateMissingControllers: boolean;
  readonly network: NetworkSettings;
  /** By host of the image reference, with port where it has one. */
  readonly registries: Readonly<Record<string, RegistrySettings>>;
  /** containerd's `certs.d`, read for hosts that `registries` does not name; absolute. */
  readonly registryConfigPath?: string | undefined;
  readonly images: ImageSettings;
  /** By name; the built-in one is not here. */
  readonly runtimeHandlers: Readonly<Record<string, RuntimeHandlerSettings>>;
  /** Rotation of the logs of pods' containers; a kubelet rotates its own. */
  readonly logs: { readonly maxBytes: number; readonly maxFiles: number };
  /** Delay between restarts of a container that keeps ending: doubled from base to max. */
  readonly backoff: { readonly baseMs: number; readonly maxMs: number };
  readonly metrics: MetricsSettings;
  readonly nri: NriSettings;
  /** Ids of the host for pods with a user namespace whose ids nobody else chooses. */
  readonly userNamespaces: { readonly firstId: number; readonly idsPerPod: number; readonly maxPods: number };
  /** Directories of CDI specifications; the last one wins. */
  readonly cdiDirs: readonly string[];
  /** Where exec, attach and port-forward of CRI find their streams. */
  readonly streaming: StreamingSettings;
  readonly pods: {
    /** Between the stop signal and SIGKILL where the manifest has no terminationGracePeriodSeconds. */
    readonly gracePeriodMs: number;
  };
}

const runtimeHandlerSchema = z.strictObject({
  path: absolutePath,
  args: z.array(z.string()).max(32).default([]),
});

const userNamespacesSchema = z
  .strictObject({
    // Behind the containers of systemd-nspawn, and before what else it has a use for (systemd.io, UIDS-GIDS).
    "first-id": z.int().min(65_536).default(0x7000_0000),
    // POSIX users up to nobody, 65534.
    "ids-per-pod": z.int().min(65_536).default(65_536),
    "max-pods": z.int().min(1).max(65_535).default(4_000),
  })
  // The highest id is none (setresuid(2)).
  .refine((file) => file["first-id"] + file["ids-per-pod"] * file["max-pods"] <= 0xffff_ffff, {
    error: "the ranges do not fit below id 4294967295",
  })
  .transform((file) => ({
    firstId: file["first-id"],
    idsPerPod: file["ids-per-pod"],
    maxPods: file["max-pods"],
  }));

const fileSchema = z
  .strictObject({
    "log-level": z.enum(["trace", "debug", "info", "warn", "error", "silent"]).default("info"),
    "cgroup-root": z
      .string()
      .regex(
        /^(?!.*(^|\/)\.\.?(\/|$))[^/\s][^\s]*[^/\s]$|^[^/.\s]$/,
        "must be a path relative to the cgroup mount, without . or ..",
      )
      .default("minke"),
    "tolerate-missing-controllers": z.boolean().default(false),
    network: networkSchema.prefault({}),
    registries: z
      .record(
        // An address here would never match, and its settings would be without effect.
        z
          .string()
          .regex(
            /^[^\s/]+$/,
            "must be a registry's host, with its port where references have one, and no scheme or path",
          ),
        registrySchema,
      )
      .default({}),
    "registry-config-path": absolutePath.optional(),
    images: imagesSchema.prefault({}),
    "runtime-handlers": z
      .record(
        z
          .string()
          // A RuntimeClass's handler is a DNS label (RFC 1123).
          .regex(/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/, "must be a DNS label, as a RuntimeClass wants it")
          .refine((name) => name !== "minke", "minke is the name of the built-in handler"),
        runtimeHandlerSchema,
      )
      .default({}),
    logs: z
      .strictObject({
        // Below 64 KiB a busy container would rotate at every few lines.
        "max-bytes": z
          .int()
          .min(65_536)
          .default(10 * 1024 * 1024),
        "max-files": z.int().min(2).max(100).default(5),
      })
      .transform((file) => ({ maxBytes: file["max-bytes"], maxFiles: file["max-files"] }))
      .prefault({}),
    backoff: z
      .strictObject({
        "base-ms": z.int().min(1).max(MAX_TIMER_MS).default(10_000),
        "max-ms": z.int().min(1).max(MAX_TIMER_MS).default(300_000),
      })
      .refine((file) => file["base-ms"] <= file["max-ms"], "base-ms must not be above max-ms")
      .transform((file) => ({ baseMs: file["base-ms"], maxMs: file["max-ms"] }))
      .prefault({}),
    metrics: metricsSchema.prefault({}),
    cdi: z
      // SPEC.md of CDI, "CDI JSON Specification".
      .strictObject({ "spec-dirs": z.array(absolutePath).default(["/etc/cdi", "/var/run/cdi"]) })
      .prefault({}),
    streaming: streamingSchema.prefault({}),
    nri: nriSchema.prefault({}),
    "user-namespaces": userNamespacesSchema.prefault({}),
    pods: z
      .strictObject({ "grace-period-ms": z.int().min(0).max(MAX_TIMER_MS).default(30_000) })
      .transform((file) => ({ gracePeriodMs: file["grace-period-ms"] }))
      .prefault({}),
  })
  .transform(
    (file): Settings => ({
      logLevel: file["log-level"],
      cgroupRoot: file["cgroup-root"],
      tolerateMissingControllers: file["tolerate-missing-controllers"],
      network: file.network,
      registries: file.registries,
      ...(file["registry-config-path"] === undefined ? {} : { registryConfigPath: file["registry-config-path"] }),
      images: file.images,
      runtimeHandlers: file["runtime-handlers"],
      logs: file.logs,
      backoff: file.backoff,
      metrics: file.metrics,
      cdiDirs: file.cdi["spec-dirs"],
      streaming: file.streaming,
      nri: file.nri,
      userNamespaces: file["user-namespaces"],
      pods: file.pods,
    }),
  );

/** The settings of a daemon without a file. */
export const DEFAULT_SETTINGS: Settings = fileSchema.parse({});

/**
 * Reads the settings file.
 *
 * @param path `undefined`: the default file, which may be missing; one that was asked for may not
 * @throws RuntimeError `not-found` SETTINGS_NOT_FOUND, `invalid-argument` SETTINGS_INVALID:
 *   with line and column, or with the path of each wrong or unknown key
 */
export async function loadSettings(path?: string): Promise<Settings> {
  const file = path ?? DEFAULT_SETTINGS_FILE;
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (err) {
    if (!hasErrno(err, "ENOENT")) throw withContext(err, `read settings "${file}"`);
    if (path === undefined) return DEFAULT_SETTINGS;
    throw new RuntimeError(`read settings "${file}": no such file`, {
      kind: "not-found",
      code: "SETTINGS_NOT_FOUND",
      syscall: { name: "open", errno: "ENOENT" },
      cause: err,
    });
  }
  try {
    return parseSettings(text);
  } catch (err) {
    throw withContext(err, `read settings "${file}"`);
  }
}

/**
 * Settings from the text of a file.
 *
 * @throws RuntimeError `invalid-argument` SETTINGS_INVALID
 */
export function parseSettings(text: string): Settings {
  if (text.length > MAX_FILE_BYTES) throw invalid(`the file has more than ${MAX_FILE_BYTES} bytes`);
  let file: unknown;
  try {
    file = parse(text);
  } catch (err) {
    if (!(err instanceof TomlError)) throw err;
    const reason = err.message.split("\n")[0]?.replace(/^Invalid TOML document: /, "");
    throw invalid(`line ${err.line}, column ${err.column}: ${reason}`, err);
  }
  const result = fileSchema.safeParse(file, { error: wrongValue });
  if (result.success) return result.data;
  throw invalid(result.error.issues.flatMap(describeIssue).join("; "), result.error);
}

function describeIssue(issue: z.core.$ZodIssue): string[] {
  const path = issue.path.map(String);
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => `"${[...path, key].join(".")}": unknown setting`);
  }
  return [`"${path.join(".")}": ${issue.message}`];
}

function invalid(message: string, cause?: unknown): RuntimeError {
  return new RuntimeError(message, { kind: "invalid-argument", code: "SETTINGS_INVALID", cause });
}
