/**
 * What a chain of plugins answers to ADD, as far as the runtime uses it. Pure; CNI spec,
 * section 5, "Result types".
 */
import type { SandboxDns, SandboxNetwork } from "../../state/sandbox.js";
import { parseAddress } from "../address.js";
import { isObject } from "./config.js";

/** The last plugin's answer, as it came; it goes to CHECK and DEL as `prevResult`. */
export type CniResult = Readonly<Record<string, unknown>>;

/**
 * What is wrong with a result; undefined where it can be used. Lists that are missing are empty,
 * and `null` is how Go writes an empty one.
 */
export function resultProblem(result: CniResult): string | undefined {
  for (const key of ["interfaces", "ips", "routes"] as const) {
    const value = result[key] ?? [];
    if (!Array.isArray(value) || !value.every(isObject)) return `"${key}" is not a list of objects`;
  }
  for (const ip of objects(result["ips"])) {
    if (splitAddress(ip["address"]) === undefined)
      return `"ips" holds ${JSON.stringify(ip["address"])}, which is no address`;
  }
  if (result["dns"] !== undefined && result["dns"] !== null && !isObject(result["dns"]))
    return '"dns" is not an object';
  return undefined;
}

/** @param interfaceName of the pod's interface, which the addresses must be on */
export function toSandboxNetwork(result: CniResult, interfaceName: string): SandboxNetwork {
  const links = objects(result["interfaces"]);
  const isPods = (ip: Record<string, unknown>): boolean => {
    const index = ip["interface"];
    const link = typeof index === "number" ? links[index] : undefined;
    // Without an interface (section 5, "interface", is optional) it is the pod's.
    return link === undefined || (link["name"] === interfaceName && Boolean(link["sandbox"]));
  };
  const ips = objects(result["ips"])
    .filter(isPods)
    .map((ip) => splitAddress(ip["address"]))
    .filter((ip) => ip !== undefined);
  const routes = objects(result["routes"]).flatMap(({ dst, gw }) =>
    typeof dst === "string" ? [{ destination: dst, ...(typeof gw === "string" && gw !== "" && { gateway: gw }) }] : [],
  );
  const dns = toDns(result["dns"]);
  return {
    interface: interfaceName,
    ips: [...new Set(ips)],
    ...(routes.length > 0 && { routes }),
    ...(dns && { dns }),
  };
}

/**
 * What can still be told of a result that was lost: the pod's interface, its addresses and routes.
 * The lengths of the prefixes are not remembered, so each address stands for itself alone.
 *
 * @param netnsPath of the pod
 */
export function toCniResult(network: SandboxNetwork, netnsPath: string, version: string): CniResult {
  const isSix = (address: string) => address.includes(":");
  // Before 1.0.0 an address says its family (spec 0.4.0, "Result").
  const says = version.startsWith("0.") ? (ip: string) => ({ version: isSix(ip) ? "6" : "4" }) : () => ({});
  return {
    cniVersion: version,
    interfaces: [{ name: network.interface, sandbox: netnsPath }],
    ips: network.ips.map((ip) => ({ ...says(ip), address: `${ip}/${isSix(ip) ? 128 : 32}`, interface: 0 })),
    routes: (network.routes ?? []).map(({ destination, gateway }) => ({
      dst: destination,
      ...(gateway !== undefined && { gw: gateway }),
    })),
  };
}

function toDns(value: unknown): SandboxDns | undefined {
  if (!isObject(value)) return undefined;
  const words = (key: string): string[] =>
    Array.isArray(value[key])
      ? ((value[key] as unknown[]).filter((word) => typeof word === "string" && word !== "") as string[])
      : [];
  const domain = typeof value["domain"] === "string" && value["domain"] !== "" ? [value["domain"]] : [];
  const dns = {
    servers: words("nameservers"),
    // resolv.conf(5): `domain` is a search list of one, and the last of the two stands.
    searches: words("search").length > 0 ? words("search") : domain,
    options: words("options"),
  };
  return dns.servers.length + dns.searches.length + dns.options.length > 0 ? dns : undefined;
}

/** The address of `10.1.2.3/24`, in canonical form of its text. */
function splitAddress(value: unknown): string | undefined {
  if (typeof value !== "string") return undefined;
  const [address = ""] = value.split("/", 1);
  return parseAddress(address) === undefined ? undefined : address;
}

function objects(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? (value as unknown[]).filter(isObject) : [];
}
