/**
 * The namespaces of a sandbox, and its /dev/shm: descriptors only, nothing is pinned in the
 * file system. They live as long as somebody holds them: the sandbox's monitor.
 */
import { RuntimeError } from "../base/errors.js";
import { callAsync } from "./addon.js";
import { Fd } from "./fd.js";

export interface SandboxNamespaceRequest {
  readonly network: boolean;
  readonly ipc: boolean;
  readonly uts: boolean;
  /** At most 64 bytes; used with `uts`. */
  readonly hostname: string;
  readonly domainname: string;
  /** Sysctls of the namespaces asked for, by dotted or slashed name. */
  readonly sysctls: Readonly<Record<string, string>>;
  /** Of a user namespace that owns the others; `undefined`: they belong to the host's. */
  readonly idMaps?: IdMaps | undefined;
  /**
   * Of a detached tmpfs, mode 1777, for the /dev/shm that the containers share: each gets a clone of it
   * through `/proc/<monitor>/fd/<n>`. Missing or 0: none.
   */
  readonly shmBytes?: number | undefined;
  /** With `network`: a link to be made at once, on the same thread. */
  readonly link?: NewLink | undefined;
}

/**
 * Two batches of rtnetlink requests: one makes a pair of links in the daemon's network namespace, one
 * configures the end that is in the new one. What is known only when they are sent has its place in them.
 */
export interface NewLink {
  readonly host: LinkBatch;
  readonly pod: LinkBatch;
  /** In `host`, where the new network namespace's descriptor goes, 32 bits. */
  readonly netnsAt: number;
  /** Name of the pod's end, and in `pod` the places where its index goes, 32 bits each. */
  readonly podName: string;
  readonly indexAt: readonly number[];
}

interface LinkBatch {
  readonly bytes: Buffer;
  /** As `netlinkTransact`. */
  readonly expectedEnds: number;
}

/** What the kernel said to each batch of a `NewLink`; the pod's is sent where it had nothing against the host's. */
export interface LinkReplies {
  readonly host: Buffer;
  readonly pod: Buffer;
}

/** The maps of a user namespace; the first mapping of each is that of id 0. */
export interface IdMaps {
  readonly uids: readonly IdRange[];
  readonly gids: readonly IdRange[];
}

interface IdRange {
  readonly containerId: number;
  readonly hostId: number;
  readonly length: number;
}

/** What was asked for; the caller closes each. */
export interface SandboxNamespaceFds {
  readonly net?: Fd;
  readonly ipc?: Fd;
  readonly uts?: Fd;
  readonly user?: Fd;
  /** A NETLINK_ROUTE socket inside the new network namespace. */
  readonly netlink?: Fd;
  /** Missing where the kernel (before 6.15) cannot clone detached mounts. */
  readonly shm?: Fd;
  /** Settles when the link that was asked for is made, or refused. Nobody need wait for it. */
  readonly link?: Promise<LinkReplies>;
}

const SYSCTL_PATH = /^[a-z0-9_-]+(\/[A-Za-z0-9_.@-]+)+$/;
const IPC_SYSCTL = /^(kernel\/(shm[a-z_]*|msg[a-z]*|sem|sem_next_id)|fs\/mqueue\/[a-z_]+)$/;
const UTS_SYSCTL = /^kernel\/(hostname|domainname)$/;

/**
 * The path below /proc/sys of a sysctl: `net.ipv4.ip_forward` is `net/ipv4/ip_forward`.
 * As sysctl(8): the first separator found says which of the two is in use, and with dots a
 * slash stands for a dot inside a name (`net.ipv4.conf.eth0/1.forwarding`).
 */
export function sysctlPath(name: string): string {
  const firstSeparator = /[./]/.exec(name)?.[0];
  if (firstSeparator !== ".") return name;
  return name.replace(/[./]/g, (separator) => (separator === "." ? "/" : "."));
}

