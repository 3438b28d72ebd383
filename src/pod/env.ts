/**
 * A container's environment: values, references to fields of the pod, and `$(VAR)` expansion.
 */
import { RuntimeError } from "../base/errors.js";
import type { Container, Pod } from "./manifest/defaults.js";

/** What a field reference can read that the manifest does not say. */
export interface PodFacts {
  readonly uid: string;
  readonly podIps: readonly string[];
  readonly hostIps: readonly string[];
  readonly nodeName: string;
}

const REFERENCE = /\$(?:\$|\(([^()]*)\))/g;

/**
 * Replaces `$(NAME)` by the variable of that name; `$$(NAME)` stays as `$(NAME)`, and a name
 * that is not known stays as it is (Kubernetes third_party/forked/golang/expansion).
 */
export function expandVariables(text: string, variables: ReadonlyMap<string, string>): string {
  return text.replace(REFERENCE, (whole, name: string | undefined) => {
    if (name === undefined) return "$";
    return variables.get(name) ?? whole;
  });
}

/** Variables in the order of the manifest; later ones may refer to earlier ones. */
export function containerEnv(container: Container, pod: Pod, facts: PodFacts): Map<string, string> {
  const variables = new Map<string, string>();
  for (const { name, value, valueFrom } of container.env ?? []) {
    if (valueFrom?.fieldRef) variables.set(name, fieldValue(valueFrom.fieldRef.fieldPath, pod, facts));
    else variables.set(name, expandVariables(value ?? "", variables));
  }
  return variables;
}

const MAP_FIELD = /^metadata\.(labels|annotations)\['([^']+)'\]$/;

function fieldValue(fieldPath: string, pod: Pod, facts: PodFacts): string {
  const inMap = MAP_FIELD.exec(fieldPath);
  if (inMap?.[2] !== undefined)
    return (inMap[1] === "labels" ? pod.metadata.labels : pod.metadata.annotations)?.[inMap[2]] ?? "";
  switch (fieldPath) {
    case "metadata.name":
      return pod.metadata.name;
    case "metadata.namespace":
      return pod.metadata.namespace;
    case "metadata.uid":
      return facts.uid;
    case "spec.nodeName":
      return facts.nodeName;
    case "spec.serviceAccountName":
      return "default";
    case "status.podIP":
      return facts.podIps[0] ?? "";
    case "status.podIPs":
      return facts.podIps.join(",");
    case "status.hostIP":
      return facts.hostIps[0] ?? "";
    case "status.hostIPs":
      return facts.hostIps.join(",");
    default:
      throw new RuntimeError(`field "${fieldPath}" is not supported`, {
        kind: "invalid-argument",
        code: "INVALID_MANIFEST",
      });
  }
}
