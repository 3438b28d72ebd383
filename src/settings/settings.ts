/**
 * The daemon's settings: defaults, and what `/etc/minke/config.toml` says over them.
 *
 * Keys in the file are kebab-case, in code camelCase. A key that is unknown here is refused
 * by its path: a misspelt limit must not be a missing limit. Read once, at start; main hands
 * the parts to those who need them, nobody reads the file a second time.
 */
import { readFile } from "node:fs/promises";
import { isIP } from "node:net";
import { parse, TomlError } from "smol-toml";
import { z } from "zod";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";

export const DEFAULT_SETTINGS_FILE = "/etc/minke/config.toml";

/** More than any settings file needs: limits come before parsing. */
const MAX_FILE_BYTES = 1024 * 1024;

export type LogLevel = "trace" | "debug" | "info" | "warn" | "error" | "silent";

export interface CniSettings {
  /** Where configurations are looked for; absolute. */
  readonly configDir: string;
  /** The one configuration, instead of the directory; absolute. */
  readonly configFile?: string | undefined;
  /** Searched for plugins in this order; absolute. */
  readonly pluginDirs: readonly string[];
  /** For one run of one plugin. */
  readonly timeoutMs: number;
  /** Where network namespaces are bound for plugins; absolute. `undefined`: `netns` below `--run`. */
  readonly netnsDir?: string | undefined;
}

export interface NetworkSettings {
  /** Who makes it: `auto` is CNI where it has a configuration, else built in. */
  readonly mode: "auto" | "builtin" | "cni";
  readonly cni: CniSettings;
  /** The bridge's name: 1 to 15 bytes. */
  readonly bridge: string;
  /** IPv4 subnet of the pods, CIDR; its first address is the bridge's. `none`: no IPv4. `undefined`: the first free of a list. */
  readonly subnet4?: string | undefined;
  /** The same of IPv6. */
  readonly subnet6?: string | undefined;
  /** Bytes; of the bridge and every pod's interface. `undefined`: the smallest of the host's links. */
  readonly mtu?: number | undefined;
  /** Links, as bridges of other networks, that pods neither reach nor are reached from, but for host ports. */
  readonly isolateFrom: readonly string[];
}

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

