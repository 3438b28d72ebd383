/**
 * What plugins are told of a pod: CNI_ARGS, and the capability arguments (`runtimeConfig`) that a
 * plugin declares. Pure; CNI's CONVENTIONS.md, "Dynamic Plugin specific fields".
 */
import { RuntimeError } from "../../base/errors.js";
import type { SandboxId } from "../../base/ids.js";
import type { SandboxConfig } from "../../state/sandbox.js";
import { addressBytes, parseAddress } from "../address.js";
import type { PluginConfig } from "./config.js";

export type CapabilityArguments = Readonly<Record<string, unknown>>;

/** What a kubelet's traffic shaping is asked for by (kubernetes.io, "Network Plugins", "Support traffic shaping"). */
const INGRESS = "kubernetes.io/ingress-bandwidth";
const EGRESS = "kubernetes.io/egress-bandwidth";
/** Addresses with prefix length, by commas; and the MAC address of the pod's interface. */
const IPS = "cni.minke/ips";
const MAC = "cni.minke/mac";
/** containerd's name for the capability that takes all annotations. */
const ANNOTATIONS_CAPABILITY = "io.kubernetes.cri.pod-annotations";
/** As a kubelet bounds a rate (kubernetes pkg/util/bandwidth, 1k to 1P). */
const RATE_BITS = { least: 1000n, most: 1_000_000_000_000_000n };
/** As containerd and CRI-O have it: the bucket takes what any link sends at once. */
const BURST_BITS = 2_147_483_647;

/** As the kubelet's runtimes give them; plugins that know none of it are told to ignore it. */
export function cniArgs(id: SandboxId, { metadata }: SandboxConfig): string {
  const pairs: [string, string][] = [
    ["IgnoreUnknown", "1"],
    ["K8S_POD_NAMESPACE", metadata.namespace],
    ["K8S_POD_NAME", metadata.name],
    ["K8S_POD_INFRA_CONTAINER_ID", id],
    ["K8S_POD_UID", metadata.uid],
  ];
  for (const [key, value] of pairs) {
    // A value that ends its pair would be an argument of its own.
    if (/[;=\0]/.test(value))
      throw invalid(`${key} ${JSON.stringify(value)}: ";", "=" and NUL cannot stand in CNI_ARGS`);
  }
  return pairs.map(([key, value]) => `${key}=${value}`).join(";");
}

/** Everything that is known; a plugin gets what it declares (`pluginArguments`). */
export function capabilityArguments(config: SandboxConfig): CapabilityArguments {
  const { annotations, dns } = config;
  const ports = config.portMappings.filter(({ hostPort }) => hostPort > 0);
  const [ips, mac, bandwidth] = [toIps(annotations[IPS]), toMac(annotations[MAC]), toBandwidth(annotations)];
  return {
    ...(ports.length > 0 && {
      portMappings: ports.map(({ hostPort, containerPort, protocol, hostIp }) => ({
        hostPort,
        containerPort,
        protocol,
        ...(hostIp !== "" && { hostIP: hostIp }),
      })),
    }),
    ...(bandwidth && { bandwidth }),
    ...(dns && { dns: { servers: dns.servers, searches: dns.searches, options: dns.options } }),
    ...(ips && { ips }),
    ...(mac && { mac }),
    [ANNOTATIONS_CAPABILITY]: annotations,
  };
}

/** Those that the plugin's `capabilities` says true for; undefined where there are none. */
export function pluginArguments(plugin: PluginConfig, known: CapabilityArguments): CapabilityArguments | undefined {
  const entries = Object.entries(known).filter(([name]) => plugin.capabilities?.[name] === true);
  return entries.length > 0 ? Object.fromEntries(entries) : undefined;
}

/** What is asked for and no plugin of the chain takes. The dns of a pod and its annotations are used elsewhere. */
export function unusedArguments(plugins: readonly PluginConfig[], known: CapabilityArguments): string[] {
  return ["portMappings", "bandwidth", "ips", "mac"].filter(
    (name) => known[name] !== undefined && !plugins.some(({ capabilities }) => capabilities?.[name] === true),
  );
}

function toBandwidth(annotations: Readonly<Record<string, string>>) {
  const [ingressRate, egressRate] = [toRate(annotations, INGRESS), toRate(annotations, EGRESS)];
  if (ingressRate === undefined && egressRate === undefined) return undefined;
  return {
    ...(ingressRate !== undefined && { ingressRate, ingressBurst: BURST_BITS }),
    ...(egressRate !== undefined && { egressRate, egressBurst: BURST_BITS }),
  };
}

/** Bits a second of a Kubernetes quantity: `10M`, `1Gi`, `500k`. */
function toRate(annotations: Readonly<Record<string, string>>, name: string): number | undefined {
  const text = annotations[name];
  if (text === undefined) return undefined;
  const [, digits, suffix = ""] = /^(\d{1,18})(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$/.exec(text) ?? [];
  const power = Math.max(0, " KMGTP".indexOf(suffix.charAt(0).toUpperCase() || " "));
  const base = suffix.endsWith("i") ? 1024n : 1000n;
  const bits = digits === undefined ? 0n : BigInt(digits) * base ** BigInt(power);
  if (bits < RATE_BITS.least || bits > RATE_BITS.most) {
    throw invalid(`annotation "${name}" ${JSON.stringify(text)}: not bits a second between 1k and 1P`);
  }
  return Number(bits);
}

function toIps(text: string | undefined): string[] | undefined {
  if (text === undefined) return undefined;
  return text.split(",").map((word) => {
    const [literal = "", length, ...rest] = word.trim().split("/");
    const address = parseAddress(literal);
    const most = address ? addressBytes(address).length * 8 : 0;
    const isLength = length === undefined || (/^\d{1,3}$/.test(length) && Number(length) <= most);
    if (!address || !isLength || rest.length > 0) {
      throw invalid(`annotation "${IPS}" ${JSON.stringify(word)}: not an IP address, with or without prefix length`);
    }
    return word.trim();
  });
}

function toMac(text: string | undefined): string | undefined {
  if (text === undefined || /^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$/.test(text)) return text;
  throw invalid(`annotation "${MAC}" ${JSON.stringify(text)}: not a MAC address`);
}

function invalid(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "invalid-argument", code: "CNI_ARGUMENT_INVALID" });
}
