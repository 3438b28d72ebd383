/**
 * Permanent names of failures. A code is never renamed and never reused; its text is for
 * people who look it up (`minke explain`, documentation) and may change.
 *
 * Keep the list sorted. A code belongs to one kind of mistake or fault, not to one place.
 */
export const ERROR_CODES = {
  CANCELLED: "the caller went away or asked to stop",
  CAPABILITY_NOT_AVAILABLE: "a capability was asked for that minke itself does not have",
  INTERNAL: "a fault of minke's own; please report it",
  INVALID_ENV: "an environment variable cannot be passed to a process",
  NO_COMMAND: "neither the image nor the container says what to run",
  NO_SPACE: "the file system that minke writes to is full",
  PERMISSION_DENIED: "the kernel refused an operation; minke runs as root with all capabilities",
  TOO_MANY_FILES: "the limit of open files is reached",
  UNKNOWN_CAPABILITY: "not a name of capabilities(7)",
  UNKNOWN_GROUP: "a group name is not in the image's /etc/group",
  UNKNOWN_USER: "a user name is not in the image's /etc/passwd",
} as const satisfies Readonly<Record<string, string>>;

export type ErrorCode = keyof typeof ERROR_CODES;