export interface StreamingSettings {
  /** An IP address of this machine. */
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly tls?:
    | { readonly certificate: string; readonly key: string; readonly clientCa?: string | undefined }
    | undefined;
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

/** Where the daemon's own metrics are served; neither: nowhere. */
export interface MetricsSettings {
  /** A unix socket; absolute. */
  readonly socketPath?: string | undefined;
  /** A loopback address and a port. */
  readonly listen?: { readonly host: string; readonly port: number } | undefined;
}

export interface NriSettings {
  readonly enabled: boolean;
  /** Absolute; `undefined`: `<run>/nri.sock`. */
  readonly socketPath?: string | undefined;
  /** Configuration of plugins, a file each; absolute. */
  readonly configDir: string;
  readonly registrationTimeoutMs: number;
  readonly requestTimeoutMs: number;
}

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

const absolutePath = z.string().startsWith("/", "must be an absolute path");

const linkName = z
  .string()
  .regex(/^[^\s/:%]{1,15}$/, "must be a link name of 1 to 15 characters without space, slash, colon or percent");

const cniSchema = z
  .strictObject({
    "config-dir": absolutePath.default("/etc/cni/net.d"),
    "config-file": absolutePath.optional(),
    // Where plugins are by CNI's own convention, and where Debian puts them.
    "plugin-dirs": z.array(absolutePath).min(1).max(16).default(["/opt/cni/bin", "/usr/lib/cni"]),
    "timeout-ms": z.int().min(100).max(600_000).default(60_000),
    "netns-dir": absolutePath.optional(),
  })
  .transform(
    (file): CniSettings => ({
      configDir: file["config-dir"],
      ...(file["config-file"] === undefined ? {} : { configFile: file["config-file"] }),
      pluginDirs: file["plugin-dirs"],
      timeoutMs: file["timeout-ms"],
      ...(file["netns-dir"] === undefined ? {} : { netnsDir: file["netns-dir"] }),
    }),
  );

const networkSchema = z
  .strictObject({
    mode: z.enum(["auto", "builtin", "cni"]).default("auto"),
    cni: cniSchema.prefault({}),
    bridge: linkName.default("minke0"),
    "subnet-ipv4": z
      .string()
      .refine(isSubnet(4, 8, 29), 'must be an IPv4 subnet, /8 to /29, or "none"')
      .optional(),
    "subnet-ipv6": z
      .string()
      .refine(isSubnet(6, 48, 120), 'must be an IPv6 subnet, /48 to /120, or "none"')
      .optional(),
    // 1280 is the least that IPv6 works with (RFC 8200, section 5).
    mtu: z.int().min(1280).max(65_535).optional(),
    "isolate-from": z.array(linkName).max(64).default([]),
  })
  .refine((file) => file["subnet-ipv4"] !== "none" || file["subnet-ipv6"] !== "none", {
    path: ["subnet-ipv6"],
    error: "both families are switched off",
  })
  .transform(
    (file): NetworkSettings => ({
      mode: file.mode,
      cni: file.cni,
      bridge: file.bridge,
      ...(file["subnet-ipv4"] === undefined ? {} : { subnet4: file["subnet-ipv4"] }),
      ...(file["subnet-ipv6"] === undefined ? {} : { subnet6: file["subnet-ipv6"] }),
      ...(file.mtu === undefined ? {} : { mtu: file.mtu }),
      isolateFrom: file["isolate-from"],
    }),
  );

const address = z
  .url({ protocol: /^https?$/, error: "must be an http or https address" })
  .transform((text) => text.replace(/\/+$/, ""));

const registrySchema = z
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
    "interval-ms": z.int().min(1000).default(300_000),
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

const imagesSchema = z
  .strictObject({
    "parallel-layers": z.int().min(1).max(64).default(4),
    "max-layer-bytes": z
      .int()
      .min(1)
      .default(64 * 1024 ** 3),
    "progress-timeout-ms": z.int().min(1000).default(60_000),
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

/** `127.0.0.1:9464`, `[::1]:9464`: nobody but this machine reads them. */
const LOOPBACK_PORT = /^(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]|localhost):(\d{1,5})$/;

const metricsSchema = z
  .strictObject({
    socket: absolutePath.optional(),
    listen: z
      .string()
      .refine(
        (text) => Number(LOOPBACK_PORT.exec(text)?.[2] ?? 65_536) <= 65_535,
        "must be a loopback address and a port",
      )
      .optional(),
  })
  .transform(({ socket, listen }): MetricsSettings => {
    const [, host = "", port] = LOOPBACK_PORT.exec(listen ?? "") ?? [];
    return {
      ...(socket === undefined ? {} : { socketPath: socket }),
      ...(listen === undefined ? {} : { listen: { host: host.replace(/[[\]]/g, ""), port: Number(port) } }),
    };
  });

const LOOPBACK = /^(127\.|::1$)/;

const streamingSchema = z
  .strictObject({
    // The URLs name it, so it must be an address that clients can connect to.
    address: z
      .string()
      .refine((text) => isIP(text) > 0 && !/^[0:.]+$/.test(text), "must be an IP address of this machine")
      .default("127.0.0.1"),
    port: z.int().min(0).max(65_535).default(0),
    "tls-cert": absolutePath.optional(),
    "tls-key": absolutePath.optional(),
    "tls-client-ca": absolutePath.optional(),
  })
  .refine((file) => (file["tls-cert"] === undefined) === (file["tls-key"] === undefined), {
    path: ["tls-key"],
    error: "and tls-cert go together",
  })
  .refine((file) => file["tls-client-ca"] === undefined || file["tls-cert"] !== undefined, {
    path: ["tls-client-ca"],
    error: "needs a tls-cert",
  })
  // Whoever sees a URL on its way can use it.
  .refine((file) => LOOPBACK.test(file.address) || file["tls-cert"] !== undefined, {
    path: ["address"],
    error: "beyond loopback needs tls-cert and tls-key",
  })
  .transform((file): StreamingSettings => {
    const { "tls-cert": certificate, "tls-key": key, "tls-client-ca": clientCa } = file;
    const tls = certificate !== undefined && key !== undefined ? { certificate, key, clientCa } : undefined;
    return { host: file.address, port: file.port, ...(tls && { tls }) };
  });

// The time-outs are those of NRI itself.

const nriSchema = z
  .strictObject({
    enabled: z.boolean().default(true),
    socket: absolutePath.optional(),
    "config-dir": absolutePath.default("/etc/nri/conf.d"),
    "registration-timeout-ms": z.int().min(100).max(60_000).default(5_000),
    "request-timeout-ms": z.int().min(100).max(60_000).default(2_000),
  })
  .transform(
    (file): NriSettings => ({
      enabled: file.enabled,
      ...(file.socket === undefined ? {} : { socketPath: file.socket }),
      configDir: file["config-dir"],
      registrationTimeoutMs: file["registration-timeout-ms"],
      requestTimeoutMs: file["request-timeout-ms"],
    }),
  );

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
    registries: z.record(z.string().min(1), registrySchema).default({}),
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
        "base-ms": z.int().min(1).default(10_000),
        "max-ms": z.int().min(1).default(300_000),
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
      .strictObject({ "grace-period-ms": z.int().min(0).default(30_000) })
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
  const result = fileSchema.safeParse(file);
  if (result.success) return result.data;
  throw invalid(result.error.issues.flatMap(describeIssue).join("; "), result.error);
}

function describeIssue(issue: z.core.$ZodIssue): string[] {
  const path = issue.path.map(String);
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => `"${[...path, key].join(".")}": unknown setting`);
  }
  return [`"${path.join(".")}": ${issue.message.replace(/^Invalid input: /, "")}`];
}

function invalid(message: string, cause?: unknown): RuntimeError {
  return new RuntimeError(message, { kind: "invalid-argument", code: "SETTINGS_INVALID", cause });
}

function isSubnet(family: 4 | 6, shortest: number, longest: number): (text: string) => boolean {
  return (text) => {
    if (text === "none") return true;
    const [address, length, ...rest] = text.split("/");
    if (!address || !length || rest.length > 0 || !/^\d{1,3}$/.test(length)) return false;
    return isIP(address) === family && Number(length) >= shortest && Number(length) <= longest;
  };
}
