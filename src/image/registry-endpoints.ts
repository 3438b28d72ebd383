/**
 * Where a registry of an image reference is reached: mirrors first, then the registry itself.
 *
 * Of three sources the first that names the registry decides alone: our settings
 * (`registries."host"`), containerd's `<registry-config-path>/<host>/hosts.toml` (hosts-toml.ts),
 * the default. Every endpoint carries the reason why it is one, for `minke pull --explain`.
 */
import { readHostsToml } from "./hosts-toml.js";
import {
  defaultAddress,
  endpoint,
  isLoopbackHost,
  type RegistryEndpoint,
  readTls,
  type TlsConfig,
} from "./registry-endpoint.js";

/** Of one host in the settings' `registries`. */
export interface RegistryHostSettings {
  /** Base address that replaces the default one. */
  readonly endpoint?: string | undefined;
  /** Base addresses that are asked first, in this order. */
  readonly mirrors?: readonly string[] | undefined;
  /** PEM files, absolute: certificate authorities, client certificate and its key. */
  readonly ca?: readonly string[] | undefined;
  readonly clientCert?: string | undefined;
  readonly clientKey?: string | undefined;
  readonly skipVerify?: boolean | undefined;
  readonly plainHttp?: boolean | undefined;
}

export type RegistrySettingsByHost = Readonly<Record<string, RegistryHostSettings>>;

/**
 * The endpoints of a registry, in the order in which they are asked; at least one.
 *
 * @param registryConfigPath containerd's `certs.d`; `undefined`: none
 * @throws RuntimeError `invalid-argument` SETTINGS_INVALID: a hosts.toml or a PEM file that cannot be read
 */
export async function endpointsOf(
  registry: string,
  settings: RegistrySettingsByHost,
  registryConfigPath: string | undefined,
): Promise<RegistryEndpoint[]> {
  const own = settings[registry];
  if (own) return endpointsBySettings(registry, own, settings);
  if (registryConfigPath !== undefined) {
    const listed = await readHostsToml(registryConfigPath, registry);
    if (listed) return listed;
  }
  const reason = isLoopbackHost(registry) ? "default: plain HTTP on loopback" : "default";
  return [endpoint(defaultAddress(registry), { reason })];
}

async function endpointsBySettings(
  registry: string,
  own: RegistryHostSettings,
  settings: RegistrySettingsByHost,
): Promise<RegistryEndpoint[]> {
  const where = `settings registries."${registry}"`;
  const mirrors = (own.mirrors ?? []).map(async (address, i) => {
    const host = new URL(address).host;
    return endpoint(address, {
      isMirror: true,
      tls: await tlsOf(settings[host]),
      reason: `mirror ${i + 1} of ${where}`,
    });
  });
  const hasTls = own.ca !== undefined || own.clientCert !== undefined || own.skipVerify === true;
  const scheme = own.plainHttp ? "http" : hasTls ? "https" : undefined;
  const address = own.endpoint ?? defaultAddress(registry).replace(/^https?/, (given) => scheme ?? given);
  const reason = own.endpoint === undefined ? `the registry itself, ${where}` : `endpoint of ${where}`;
  return [...(await Promise.all(mirrors)), endpoint(address, { tls: await tlsOf(own), reason })];
}

async function tlsOf(own: RegistryHostSettings | undefined): Promise<TlsConfig | undefined> {
  if (!own || (own.ca === undefined && own.clientCert === undefined && own.skipVerify !== true)) return undefined;
  return readTls({
    ca: own.ca ?? [],
    clientCert: own.clientCert,
    clientKey: own.clientKey,
    skipVerify: own.skipVerify ?? false,
  });
}
