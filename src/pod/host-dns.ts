/**
 * The host's resolv.conf, for pods whose dnsConfig adds to it.
 */
import { readFileSync } from "node:fs";
import type { SandboxDns } from "../state/sandbox.js";

/** Limits of resolv.conf(5) as Kubernetes applies them. */
const MAX_SERVERS = 3;

export function readHostDns(path = "/etc/resolv.conf"): SandboxDns {
  let text = "";
  try {
    text = readFileSync(path, "utf8");
  } catch {
    // A host without one has no servers to hand on.
  }
  return parseResolvConf(text);
}

export function parseResolvConf(text: string): SandboxDns {
  const servers: string[] = [];
  let searches: string[] = [];
  const options: string[] = [];
  for (const line of text.split("\n")) {
    const [keyword, ...values] = line.trim().split(/\s+/);
    if (keyword === "nameserver" && values[0] !== undefined) servers.push(values[0]);
    // The last one counts, resolv.conf(5).
    else if (keyword === "search" || keyword === "domain") searches = values;
    else if (keyword === "options") options.push(...values);
  }
  return { servers: servers.slice(0, MAX_SERVERS), searches, options };
}
