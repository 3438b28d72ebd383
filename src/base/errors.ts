/**
 * The one error class of minke, and the one way to add context to it.
 *
 * `kind` says what a caller can do and maps to one gRPC status and one HTTP status each;
 * `code` is a permanent name that tests and scripts may rely on (base/error-codes.ts).
 * The text may change. Errors are thrown here, and logged once, at the edge.
 */
import type { ErrorCode } from "./error-codes.js";

export type ErrorKind =
  | "invalid-argument"
  | "not-found"
  | "already-exists"
  | "failed-precondition"
  | "permission-denied"
  | "resource-exhausted"
  | "unavailable"
  | "unimplemented"
  | "deadline-exceeded"
  | "cancelled"
  | "aborted"
  | "data-loss"
  | "internal";

/** The system call behind a failure: kernel's name and errno name (`"move_mount"`, `"ENOSPC"`). */
export interface FailedSyscall {
  readonly name: string;
  readonly errno: string;
}

export interface RuntimeErrorFields {
  readonly kind: ErrorKind;
  readonly code: ErrorCode;
  readonly syscall?: FailedSyscall | undefined;
  readonly cause?: unknown;
}

/**
 * An error with a kind, a code and a message of the grammar
 * `<doing what to which object>: <doing what>: <syscall>: <ERRNO> (<hint>)`.
 */
export class RuntimeError extends Error {
  readonly kind: ErrorKind;
  readonly code: ErrorCode;
  readonly syscall: FailedSyscall | undefined;

  constructor(message: string, fields: RuntimeErrorFields) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.name = "RuntimeError";
    this.kind = fields.kind;
    this.code = fields.code;
    this.syscall = fields.syscall;
  }
}

/**
 * Adds one clause in front of an error's message; kind, code and system call stay.
 *
 * Use it only where this layer knows an object that the inner one did not. What is not a
 * RuntimeError becomes `internal` INTERNAL, or by its errno what `fromSystemError` says.
 */
export function withContext(err: unknown, clause: string): RuntimeError {
  const inner = toRuntimeError(err);
  return new RuntimeError(`${clause}: ${inner.message}`, {
    kind: inner.kind,
    code: inner.code,
    syscall: inner.syscall,
    cause: err,
  });
}

const KIND_BY_ERRNO: Readonly<Record<string, [ErrorKind, ErrorCode]>> = {
  ENOSPC: ["resource-exhausted", "NO_SPACE"],
  EDQUOT: ["resource-exhausted", "NO_SPACE"],
  EMFILE: ["resource-exhausted", "TOO_MANY_FILES"],
  ENFILE: ["resource-exhausted", "TOO_MANY_FILES"],
  EACCES: ["permission-denied", "PERMISSION_DENIED"],
  EPERM: ["permission-denied", "PERMISSION_DENIED"],
};

/** Any thrown value as a RuntimeError. Node's system errors keep their errno and system call. */
export function toRuntimeError(err: unknown): RuntimeError {
  if (err instanceof RuntimeError) return err;
  if (err instanceof Error && "code" in err && typeof err.code === "string" && "syscall" in err) {
    const [kind, code] = KIND_BY_ERRNO[err.code] ?? ["internal", "INTERNAL"];
    const name = String(err.syscall);
    const path = "path" in err && typeof err.path === "string" ? ` "${err.path}"` : "";
    return new RuntimeError(`${name}${path}: ${err.code}`, {
      kind,
      code,
      syscall: { name, errno: err.code },
      cause: err,
    });
  }
  const text = err instanceof Error ? err.message : String(err);
  return new RuntimeError(text, { kind: "internal", code: "INTERNAL", cause: err });
}

/** True for a Node system error, or a RuntimeError, with this errno name. */
export function hasErrno(err: unknown, errno: string): boolean {
  if (err instanceof RuntimeError) return err.syscall?.errno === errno;
  return err instanceof Error && "code" in err && err.code === errno;
}
