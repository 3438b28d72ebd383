/**
 * What an errno means where its name misleads: one line and one source each.
 *
 * Keyed by system call and errno; `*` stands for any call. Knows no objects: the caller's
 * context says what was being done to what.
 */
const HINTS: Readonly<Record<string, string>> = {
  // mount_namespaces(7); kernel Documentation/admin-guide/sysctl/fs.rst, "mount-max"
  "move_mount ENOSPC": "the mount namespace has reached its limit; see /proc/sys/fs/mount-max",
  // unshare(2): the limits of namespaces(7), not disk space
  "unshare ENOSPC": "the limit of namespaces is reached; see /proc/sys/user",
  // setns(2): a threaded caller cannot join a user or mount namespace
  "setns EINVAL": "the descriptor is no namespace of this type, or the caller has threads",
  // open_tree(2): cloning a detached mount is possible from Linux 6.15
  "open_tree EINVAL": "this kernel cannot clone a detached mount",
  // cgroups(7), "no internal processes" and "delegation"
  "clone3 EBUSY": "the cgroup has controllers enabled for its children and can hold no process itself",
  "clone3 EOPNOTSUPP": "the cgroup is of a threaded or invalid type",
  // cgroups(7): EAGAIN from pids.max, fork(2): from RLIMIT_NPROC
  "clone3 EAGAIN": "a limit of processes is reached: pids.max of the cgroup or the user's limit",
  "pthread_create EAGAIN": "a limit of threads is reached: pids.max of the daemon's cgroup or the user's limit",
  // rmdir(2) of a cgroup: cgroups(7)
  "rmdir EBUSY": "processes or child cgroups are still in the cgroup",
  // execve(2): the interpreter of the file, not the file, is missing
  "execveat ENOENT": "the program's interpreter is missing",
  // socket(2), netlink(7): the module of the protocol is not there
  "socket EPROTONOSUPPORT": "the kernel lacks this protocol; its module may be missing",
  // netlink(7): the socket's buffer was too small for the answers
  "recv ENOBUFS": "the kernel had more to answer than the socket's buffer holds",
};

/** The hint for a failed system call, or `undefined` where the errno says it itself. */
export function errnoHint(syscall: string, errno: string): string | undefined {
  return HINTS[`${syscall} ${errno}`] ?? HINTS[`* ${errno}`];
}
