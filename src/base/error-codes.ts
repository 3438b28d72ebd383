/**
 * Permanent names of failures. A code is never renamed and never reused; its text is for
 * people who look it up (`minke explain`, documentation) and may change.
 *
 * Keep the list sorted. A code belongs to one kind of mistake or fault, not to one place.
 */
export const ERROR_CODES = {
  CANCELLED: "the caller went away or asked to stop",
  INTERNAL: "a fault of minke's own; please report it",
  NO_SPACE: "the file system that minke writes to is full",
  PERMISSION_DENIED: "the kernel refused an operation; minke runs as root with all capabilities",
  SETTINGS_INVALID: "the settings file is not TOML, or a setting is unknown or has a wrong value",
  SETTINGS_NOT_FOUND: "the settings file that was asked for does not exist",
  TOO_MANY_FILES: "the limit of open files is reached",
} as const satisfies Readonly<Record<string, string>>;

export type ErrorCode = keyof typeof ERROR_CODES;
