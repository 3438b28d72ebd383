/**
 * When an image is fetched, by Kubernetes' rules ("Images", imagePullPolicy).
 */
import { parseReference } from "./reference.js";

export type PullPolicy = "Always" | "IfNotPresent" | "Never";

/**
 * The policy of a container that names none: `Always` for the tag `latest`, given or implied, else `IfNotPresent`.
 *
 * @throws RuntimeError `invalid-argument` INVALID_REFERENCE
 */
export function defaultPullPolicy(ref: string): PullPolicy {
  const { tag, digest } = parseReference(ref);
  return digest === undefined && tag === "latest" ? "Always" : "IfNotPresent";
}
