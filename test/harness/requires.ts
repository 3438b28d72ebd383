/**
 * What a test needs from the machine. A missing thing skips the test and says what is
 * missing; where the environment's REQUIRE names it (`REQUIRE=root,userns,go`, or `all`),
 * it fails instead, so that CI cannot lose a test without noticing.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import type { TestContext } from "vitest";

/** Each answers what is missing, or `undefined` where all is there. */
const PROBES = {
  root: () => (process.getuid?.() === 0 ? undefined : "root"),
  cgroup2: () => (cgroup2Mount() ? undefined : "a cgroup v2 mount"),
  userns: () => (succeeds("unshare", ["--user", "true"]) ? undefined : "user namespaces (unshare --user)"),
  netns: () => (succeeds("unshare", ["--net", "true"]) ? undefined : "network namespaces (unshare --net)"),
  overlayfs: () => (/\boverlay$/m.test(read("/proc/filesystems")) ? undefined : "overlayfs in /proc/filesystems"),
  nft: () => (succeeds("nft", ["--version"]) ? undefined : "the nft command (package nftables)"),
  cni: () =>
    succeeds("test", ["-x", "/usr/lib/cni/bridge"]) && succeeds("iptables-save", ["--version"])
      ? undefined
      : "CNI plugins in /usr/lib/cni and iptables (packages containernetworking-plugins, iptables)",
  sctp: () =>
    succeeds("python3", ["-c", "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)"])
      ? undefined
      : "SCTP in this kernel (module sctp)",
  go: () => (succeeds("go", ["version"]) ? undefined : "Go 1.26 or later"),
  registry: () =>
    succeeds("docker-registry", ["--version"]) ? undefined : "docker-registry (package docker-registry)",
} as const;

export type Requirement = keyof typeof PROBES | `controller:${string}`;

const answers = new Map<Requirement, string | undefined>();

/** What of these is missing, in words; `undefined` where nothing is. */
export function missing(...needs: readonly Requirement[]): string | undefined {
  for (const need of needs) {
    if (!answers.has(need)) answers.set(need, probe(need));
    const answer = answers.get(need);
    if (answer) return answer;
  }
  return undefined;
}

/**
 * For `beforeEach(requires("root", "controller:memory"))`, or within a test
 * `requires("go")(context)`.
 */
export function requires(...needs: readonly Requirement[]): (context: Pick<TestContext, "skip">) => void {
  return (context) => {
    for (const need of needs) {
      const answer = missing(need);
      if (!answer) continue;
      if (isRequired(need)) throw new Error(`required and missing: ${answer}`);
      context.skip(`missing: ${answer}`);
    }
  };
}

function isRequired(need: Requirement): boolean {
  const listed = (process.env["REQUIRE"] ?? "").split(",").map((word) => word.trim());
  return listed.includes("all") || listed.includes(need);
}

function probe(need: Requirement): string | undefined {
  if (need.startsWith("controller:")) {
    const name = need.slice("controller:".length);
    const mount = cgroup2Mount();
    const found = mount ? read(`${mount}/cgroup.controllers`).trim().split(" ") : [];
    return found.includes(name) ? undefined : `the ${name} controller in cgroup v2`;
  }
  return PROBES[need as keyof typeof PROBES]();
}

/** Where cgroup v2 is mounted: `/sys/fs/cgroup`, or elsewhere on a hybrid host. */
export function cgroup2Mount(): string | undefined {
  for (const line of read("/proc/self/mountinfo").split("\n")) {
    const [before, after] = line.split(" - ");
    if (after?.startsWith("cgroup2 ")) return before?.split(" ")[4];
  }
  return undefined;
}

function succeeds(command: string, args: readonly string[]): boolean {
  return spawnSync(command, args, { stdio: "ignore" }).status === 0;
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
