/**
 * The generated /etc/hosts, /etc/hostname and /etc/resolv.conf of a sandbox.
 *
 * Line-based files that root in a container trusts: control characters in what goes into them
 * are refused (CVE-2022-4318 and its kin), before anything is made.
 */
import { chown, readFile } from "node:fs/promises";
import { isIP } from "node:net";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.js";
import type { FileStep } from "../native/index.js";
import type { IdMaps, SandboxConfig, SandboxDns, SandboxNetwork } from "../state/sandbox.js";
import { mappedRoot } from "./user-namespaces.js";

/** Everything but printable ASCII and space, tab excluded. */
const UNPRINTABLE = /[^\x20-\x7e]/;

/**
 * Refuses what would break out of its line.
 * @throws RuntimeError `invalid-argument` INVALID_HOST_ENTRY
 */
export function checkSandboxFiles(config: SandboxConfig): void {
  checkWords([
    ["hostname", config.hostname],
    ["domainname", config.domainname ?? ""],
    ...dnsWords(config.dns),
    ...config.hostAliases.flatMap(({ hostnames }) => hostnames.map((word): [string, string] => ["host alias", word])),
  ]);
  if (Buffer.byteLength(config.hostname) > 63)
    throw refused("hostname", config.hostname, "more than 63 bytes (hostname(7))");
  for (const { ip } of config.hostAliases)
    if (isIP(ip) === 0) throw refused("host alias address", ip, "not an IP address");
}

function dnsWords(dns: SandboxConfig["dns"]): [string, string][] {
  return [
    ...(dns?.servers ?? []).map((word): [string, string] => ["DNS server", word]),
    ...(dns?.searches ?? []).map((word): [string, string] => ["DNS search domain", word]),
    ...(dns?.options ?? []).map((word): [string, string] => ["DNS option", word]),
  ];
}

function checkWords(words: readonly [string, string][]): void {
  for (const [what, word] of words) {
    if (UNPRINTABLE.test(word) || word.includes(" "))
      throw refused(what, word, "white space and control characters are not allowed");
  }
}

function refused(what: string, word: string, why: string): RuntimeError {
  return new RuntimeError(`${what} ${JSON.stringify(word)}: ${why}`, {
    kind: "invalid-argument",
    code: "INVALID_HOST_ENTRY",
  });
}

/** What a sandbox takes over from the host beside resolv.conf, empty where it does not, or where the host has no such file. */
export interface HostFiles {
  readonly hosts: string;
  readonly hostname: string;
}

/** Of a sandbox with a network of its own. */
export const NO_HOST_FILES: HostFiles = { hosts: "", hostname: "" };

/** Never rejects. */
export async function readHostFiles(config: SandboxConfig): Promise<HostFiles> {
  const usesHostNetwork = config.namespaces.network === "node";
  const [hosts, hostname] = await Promise.all([
    usesHostNetwork ? readHostFile("/etc/hosts") : "",
    usesHostNetwork ? readHostFile("/etc/hostname") : "",
  ]);
  return { hosts, hostname };
}

/**
 * What makes `dir` with hosts, hostname and resolv.conf; the latter as the network says where the config says nothing.
 * @throws RuntimeError `invalid-argument` INVALID_HOST_ENTRY
 */
export function sandboxFileSteps(
  dir: string,
  config: SandboxConfig,
  network: SandboxNetwork | undefined,
  host: HostFiles,
): FileStep[] {
  const dns = config.dns ?? network?.dns;
  checkWords(dnsWords(dns));
  const usesHostNetwork = config.namespaces.network === "node";
  const hosts = usesHostNetwork ? host.hosts : hostsFile(config, network?.ips ?? []);
  const hostname = usesHostNetwork ? host.hostname : `${config.hostname}\n`;
  const resolvConf = { path: join(dir, "resolv.conf"), mode: 0o644 };
  return [
    { make: "directories", path: dir, mode: 0o700 },
    { make: "file", path: join(dir, "hosts"), mode: 0o644, bytes: hosts + aliasLines(config) },
    { make: "file", path: join(dir, "hostname"), mode: 0o644, bytes: hostname },
    dns
      ? { make: "file", ...resolvConf, bytes: resolvConfFile(dns) }
      : { make: "copy", ...resolvConf, from: "/etc/resolv.conf" },
  ];
}

/** Root in the containers may change these files, so they are its own where it is not the host's. */
export async function giveSandboxFiles(dir: string, idMaps: IdMaps): Promise<void> {
  const owner = mappedRoot(idMaps);
  await Promise.all(["hosts", "hostname", "resolv.conf"].map((name) => chown(join(dir, name), ...owner)));
}

function hostsFile(config: SandboxConfig, ips: readonly string[]): string {
  const names = config.domainname ? `${config.hostname}.${config.domainname}\t${config.hostname}` : config.hostname;
  return [
    "# Made by minke.",
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "fe00::0\tip6-mcastprefix",
    "fe00::1\tip6-allnodes",
    "fe00::2\tip6-allrouters",
    ...(names === "" ? [] : ips.map((ip) => `${ip}\t${names}`)),
    "",
  ].join("\n");
}

function aliasLines(config: SandboxConfig): string {
  if (config.hostAliases.length === 0) return "";
  const lines = config.hostAliases.map(({ ip, hostnames }) => `${ip}\t${hostnames.join("\t")}`);
  return ["", "# Entries of hostAliases.", ...lines, ""].join("\n");
}

function resolvConfFile(dns: SandboxDns): string {
  const lines = [
    ...(dns.searches.length > 0 ? [`search ${dns.searches.join(" ")}`] : []),
    ...dns.servers.map((server) => `nameserver ${server}`),
    ...(dns.options.length > 0 ? [`options ${dns.options.join(" ")}`] : []),
  ];
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
}

async function readHostFile(path: string): Promise<string> {
  return readFile(path, "utf8").catch(() => "");
}
