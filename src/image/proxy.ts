/**
 * Which proxy of the environment an address is reached through. `no_proxy` is read as Go reads it
 * (golang.org/x/net/http/httpproxy), so that it means what it means to containerd and podman.
 */
import { BlockList, isIP } from "node:net";
import { isLoopbackHost } from "./registry-endpoint.js";

const DEFAULT_PORTS: Readonly<Record<string, string>> = { "http:": "80", "https:": "443" };

/** With its credential. `undefined`: none, which loopback never has. */
export function proxyOf(address: URL): URL | undefined {
  const of = (name: string) => process.env[name] || process.env[name.toUpperCase()];
  const said = (address.protocol === "https:" ? of("https_proxy") : undefined) || of("http_proxy");
  if (!said || isLoopbackHost(address.hostname) || isExcluded(address, of("no_proxy") ?? "")) return undefined;
  return new URL(/^[a-z][a-z0-9+.-]*:\/\//i.test(said) ? said : `http://${said}`);
}

/** Host and port of the proxy, without its credential, for people; `""`: none. */
export function proxyHostOf(address: string): string {
  try {
    return proxyOf(new URL(address))?.host ?? "";
  } catch {
    return "a proxy whose address is invalid";
  }
}

function isExcluded(address: URL, noProxy: string): boolean {
  const host = withoutBrackets(address.hostname.toLowerCase()).replace(/\.$/, "");
  const port = address.port || DEFAULT_PORTS[address.protocol];
  return noProxy
    .toLowerCase()
    .split(/[\s,]+/)
    .filter(Boolean)
    .some((entry) => entry === "*" || isInSubnet(host, entry) || isNamed(host, port, entry));
}

/** `10.0.0.0/8`, `fd00::/8`: for hosts that are addresses; a name is not resolved. */
function isInSubnet(host: string, entry: string): boolean {
  const [, network = "", bits = ""] = /^([0-9a-f.:]+)\/(\d{1,3})$/.exec(entry) ?? [];
  const family = isIP(network);
  if (family === 0 || isIP(host) !== family || Number(bits) > (family === 4 ? 32 : 128)) return false;
  const type = family === 4 ? "ipv4" : "ipv6";
  const subnet = new BlockList();
  subnet.addSubnet(network, Number(bits), type);
  return subnet.check(host, type);
}

/** A name stands for its subdomains, too; `.name` and `*.name` for those alone. With a port, for that port. */
function isNamed(host: string, port: string | undefined, entry: string): boolean {
  const [, name = entry, wantedPort] = isIP(entry) ? [] : (/^(.*?)(?::(\d+))?$/.exec(entry) ?? []);
  if (wantedPort !== undefined && wantedPort !== port) return false;
  const plain = withoutBrackets(name);
  if (isIP(plain)) return isIP(host) === isIP(plain) && isSameAddress(host, plain);
  if (/^\*?\./.test(plain)) return host.endsWith(plain.replace(/^\*/, ""));
  return host === plain || host.endsWith(`.${plain}`);
}

function isSameAddress(a: string, b: string): boolean {
  const list = new BlockList();
  list.addAddress(b, isIP(b) === 4 ? "ipv4" : "ipv6");
  return list.check(a, isIP(a) === 4 ? "ipv4" : "ipv6");
}

function withoutBrackets(host: string): string {
  return host.replace(/^\[|\]$/g, "");
}