function checkedSysctl(name: string, request: SandboxNamespaceRequest): string {
  const path = sysctlPath(name);
  const isOurs =
    (request.network && path.startsWith("net/")) ||
    (request.ipc && IPC_SYSCTL.test(path)) ||
    (request.uts && UTS_SYSCTL.test(path));
  if (!SYSCTL_PATH.test(path) || path.split("/").includes("..") || !isOurs) {
    throw new RuntimeError(`set sysctl "${name}": it belongs to no namespace of this sandbox`, {
      kind: "invalid-argument",
      code: "SYSCTL_NOT_NAMESPACED",
    });
  }
  return path;
}

function encodeSysctls(request: SandboxNamespaceRequest): string {
  let pairs = "";
  for (const [name, value] of Object.entries(request.sysctls)) {
    if (value.includes("\0")) {
      throw new RuntimeError(`set sysctl "${name}": its value holds a NUL byte`, {
        kind: "invalid-argument",
        code: "SYSCTL_NOT_NAMESPACED",
      });
    }
    pairs += `${checkedSysctl(name, request)}\0${value}\0`;
  }
  return pairs;
}

/** As the kernel reads it (user_namespaces(7)). */
function mapText(ranges: readonly IdRange[]): string {
  return ranges.map(({ containerId, hostId, length }) => `${containerId} ${hostId} ${length}\n`).join("");
}

/**
 * Makes the namespaces of a sandbox on a thread of its own, with hostname and sysctls set and
 * IPv6 duplicate address detection and router advertisements off, and its /dev/shm; then its link. `lo`
 * is down until src/network, or the link's batch, takes it up.
 *
 * @throws RuntimeError `invalid-argument` SYSCTL_NOT_NAMESPACED: a sysctl of the host, or of a
 *   namespace that was not asked for
 */
export async function createSandboxNamespaces(request: SandboxNamespaceRequest): Promise<SandboxNamespaceFds> {
  const { idMaps, shmBytes = 0, link } = request;
  if (!request.network && !request.ipc && !request.uts && !idMaps) return {};
  const sysctls = encodeSysctls(request);
  let linked: Promise<[Buffer, Buffer]> | undefined;
  const [net, ipc, uts, netlink, user, shm] = await callAsync("make namespaces", (native) => {
    const [made, replies] = native.createSandboxNamespaces(
      request.network,
      request.ipc,
      request.uts,
      request.hostname,
      request.domainname,
      sysctls,
      mapText(idMaps?.uids ?? []),
      mapText(idMaps?.gids ?? []),
      shmBytes,
      ...(link ? linkArguments(link) : []),
    );
    linked = replies;
    // It fails where the namespaces do, and without a link nobody waits for it.
    replies.catch(() => undefined);
    return made;
  });
  return {
    ...(net >= 0 && { net: new Fd(net, "net namespace") }),
    ...(ipc >= 0 && { ipc: new Fd(ipc, "ipc namespace") }),
    ...(uts >= 0 && { uts: new Fd(uts, "uts namespace") }),
    ...(user >= 0 && { user: new Fd(user, "user namespace") }),
    ...(netlink >= 0 && { netlink: new Fd(netlink, "netlink of a sandbox") }),
    ...(shm >= 0 && { shm: new Fd(shm, "shm") }),
    ...(link && linked && { link: toReplies(linked) }),
  };
}

function linkArguments({ host, pod, netnsAt, podName, indexAt }: NewLink): (Buffer | number | string)[] {
  const from = host.bytes.length;
  const places = indexAt.map((at) => from + at);
  const batches = Buffer.concat([host.bytes, pod.bytes]);
  return [batches, from, host.expectedEnds, pod.expectedEnds, netnsAt, podName, ...places];
}

function toReplies(linked: Promise<[Buffer, Buffer]>): Promise<LinkReplies> {
  const replies = callAsync("netlink", () => linked).then(([host, pod]) => ({ host, pod }));
  replies.catch(() => undefined);
  return replies;
}
