/**
 * Permanent names of failures. A code is never renamed and never reused; its text is for
 * people who look it up (`minke explain`, documentation) and may change.
 *
 * Keep the list sorted. A code belongs to one kind of mistake or fault, not to one place.
 */
export const ERROR_CODES = {
  CANCELLED: "the caller went away or asked to stop",
  CAPABILITY_NOT_AVAILABLE: "a capability was asked for that minke itself does not have",
  CONFIG_KEY_NOT_FOUND: "a ConfigMap or Secret that a container names does not exist, or lacks the key",
  CONTAINER_NOT_FOUND: "no container of that id or name exists",
  CONTAINER_NOT_RUNNING: "the container has not started yet, or has ended",
  DAEMON_START_FAILED: "the daemon was started for a command and did not answer; its log says why",
  DAEMON_UNREACHABLE: "nothing answers on the socket of the daemon",
  HOST_PATH_TYPE: "a hostPath volume is not of the type that it asks for",
  HOST_PORT_IN_USE: "another pod or program has the host port",
  IMAGE_NOT_FOUND: "no image of that reference is here, or in its registry",
  INTERNAL: "a fault of minke's own; please report it",
  INVALID_ENV: "an environment variable cannot be passed to a process",
  INVALID_MANIFEST: "a manifest has fields that Kubernetes would refuse",
  INVALID_REQUEST: "a request of the API has a wrong path, parameter or body",
  INVALID_YAML: "a manifest is not well-formed YAML",
  LOG_NOT_FOUND: "a container has not written a log yet, or its log is gone",
  MANIFEST_TOO_LARGE: "a manifest is over 4 MiB",
  NO_COMMAND: "neither the image nor the container says what to run",
  NO_SPACE: "the file system that minke writes to is full",
  PERMISSION_DENIED: "the kernel refused an operation; minke runs as root with all capabilities",
  POD_EXISTS: "a pod of that name exists in the namespace",
  POD_NOT_FOUND: "no pod of that name is in the namespace",
  POD_NOT_STARTED: "a pod did not come up, or not in time",
  RUN_AS_ROOT: "a container must not run as root, and would",
  SOCKET_IN_USE: "another process listens on the socket, or a file is in its place",
  SUB_PATH_ESCAPES: "a subPath leads out of its volume, or through a symbolic link",
  TOO_MANY_FILES: "the limit of open files is reached",
  UNKNOWN_CAPABILITY: "not a name of capabilities(7)",
  UNKNOWN_GROUP: "a group name is not in the image's /etc/group",
  UNKNOWN_USER: "a user name is not in the image's /etc/passwd",
} as const satisfies Readonly<Record<string, string>>;

export type ErrorCode = keyof typeof ERROR_CODES;
