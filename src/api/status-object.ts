/**
 * Errors as Kubernetes `Status` objects. Our code is the reason of the first cause.
 */
import type { ErrorKind } from "../base/errors.js";
import { toRuntimeError } from "../base/errors.js";
import { ManifestError } from "../pod/manifest/problems.js";

/** HTTP status and Kubernetes' reason for each kind (apimachinery meta/v1 StatusReason). */
const BY_KIND = {
  "invalid-argument": [400, "BadRequest"],
  "not-found": [404, "NotFound"],
  "already-exists": [409, "AlreadyExists"],
  "failed-precondition": [409, "Conflict"],
  "permission-denied": [403, "Forbidden"],
  "resource-exhausted": [429, "TooManyRequests"],
  unavailable: [503, "ServiceUnavailable"],
  unimplemented: [501, "MethodNotAllowed"],
  "deadline-exceeded": [504, "Timeout"],
  cancelled: [499, "Canceled"],
  aborted: [409, "Conflict"],
  "data-loss": [500, "InternalError"],
  internal: [500, "InternalError"],
} as const satisfies Record<ErrorKind, readonly [number, string]>;

export interface StatusJson {
  kind: "Status";
  apiVersion: "v1";
  metadata: object;
  status: "Failure";
  message: string;
  reason: string;
  details: { causes: { reason: string; message: string; field?: string }[] };
  code: number;
}

export function toStatusObject(err: unknown): StatusJson {
  const error = toRuntimeError(err);
  const [code, reason] = error instanceof ManifestError ? [422, "Invalid"] : BY_KIND[error.kind];
  const causes =
    error instanceof ManifestError
      ? error.problems.map(({ path, message }) => ({ reason: error.code as string, message, field: path }))
      : [{ reason: error.code as string, message: error.message }];
  return {
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Failure",
    message: error.message,
    reason,
    details: { causes },
    code,
  };
}
