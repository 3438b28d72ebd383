/**
 * Chains of others that drop what this host would forward. A verdict "accept" in a table of ours
 * does not help: a packet has to be let through by every base chain of its hook (nft(8), "VERDICT
 * STATEMENT"). Docker sets such a policy, and so do firewalls.
 */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";

const TIMEOUT_MS = 5_000;

interface Chain {
  readonly family: string;
  readonly table: string;
  readonly name: string;
  readonly hook?: string;
  readonly policy?: string;
}

/** Such as `ip filter FORWARD`. `undefined` where the tools to ask are not there, or may not ask. */
export async function droppingForwardChains(): Promise<string[] | undefined> {
  const [listed, legacy] = await Promise.all([output("nft", "-j", "list", "chains"), legacyChains()]);
  if (listed === undefined) return undefined;
  const { nftables } = JSON.parse(listed) as { nftables: readonly { readonly chain?: Chain }[] };
  const dropping = nftables.flatMap(({ chain }) =>
    chain?.hook === "forward" && chain.policy === "drop" ? [`${chain.family} ${chain.table} ${chain.name}`] : [],
  );
  return [...dropping, ...legacy];
}

/** Tables of iptables before nf_tables are not among nft's. Asked for only where they are in use, since asking makes them. */
async function legacyChains(): Promise<string[]> {
  const found: string[] = [];
  for (const [command, names] of [
    ["iptables-legacy", "/proc/net/ip_tables_names"],
    ["ip6tables-legacy", "/proc/net/ip6_tables_names"],
  ] as const) {
    const tables = await readFile(names, "utf8").catch(() => "");
    if (!tables.split("\n").includes("filter")) continue;
    const rules = await output(command, "-S", "FORWARD");
    if (rules?.startsWith("-P FORWARD DROP")) found.push(`${command} FORWARD`);
  }
  return found;
}

function output(command: string, ...args: string[]): Promise<string | undefined> {
  return new Promise((resolve) => {
    execFile(command, args, { timeout: TIMEOUT_MS }, (err, stdout) => resolve(err ? undefined : stdout));
  });
}
