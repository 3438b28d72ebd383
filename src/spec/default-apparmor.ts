/**
 * The AppArmor profile of RuntimeDefault, as tight as Docker's (its documentation, "AppArmor security
 * profiles for Docker"): everything that needs no more than a container's capabilities, but no write to
 * the kernel's controls below /proc and /sys, no mount, and no trace of what is not its own.
 *
 * Pure: text in, text out. src/runtime/apparmor.ts loads it.
 */

/** One for all daemons: what runs under it keeps it when a daemon ends. */
export const DEFAULT_APPARMOR_PROFILE = "minke-default";

/**
 * @param daemonLabel the daemon's own profile, or "unconfined": what may send signals to containers
 * @returns for apparmor_parser, with nothing included, so that no file of the host is needed
 */
export function defaultAppArmorProfile(daemonLabel = "unconfined"): string {
  const name = DEFAULT_APPARMOR_PROFILE;
  const daemon = daemonLabel === "unconfined" ? "" : `  signal (receive) peer="${daemonLabel}",\n`;
  return `profile ${name} flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  # From the host, from other runtimes that run a container (profiles of their own on some hosts), and among containers.
  signal (receive) peer=unconfined,
${daemon}  signal (receive) peer=crun,
  signal (receive) peer=runc,
  signal (send,receive) peer=${name},
  ptrace (trace,read,tracedby,readby) peer=${name},

  # Everything below /proc but what is a process's own, and /proc/sys/kernel/shm*.
  deny /proc/* w,
  deny /proc/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny /proc/kmem rwklx,
  deny /proc/mem rwklx,

  deny mount,

  # Of /sys nothing but /sys/fs/cgroup.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`;
}
