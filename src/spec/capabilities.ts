/**
 * Capability sets of a container (capabilities(7)), from what Kubernetes calls add and drop.
 */
import { RuntimeError } from "../base/errors.js";

/** In the kernel's numbering, 0 to 40 (linux/capability.h). */
export const CAPABILITIES = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_DAC_READ_SEARCH",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETPCAP",
  "CAP_LINUX_IMMUTABLE",
  "CAP_NET_BIND_SERVICE",
  "CAP_NET_BROADCAST",
  "CAP_NET_ADMIN",
  "CAP_NET_RAW",
  "CAP_IPC_LOCK",
  "CAP_IPC_OWNER",
  "CAP_SYS_MODULE",
  "CAP_SYS_RAWIO",
  "CAP_SYS_CHROOT",
  "CAP_SYS_PTRACE",
  "CAP_SYS_PACCT",
  "CAP_SYS_ADMIN",
  "CAP_SYS_BOOT",
  "CAP_SYS_NICE",
  "CAP_SYS_RESOURCE",
  "CAP_SYS_TIME",
  "CAP_SYS_TTY_CONFIG",
  "CAP_MKNOD",
  "CAP_LEASE",
  "CAP_AUDIT_WRITE",
  "CAP_AUDIT_CONTROL",
  "CAP_SETFCAP",
  "CAP_MAC_OVERRIDE",
  "CAP_MAC_ADMIN",
  "CAP_SYSLOG",
  "CAP_WAKE_ALARM",
  "CAP_BLOCK_SUSPEND",
  "CAP_AUDIT_READ",
  "CAP_PERFMON",
  "CAP_BPF",
  "CAP_CHECKPOINT_RESTORE",
] as const;

/** What containerd and Docker give by default. */
const DEFAULT_CAPABILITIES: readonly string[] = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FSETID",
  "CAP_FOWNER",
  "CAP_MKNOD",
  "CAP_NET_RAW",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETFCAP",
  "CAP_SETPCAP",
  "CAP_NET_BIND_SERVICE",
  "CAP_SYS_CHROOT",
  "CAP_KILL",
  "CAP_AUDIT_WRITE",
];

export interface CapabilityRequest {
  readonly privileged: boolean;
  readonly addCapabilities: readonly string[];
  readonly dropCapabilities: readonly string[];
  readonly addAmbientCapabilities?: readonly string[] | undefined;
}

/**
 * The capabilities of a container's first process, in the kernel's order.
 *
 * `ALL` is handled first, so that `drop: [ALL], add: [NET_ADMIN]` gives just that one and
 * `add: [ALL], drop: [SYS_ADMIN]` all but that one (as kubelet documents it).
 *
 * @param available what the daemon itself has in its bounding set: nothing else can be given.
 *   A capability that is named and not available is an error; `ALL` means all available ones.
 * @throws RuntimeError `invalid-argument` UNKNOWN_CAPABILITY; `failed-precondition` CAPABILITY_NOT_AVAILABLE
 */
export function containerCapabilities(request: CapabilityRequest, available: ReadonlySet<string>): string[] {
  const add = [...request.addCapabilities, ...(request.addAmbientCapabilities ?? [])].map(toCapabilityName);
  const drop = request.dropCapabilities.map(toCapabilityName);
  const all = CAPABILITIES.filter((name) => available.has(name));
  if (request.privileged) return all;
  for (const name of add) {
    if (name !== "ALL" && !available.has(name)) {
      throw new RuntimeError(
        `add capability "${name}": minke does not have it itself; \`minke doctor\` lists what it has`,
        {
          kind: "failed-precondition",
          code: "CAPABILITY_NOT_AVAILABLE",
        },
      );
    }
  }
  const given = new Set<string>(add.includes("ALL") ? all : drop.includes("ALL") ? [] : DEFAULT_CAPABILITIES);
  for (const name of add) given.add(name);
  for (const name of drop) if (!add.includes(name) || add.includes("ALL")) given.delete(name);
  return all.filter((name) => given.has(name));
}

/**
 * The ambient set: of what the container has, what is asked to be ambient.
 * @param given by `containerCapabilities`
 */
export function ambientCapabilities(request: CapabilityRequest, given: readonly string[]): string[] {
  const ambient = (request.addAmbientCapabilities ?? []).map(toCapabilityName);
  return ambient.includes("ALL") ? [...given] : given.filter((name) => ambient.includes(name));
}

/** Every capability in a hexadecimal mask of /proc/PID/status, such as CapBnd. */
export function capabilitiesOfMask(maskHex: string): ReadonlySet<string> {
  const mask = BigInt(`0x${maskHex}`);
  return new Set(CAPABILITIES.filter((_, bit) => (mask >> BigInt(bit)) & 1n));
}

function toCapabilityName(text: string): string {
  const upper = text.toUpperCase();
  if (upper === "ALL" || upper === "CAP_ALL") return "ALL";
  const name = upper.startsWith("CAP_") ? upper : `CAP_${upper}`;
  if (!(CAPABILITIES as readonly string[]).includes(name)) {
    throw new RuntimeError(`capability "${text}" is unknown; names are those of capabilities(7), such as NET_ADMIN`, {
      kind: "invalid-argument",
      code: "UNKNOWN_CAPABILITY",
    });
  }
  return name;
}
