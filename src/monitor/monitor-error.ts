/**
 * The monitor's failures as RuntimeErrors. The text is the monitor's; kind and code are ours.
 */
import type { ErrorCode } from "../base/error-codes.js";
import { type ErrorKind, RuntimeError } from "../base/errors.js";
import type { MonitorFailure } from "./protocol.js";

const BY_CODE: Readonly<Record<string, [ErrorKind, ErrorCode]>> = {
  CONTAINER_EXISTS: ["already-exists", "CONTAINER_NOT_CREATED"],
  CONTAINER_NOT_FOUND: ["not-found", "CONTAINER_NOT_FOUND"],
  CONTAINER_NOT_RUNNING: ["failed-precondition", "CONTAINER_NOT_RUNNING"],
  CONTAINER_RUNNING: ["failed-precondition", "CONTAINER_RUNNING"],
  CONTAINERS_RUNNING: ["failed-precondition", "CONTAINER_RUNNING"],
  EXEC_FAILED: ["internal", "EXEC_FAILED"],
  EXEC_NOT_ATTACHABLE: ["failed-precondition", "EXEC_NOT_ATTACHABLE"],
  EXEC_NOT_FOUND: ["not-found", "EXEC_NOT_FOUND"],
  INIT_EXISTS: ["already-exists", "INIT_EXISTS"],
  INIT_FAILED: ["internal", "INIT_FAILED"],
  LOG_REOPEN_FAILED: ["internal", "LOG_REOPEN_FAILED"],
  NO_TERMINAL: ["failed-precondition", "NO_TERMINAL"],
  START_FAILED: ["internal", "CONTAINER_START_FAILED"],
  STREAM_TOO_SLOW: ["aborted", "STREAM_TOO_SLOW"],
  TOO_MANY_CLIENTS: ["resource-exhausted", "TOO_MANY_CLIENTS"],
  TOO_MANY_EXECS: ["resource-exhausted", "TOO_MANY_EXECS"],
  UNKNOWN_PROTOCOL: ["unimplemented", "MONITOR_PROTOCOL"],
};

const BY_ERRNO: Readonly<Record<string, [ErrorKind, ErrorCode]>> = {
  EDQUOT: ["resource-exhausted", "NO_SPACE"],
  EMFILE: ["resource-exhausted", "TOO_MANY_FILES"],
  ENFILE: ["resource-exhausted", "TOO_MANY_FILES"],
};

/** Paths and arguments of whoever asked that no file and no program can have (path_resolution(7), execve(2)). */
const IMPOSSIBLE: ReadonlySet<string> = new Set(["E2BIG", "ELOOP", "ENAMETOOLONG"]);

/** Places in the container or on the host that are not as a spec needs them. */
const UNFIT: ReadonlySet<string> = new Set(["EEXIST", "EISDIR", "ENOENT", "ENOTDIR", "EROFS"]);

/**
 * Steps of a start or exec (`MINKE_STEPS` of native/runtime/child_report.h, and the monitor's own) that act on what the
 * caller names: its paths, its program, its profile, or a process of its that a namespace is taken from. In every
 * other step, as "cgroup" or "rootfs", a missing or superfluous file is one of ours.
 */
const ASKED_FOR: ReadonlySet<string> = new Set([
  "chdir",
  "device",
  "exec",
  "hook",
  "intel rdt",
  "label",
  "limits",
  "log",
  "mask",
  "mount",
  "namespace",
  "network device",
  "readonly path",
  "symlink",
  "sysctl",
  "terminal",
]);

/** A request that the monitor refused, or an operation of its that failed. */
export class MonitorRequestError extends RuntimeError {
  /** Where a start or exec failed: `"spec"`, `"mount"`, `"exec"`, …; `undefined` elsewhere. */
  readonly step: string | undefined;
  /** For a refused spec: `"process.user.uid"`. */
  readonly jsonPath: string | undefined;

  constructor({ code, message, step, syscall, errno, jsonPath }: MonitorFailure) {
    const byErrno = errno === undefined ? undefined : BY_ERRNO[errno];
    const [kindOfCode, ourCode] = byErrno ?? BY_CODE[code] ?? ["internal", "INTERNAL"];
    const kind = step === undefined || byErrno ? kindOfCode : (kindOfStep(step, errno) ?? kindOfCode);
    super(jsonPath ? `${message} (at "${jsonPath}")` : message, {
      kind,
      code: ourCode,
      syscall: syscall !== undefined && errno !== undefined ? { name: syscall, errno } : undefined,
    });
    this.step = step;
    this.jsonPath = jsonPath;
  }
}

/** Of a start or exec: whose fault a failed step is, where that is not ours. */
function kindOfStep(step: string, errno = ""): ErrorKind | undefined {
  // A spec that is refused says what was asked for, and names the field.
  if (step === "spec") return "invalid-argument";
  if (!ASKED_FOR.has(step)) return undefined;
  if (IMPOSSIBLE.has(errno)) return "invalid-argument";
  return UNFIT.has(errno) ? "failed-precondition" : undefined;
}

/** The connection has ended: the monitor was killed, was shut down, or broke the protocol. */
export function monitorUnreachable(reason: string, cause?: unknown): RuntimeError {
  return new RuntimeError(`talk to the monitor: ${reason}`, {
    kind: "unavailable",
    code: "MONITOR_UNREACHABLE",
    cause,
  });
}
