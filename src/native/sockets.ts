/**
 * Netlink sockets, connections made inside a pod's network namespace, and ports of the host.
 */
import { open } from "node:fs/promises";
import { hasErrno } from "../base/errors.js";
import { call, callAsync } from "./addon.js";
import { Fd } from "./fd.js";

// linux/netlink.h
const NETLINK_PROTOCOL = { route: 0, netfilter: 12 } as const;
// netinet/in.h
const IPPROTO = { tcp: 6, udp: 17, sctp: 132 } as const;
const DIAL_TIMEOUT_MS = 5_000;

/** @param netns whose socket it is to be; without it the daemon's own network namespace's */
export async function netlinkOpen(protocol: keyof typeof NETLINK_PROTOCOL, netns?: Fd): Promise<Fd> {
  const number = await callAsync(`open ${protocol} netlink socket`, (native) =>
    native.netlinkOpen(NETLINK_PROTOCOL[protocol], netns?.number ?? -1),
  );
  return new Fd(number, `${protocol} netlink socket`);
}

/**
 * Sends a batch of netlink messages and collects the answers, off the event loop. One call at
 * a time per socket.
 *
 * @param expectedEnds how many answers end with NLMSG_ERROR (acknowledgements) or NLMSG_DONE (dumps)
 */
export function netlinkTransact(fd: Fd, request: Buffer, expectedEnds: number): Promise<Buffer> {
  return callAsync("netlink", (native) => native.netlinkTransact(fd.number, request, expectedEnds));
}

/**
 * Sends a request that deletes links, which takes the kernel 10 to 45 ms, and settles as soon as it
 * has said of each named link that it is gone, which takes it 1 to 2 ms.
 *
 * @param request one netlink message
 * @param names of links of the daemon's own network namespace; none: wait for the answer
 * @returns the answer, empty where the links were gone before it came
 */
export function deleteLinks(request: Buffer, names: readonly string[]): Promise<Buffer> {
  return callAsync("delete links", (native) => native.deleteLinks(request, ...names));
}

/**
 * Connects to a TCP port of a network namespace's localhost, 127.0.0.1 then ::1.
 *
 * @param netns a namespace descriptor, or its path: `/proc/<monitor>/fd/4`
 * @returns a connected non-blocking socket, for `net.Socket({ fd: fd.take() })`
 * @throws RuntimeError with syscall `connect`: ECONNREFUSED nobody listens, ETIMEDOUT
 */
export async function dialInNetns(netns: Fd | string, port: number): Promise<Fd> {
  const clause = `connect to port ${port} of the pod`;
  if (netns instanceof Fd) {
    const number = await callAsync(clause, (native) => native.dialInNetns(netns.number, port, DIAL_TIMEOUT_MS));
    return new Fd(number, clause);
  }
  const file = await open(netns, "r");
  try {
    return new Fd(await callAsync(clause, (native) => native.dialInNetns(file.fd, port, DIAL_TIMEOUT_MS)), clause);
  } finally {
    await file.close();
  }
}

/**
 * The text of /proc/net/dev (proc_pid_net(5)) of a network namespace, whether a process is in it or not.
 *
 * @param netns its path: `/proc/<monitor>/fd/4`
 * @throws RuntimeError with syscall `openat`: ENOENT, nobody holds it any more
 */
export function netDevicesOf(netns: string): Promise<string> {
  return callAsync("read the links of a network namespace", (native) => native.netDevicesOf(netns));
}

/**
 * Whether a socket of the host could be bound to this address and port now. A protocol that the
 * kernel does not have is free.
 *
 * @param address a literal address; `0.0.0.0` and `::` mean every one
 */
export function isPortFree(protocol: keyof typeof IPPROTO, address: string, port: number): boolean {
  try {
    call(`bind ${protocol} ${address} port ${port}`, (native) => native.bindProbe(IPPROTO[protocol], address, port));
    return true;
  } catch (err) {
    if (hasErrno(err, "EADDRINUSE")) return false;
    if (hasErrno(err, "EPROTONOSUPPORT") || hasErrno(err, "EAFNOSUPPORT") || hasErrno(err, "ESOCKTNOSUPPORT"))
      return true;
    throw err;
  }
}
