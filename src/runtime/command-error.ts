/**
 * Failures of a start or exec as the monitor reports them, told apart by the step that failed.
 */
import type { ErrorCode } from "../base/error-codes.js";
import { type ErrorKind, RuntimeError, toRuntimeError } from "../base/errors.js";

/** execve(2)'s errno -> whose fault it is. */
const EXEC_ERRORS: Readonly<Record<string, [ErrorKind, ErrorCode]>> = {
  ENOENT: ["not-found", "COMMAND_NOT_FOUND"],
  ENOTDIR: ["not-found", "COMMAND_NOT_FOUND"],
  EACCES: ["permission-denied", "COMMAND_NOT_EXECUTABLE"],
  ENOEXEC: ["permission-denied", "COMMAND_NOT_EXECUTABLE"],
};

/** A hook is of the host, of a CDI specification or an NRI plugin: nothing of ours is wrong where it fails. */
const HOOK_ERROR: [ErrorKind, ErrorCode] = ["failed-precondition", "HOOK_FAILED"];

/** The error of a failed start or exec; a failed execve is COMMAND_NOT_FOUND or COMMAND_NOT_EXECUTABLE, a hook HOOK_FAILED. */
export function toCommandError(err: unknown): RuntimeError {
  const inner = toRuntimeError(err);
  const step = typeof err === "object" && err !== null && "step" in err ? err.step : undefined;
  const ofExec = step === "exec" && inner.syscall ? EXEC_ERRORS[inner.syscall.errno] : undefined;
  const mapped = step === "hook" ? HOOK_ERROR : ofExec;
  if (!mapped) return inner;
  const [kind, code] = mapped;
  return new RuntimeError(inner.message, { kind, code, syscall: inner.syscall, cause: err });
}
