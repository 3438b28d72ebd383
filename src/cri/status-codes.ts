/**
 * Kinds of errors as gRPC status codes (google.rpc.Code). A new kind does not compile until it is mapped.
 */
import type { ErrorKind } from "../base/errors.js";

export const STATUS_BY_KIND = {
  cancelled: 1,
  "invalid-argument": 3,
  "deadline-exceeded": 4,
  "not-found": 5,
  "already-exists": 6,
  "permission-denied": 7,
  "resource-exhausted": 8,
  "failed-precondition": 9,
  aborted: 10,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  "data-loss": 15,
} as const satisfies Record<ErrorKind, number>;
