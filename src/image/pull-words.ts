/**
 * The words that CRI wants at the start of a failed pull's message for reasons that it knows
 * (cri-api pkg/errors/errors.go): the kubelet compares them as a prefix. `src/cri` puts them
 * there, last of all, so that no context comes before them.
 */
import type { ErrorCode } from "../base/error-codes.js";

export const PULL_WORD_BY_CODE: Partial<Readonly<Record<ErrorCode, string>>> = {
  IMAGE_SIGNATURE_INVALID: "SignatureValidationFailed",
  REGISTRY_UNAVAILABLE: "RegistryUnavailable",
};
