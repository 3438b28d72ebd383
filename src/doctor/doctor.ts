/**
 * What this machine offers to minke, what is missing, and what that costs.
 *
 * Changes nothing and needs no daemon: `minke doctor` runs it where none can start. Found by
 * trying or by reading /proc, never by the kernel's version. Every check says what it found;
 * one that cannot be made says so instead of failing the rest.
 */
import { access, constants, readFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { toRuntimeError } from "../base/errors.js";
import { droppingForwardChains } from "./forward-policy.js";
import { builtFile, findCgroup2Mount, type KernelProbe, probeKernel } from "../native/index.js";

export interface Check {
  readonly name: string;
  /** `warn`: minke works, with less. `missing`: pods cannot run. */
  readonly status: "ok" | "warn" | "missing";
  /** What is there. */
  readonly found: string;
  /** What its absence costs; empty where all is well. */
  readonly costs: string;
}

export interface Findings {
  readonly checks: readonly Check[];
}

/** Makes all checks, side by side. Never throws. */
export async function runDoctor(): Promise<Findings> {
  const groups = await Promise.all([
    guarded("user", checkUser),
    guarded("capabilities", checkCapabilities),
    guarded("cgroup v2", checkCgroups),
    guarded("kernel features", checkKernel),
    guarded("namespaces", checkNamespaces),
    guarded("network", checkNetwork),
    guarded("security modules", checkSecurityModules),
    guarded("executables", checkExecutables),
    guarded("tools", checkTools),
  ]);
  return { checks: groups.flat() };
}

async function guarded(name: string, check: () => Promise<Check[]>): Promise<Check[]> {
  try {
    return await check();
  } catch (err) {
    return [{ name, status: "warn", found: "could not be checked", costs: toRuntimeError(err).message }];
  }
}

/** `costs` is dropped where the thing is there. */
function checked(name: string, isThere: boolean, absent: "warn" | "missing", found: string, costs: string): Check {
  return { name, status: isThere ? "ok" : absent, found, costs: isThere ? "" : costs };
}

async function checkUser(): Promise<Check[]> {
  const uid = process.geteuid?.() ?? -1;
  return [checked("root", uid === 0, "missing", `uid ${uid}`, "namespaces, mounts and cgroups cannot be made")];
}

/** Bits of capabilities(7) in the bounding set, and what minke cannot do without each. */
const CAPABILITIES: readonly (readonly [name: string, bit: number, absent: "warn" | "missing", costs: string])[] = [
  ["CAP_SYS_ADMIN", 21, "missing", "no namespaces and no mounts"],
  ["CAP_NET_ADMIN", 12, "missing", "no pod network"],
  ["CAP_CHOWN", 0, "missing", "layers cannot be unpacked with their owners"],
  ["CAP_DAC_OVERRIDE", 1, "missing", "layers cannot be unpacked"],
  ["CAP_MKNOD", 27, "warn", "images with device files cannot be unpacked; containers get no devices of their own"],
  ["CAP_SETFCAP", 31, "warn", "files of images lose their capabilities"],
  ["CAP_SYS_PTRACE", 19, "warn", "namespaces of other users' processes cannot be entered"],
  ["CAP_SYS_RESOURCE", 24, "warn", "oom_score_adj cannot be lowered and hard limits (ulimit) cannot be raised"],
  ["CAP_SYS_CHROOT", 18, "missing", "containers cannot be given their root"],
  ["CAP_KILL", 5, "missing", "containers of other users cannot be stopped"],
];

async function checkCapabilities(): Promise<Check[]> {
  const status = await readFile("/proc/self/status", "utf8");
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? "0"}`);
  return CAPABILITIES.map(([name, bit, absent, costs]) => {
    const isThere = ((effective >> BigInt(bit)) & 1n) === 1n;
    return checked(name, isThere, absent, isThere ? "effective" : "not effective", costs);
  });
}

/** What each controller of cgroup v2 is for; without it limits of that kind are refused or not enforced. */
const CONTROLLERS = {
  cpu: "cpu requests and limits",
  memory: "memory limits and OOM events",
  pids: "limits of the number of processes",
  cpuset: "pinning to CPUs",
  io: "block I/O limits",
  hugetlb: "limits of huge pages",
} as const;

async function checkCgroups(): Promise<Check[]> {
  let mount: Awaited<ReturnType<typeof findCgroup2Mount>>;
  try {
    mount = await findCgroup2Mount();
  } catch {
    return [checked("cgroup v2", false, "missing", "not mounted", "no container can be started")];
  }
  const isHybrid = mount.path !== "/sys/fs/cgroup";
  const where = isHybrid ? `${mount.path} (a hybrid host: v1 holds the other controllers)` : mount.path;
  const present = new Set(mount.controllers);
  const controllers = Object.entries(CONTROLLERS).map(([name, use]) =>
    checked(
      `cgroup controller ${name}`,
      present.has(name),
      "warn",
      present.has(name) ? "there" : "not in cgroup v2",
      `${use}: a pod that asks for it is refused, or runs without it where tolerate-missing-controllers is set`,
    ),
  );
  return [{ name: "cgroup v2", status: "ok", found: where, costs: "" }, ...controllers];
}

const KERNEL: Readonly<Record<keyof KernelProbe, readonly ["warn" | "missing", string]>> = {
  openat2: ["missing", "paths cannot be resolved inside a container's root (Linux 5.6)"],
  pidfd: ["missing", "processes cannot be signalled and waited for safely (Linux 5.4)"],
  closeRange: ["missing", "descriptors cannot be closed before a container starts (Linux 5.9)"],
  overlay: ["missing", "containers cannot be given a root from image layers"],
  tmpfs: ["missing", "no /dev, no secrets, no memory-backed volumes"],
  mountSetattr: ["missing", "mounts cannot be made recursively read-only (Linux 5.12)"],
  mqueue: ["warn", "containers have no /dev/mqueue"],
  cloneDetachedMount: ["warn", "the shared /dev/shm of a pod is a mount below the run directory (Linux 6.15)"],
};

async function checkKernel(): Promise<Check[]> {
  const probe = await probeKernel();
  const names = Object.keys(KERNEL) as (keyof KernelProbe)[];
  return names.map((name) => {
    const [absent, costs] = KERNEL[name];
    const errno = probe[name];
    return checked(`kernel: ${name}`, errno === undefined, absent, errno ?? "works", costs);
  });
}

const NAMESPACES = {
  net: ["missing", "no pod network"],
  mnt: ["missing", "no container"],
  pid: ["missing", "no container"],
  ipc: ["missing", "no container"],
  uts: ["missing", "no container"],
  cgroup: ["missing", "no container"],
  user: ["warn", "no pods with hostUsers: false"],
  time: ["warn", "no clocks of a container's own"],
} as const satisfies Record<string, readonly ["warn" | "missing", string]>;

async function checkNamespaces(): Promise<Check[]> {
  return Promise.all(
    Object.entries(NAMESPACES).map(async ([name, [absent, costs]]) => {
      const isThere = await exists(`/proc/self/ns/${name}`);
      return checked(`namespace ${name}`, isThere, absent, isThere ? "there" : "not in this kernel", costs);
    }),
  );
}

async function checkNetwork(): Promise<Check[]> {
  const ipv6 = await exists("/proc/net/if_inet6");
  const disabled = ipv6 && (await read("/proc/sys/net/ipv6/conf/all/disable_ipv6")) === "1";
  const forwarding4 = await read("/proc/sys/net/ipv4/ip_forward");
  const dropping = await droppingForwardChains();
  return [
    checked(
      "IPv6",
      ipv6 && !disabled,
      "warn",
      ipv6 ? (disabled ? "switched off (net.ipv6.conf.all.disable_ipv6)" : "there") : "not in this kernel",
      "pods have IPv4 addresses only",
    ),
    checked(
      "IPv4 forwarding",
      forwarding4 !== "",
      "missing",
      forwarding4 === "1" ? "on" : "off; minke switches it on, for the whole host, and `daemon stop --pods` off again",
      "pods have no way out",
    ),
    checked(
      "other firewalls",
      dropping === undefined || dropping.length === 0,
      "warn",
      dropping === undefined
        ? "not looked at: that takes nft"
        : dropping.map((chain) => `policy drop in ${chain}`).join(", ") || "none drops what is forwarded",
      'pods reach nothing outside, nor do others reach their host ports, unless rules there accept the bridge (README, "The network")',
    ),
  ];
}

async function checkSecurityModules(): Promise<Check[]> {
  const modules = (await read("/sys/kernel/security/lsm")) || "not listed (securityfs is not mounted)";
  const appArmor = (await read("/sys/module/apparmor/parameters/enabled")) === "Y";
  const seLinux = await exists("/sys/fs/selinux/enforce");
  const seccomp = (await read("/proc/sys/kernel/seccomp/actions_avail")) !== "";
  return [
    checked("seccomp", seccomp, "warn", seccomp ? "there" : "not in this kernel", "no system call filters"),
    checked("AppArmor", appArmor, "warn", modules, "AppArmor profiles of pods are refused"),
    ...(appArmor ? [await checkAppArmorParser()] : []),
    // No warning: most hosts have one of the two.
    { name: "SELinux", status: "ok", found: seLinux ? "on" : "off", costs: seLinux ? "" : "labels have no effect" },
  ];
}

async function checkAppArmorParser(): Promise<Check> {
  const path = (await whereIs("apparmor_parser")) ?? (await whereIs("apparmor_parser", "/usr/sbin:/sbin"));
  const costs = "no default AppArmor profile: containers of RuntimeDefault run without one; package apparmor";
  return checked("AppArmor parser", path !== undefined, "warn", path ?? "not installed", costs);
}

async function checkExecutables(): Promise<Check[]> {
  return Promise.all(
    ["minke-oci", "minke-layer"].map(async (name) => {
      const path = builtFile(name);
      const isThere = await exists(path, constants.X_OK);
      return checked(name, isThere, "missing", isThere ? path : `${path} is not there`, "run `npm run build:native`");
    }),
  );
}

/** None of these is needed to run pods. */
const TOOLS = {
  nft: "to look at minke's rules; package nftables",
  ip: "to look at bridges and addresses; package iproute2",
  crictl: "to look at the CRI socket",
} as const;

async function checkTools(): Promise<Check[]> {
  return Promise.all(
    Object.entries(TOOLS).map(async ([name, use]) => {
      const path = await whereIs(name);
      // Diagnosis by hand is a convenience: its absence is no warning.
      return { name: `tool ${name}`, status: "ok" as const, found: path ?? "not installed", costs: path ? "" : use };
    }),
  );
}

async function whereIs(program: string, folders = process.env["PATH"] ?? ""): Promise<string | undefined> {
  for (const folder of folders.split(delimiter)) {
    const path = join(folder, program);
    if (folder !== "" && (await exists(path, constants.X_OK))) return path;
  }
  return undefined;
}

async function exists(path: string, mode = constants.F_OK): Promise<boolean> {
  return access(path, mode).then(
    () => true,
    () => false,
  );
}

/** A small file without its final newline; empty where it cannot be read. */
async function read(path: string): Promise<string> {
  return readFile(path, "utf8").then(
    (text) => text.trim(),
    () => "",
  );
}
