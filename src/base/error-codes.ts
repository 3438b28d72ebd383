/**
 * Permanent names of failures. A code is never renamed and never reused; its text is for
 * people who look it up (`minke explain`, documentation) and may change.
 *
 * Keep the list sorted. A code belongs to one kind of mistake or fault, not to one place.
 */
export const ERROR_CODES = {
  BUNDLE_DAMAGED: "a container's OCI bundle cannot be read any more",
  CANCELLED: "the caller went away or asked to stop",
  CAPABILITY_NOT_AVAILABLE: "a capability was asked for that minke itself does not have",
  CGROUP_BUSY: "processes of a cgroup did not end after SIGKILL",
  COMMAND_NOT_EXECUTABLE: "the command is not a program that may be executed",
  COMMAND_NOT_FOUND: "the command is not in the image",
  CONTAINER_NOT_CREATED: "the container has been started before; a container runs once",
  CONTAINER_NOT_FOUND: "no container has this id",
  CONTAINER_NOT_RUNNING: "the container has not been started, or has exited",
  CONTAINER_START_FAILED: "the kernel refused a step of the container's start",
  CONTAINER_STOP_TIMEOUT: "the container's processes outlive SIGKILL",
  CONTROLLER_MISSING: "a limit needs a cgroup v2 controller that the host does not offer",
  EXEC_TIMEOUT: "a command in a container did not end in time and was killed",
  IMAGE_FILE_TOO_LARGE: "a file of the image that minke must read is larger than it may be",
  IMAGE_NOT_FOUND: "the image is not on this machine",
  INTERNAL: "a fault of minke's own; please report it",
  INVALID_ENV: "an environment variable cannot be passed to a process",
  INVALID_HOST_ENTRY: "a name or address cannot stand in /etc/hosts, /etc/hostname or /etc/resolv.conf",
  INVALID_LOG_PATH: "a container's log path leaves the sandbox's log directory",
  MONITOR_UNREACHABLE: "the monitor of a sandbox does not answer",
  NAME_IN_USE: "an object of this name exists already",
  NOT_IMPLEMENTED: "this version of minke does not have the operation",
  NO_CGROUP2: "cgroup v2 is not mounted on this host",
  NO_COMMAND: "neither the image nor the container says what to run",
  NO_SPACE: "the file system that minke writes to is full",
  PERMISSION_DENIED: "the kernel refused an operation; minke runs as root with all capabilities",
  SANDBOX_NOT_FOUND: "no sandbox has this id",
  SANDBOX_NOT_READY: "the sandbox is not ready: it is being made, stopped or removed",
  SETTINGS_INVALID: "the settings file is not TOML, or a setting is unknown or has a wrong value",
  SETTINGS_NOT_FOUND: "the settings file that was asked for does not exist",
  SOCKET_IN_USE: "another process serves on the socket, or a file that is no socket is in its place",
  SOCKET_UNUSABLE: "a unix socket cannot be made at its path",
  TOO_MANY_FILES: "the limit of open files is reached",
  UNKNOWN_CAPABILITY: "not a name of capabilities(7)",
  UNKNOWN_GROUP: "a group name is not in the image's /etc/group",
  UNKNOWN_SIGNAL: "not a name of signal(7)",
  UNKNOWN_USER: "a user name is not in the image's /etc/passwd",
} as const satisfies Readonly<Record<string, string>>;

export type ErrorCode = keyof typeof ERROR_CODES;
