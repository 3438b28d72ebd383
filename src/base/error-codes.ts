/**
 * Permanent names of failures. A code is never renamed and never reused; its text is for
 * people who look it up (`minke explain`, documentation) and may change.
 *
 * Keep the list sorted. A code belongs to one kind of mistake or fault, not to one place.
 */
export const ERROR_CODES = {
  ADDON_NOT_BUILT: "the native part of minke is missing or was built for another machine",
  BRIDGE_TAKEN: "a link with the name of the bridge exists and is not ours",
  CANCELLED: "the caller went away or asked to stop",
  CAPABILITY_NOT_AVAILABLE: "a capability was asked for that minke itself does not have",
  HOST_PORT_IN_USE: "the port of the host is used by another pod or by a process of the host",
  INTERNAL: "a fault of minke's own; please report it",
  INVALID_ENV: "an environment variable cannot be passed to a process",
  INVALID_HOST_PORT: "the host address of a published port is not an IP address",
  INVALID_NETWORK_SETTING: "a network setting is not a valid subnet, bridge name or MTU",
  LOCKED: "another process holds the lock; two daemons cannot share one root",
  NO_ADDRESSES: "every address of the pod subnet is leased",
  NO_CGROUP2: "no cgroup v2 file system is mounted",
  NO_COMMAND: "neither the image nor the container says what to run",
  NO_SPACE: "the file system that minke writes to is full",
  PERMISSION_DENIED: "the kernel refused an operation; minke runs as root with all capabilities",
  SUBNET_TAKEN: "the pod subnet overlaps a network of the host",
  SYSCTL_NOT_NAMESPACED: "the sysctl belongs to the host or to a namespace that the pod does not have of its own",
  TOO_MANY_FILES: "the limit of open files is reached",
  UNKNOWN_CAPABILITY: "not a name of capabilities(7)",
  UNKNOWN_GROUP: "a group name is not in the image's /etc/group",
  UNKNOWN_USER: "a user name is not in the image's /etc/passwd",
} as const satisfies Readonly<Record<string, string>>;

export type ErrorCode = keyof typeof ERROR_CODES;
