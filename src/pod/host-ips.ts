/**
 * The addresses of this machine, as a pod's `status.hostIPs` and its variables show them.
 */
import { networkInterfaces } from "node:os";

const HOST_IPS_KEPT_MS = 10_000;
let knownHostIps: { readonly ips: readonly string[]; readonly atMs: number } | undefined;

/** Addresses of this machine that other machines could know, IPv4 first; asked of the kernel at most every 10 s. */
export function hostIps(): readonly string[] {
  if (!knownHostIps || performance.now() - knownHostIps.atMs > HOST_IPS_KEPT_MS) {
    knownHostIps = { ips: findHostIps(), atMs: performance.now() };
  }
  return knownHostIps.ips;
}

function findHostIps(): string[] {
  const addresses = Object.values(networkInterfaces()).flatMap((all) => all ?? []);
  const usable = addresses.filter(({ internal, address }) => !internal && !address.startsWith("fe80:"));
  const first = (family: string) => usable.find((one) => one.family === family)?.address;
  return [first("IPv4"), first("IPv6")].filter((address) => address !== undefined);
}
