/** The tables `[streaming]`, `[metrics]` and `[nri]` of the settings file: what others connect to beside the two main sockets. */
import { isIP } from "node:net";
import { z } from "zod";
import { absolutePath } from "./fields.js";

export interface StreamingSettings {
  /** An IP address of this machine. */
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly tls?:
    | { readonly certificate: string; readonly key: string; readonly clientCa?: string | undefined }
    | undefined;
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
  /** Its plugins are started with the daemon; absolute. `undefined`: none are. */
  readonly pluginDir?: string | undefined;
  readonly registrationTimeoutMs: number;
  readonly requestTimeoutMs: number;
}

/** `127.0.0.1:9464`, `[::1]:9464`: nobody but this machine reads them. */
const LOOPBACK_PORT = /^(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]|localhost):(\d{1,5})$/;

/** Port 0 would be one that no scraper knows. */
function isLoopbackPort(text: string): boolean {
  const [, host = "", port = "0"] = LOOPBACK_PORT.exec(text) ?? [];
  const isHost = host === "localhost" || isIP(host.replace(/[[\]]/g, "")) > 0;
  return isHost && Number(port) >= 1 && Number(port) <= 65_535;
}

export const metricsSchema = z
  .strictObject({
    socket: absolutePath.optional(),
    listen: z
      .string()
      .refine(isLoopbackPort, 'must be a loopback address and a port, as "127.0.0.1:9464" or "[::1]:9464"')
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
const UNSPECIFIED = /^[0:.]+$/;

export const streamingSchema = z
  .strictObject({
    // The URLs name it, so it must be an address that clients can connect to.
    address: z
      .string()
      .refine((text) => isIP(text) > 0 && !UNSPECIFIED.test(text), "must be an IP address of this machine")
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
  .refine(
    (file) =>
      isIP(file.address) === 0 ||
      UNSPECIFIED.test(file.address) ||
      LOOPBACK.test(file.address) ||
      file["tls-cert"] !== undefined,
    {
      path: ["address"],
      error: "beyond loopback needs tls-cert and tls-key",
    },
  )
  .transform((file): StreamingSettings => {
    const { "tls-cert": certificate, "tls-key": key, "tls-client-ca": clientCa } = file;
    const tls = certificate !== undefined && key !== undefined ? { certificate, key, clientCa } : undefined;
    return { host: file.address, port: file.port, ...(tls && { tls }) };
  });

// The time-outs are those of NRI itself.
export const nriSchema = z
  .strictObject({
    enabled: z.boolean().default(true),
    socket: absolutePath.optional(),
    "config-dir": absolutePath.default("/etc/nri/conf.d"),
    // No default: what is in /opt/nri/plugins may be another runtime's on this machine, and run already.
    "plugin-dir": absolutePath.optional(),
    "registration-timeout-ms": z.int().min(100).max(60_000).default(5_000),
    "request-timeout-ms": z.int().min(100).max(60_000).default(2_000),
  })
  .transform(
    (file): NriSettings => ({
      enabled: file.enabled,
      ...(file.socket === undefined ? {} : { socketPath: file.socket }),
      configDir: file["config-dir"],
      ...(file["plugin-dir"] === undefined ? {} : { pluginDir: file["plugin-dir"] }),
      registrationTimeoutMs: file["registration-timeout-ms"],
      requestTimeoutMs: file["request-timeout-ms"],
    }),
  );
