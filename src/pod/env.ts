/**
 * A container's environment: values, references to fields of the pod, and `$(VAR)` expansion.
 */
import { RuntimeError } from "../base/errors.js";
import { cpus, totalmem } from "node:os";
import type { ConfigSource } from "./config-objects.js";
import type { Container, Pod } from "./manifest/defaults.js";
import { parseQuantity } from "./manifest/quantity.js";
import type { ConfigPart } from "./manifest/config-schema.js";
import type { EnvVar, ResourceFieldRef } from "./manifest/schema.js";

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

/**
 * Variables in the order of the manifest, those of envFrom first; later ones may refer to earlier ones.
 *
 * @throws RuntimeError `not-found` CONFIG_NOT_FOUND, CONFIG_KEY_MISSING
 */
export function containerEnv(
  container: Container,
  pod: Pod,
  facts: PodFacts,
  configs: ConfigSource,
): Map<string, string> {
  const variables = new Map<string, string>();
  for (const { prefix = "", configMapRef, secretRef } of container.envFrom ?? []) {
    const ref = configMapRef ?? secretRef;
    if (!ref) continue;
    const content = referredContent(
      configs,
      configMapRef ? "ConfigMap" : "Secret",
      pod.metadata.namespace,
      ref,
      "data",
    );
    for (const [key, value] of content ?? []) variables.set(prefix + key, toValue(value));
  }
  for (const { name, value, valueFrom } of container.env ?? []) {
    const found = valueFrom
      ? referredValue(valueFrom, container, pod, facts, configs)
      : expandVariables(value ?? "", variables);
    if (found !== undefined) variables.set(name, found);
  }
  return variables;
}

/** `undefined`: an optional reference that leads nowhere; the variable is not set then. */
function referredValue(
  { fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef }: NonNullable<EnvVar["valueFrom"]>,
  container: Container,
  pod: Pod,
  facts: PodFacts,
  configs: ConfigSource,
): string | undefined {
  if (fieldRef) return fieldValue(fieldRef.fieldPath, pod, facts);
  if (resourceFieldRef) return resourceValue(resourceFieldRef, pod, container);
  const ref = configMapKeyRef ?? secretKeyRef;
  if (!ref) return undefined;
  const kind = configMapKeyRef ? "ConfigMap" : "Secret";
  const value = referredContent(configs, kind, pod.metadata.namespace, ref, "data")?.get(ref.key);
  if (value !== undefined) return toValue(value);
  if (ref.optional) return undefined;
  throw missingKey(kind, ref.name, ref.key);
}

/** The content of an object that a pod refers to; `undefined` where it may be absent, and is. */
export function referredContent(
  configs: ConfigSource,
  kind: "ConfigMap" | "Secret",
  namespace: string,
  ref: { readonly name: string; readonly optional?: boolean | undefined },
  part: ConfigPart,
): ReadonlyMap<string, Buffer> | undefined {
  const content = configs.content(kind, namespace, ref.name, part);
  if (content || ref.optional) return content;
  throw new RuntimeError(`${kind} "${ref.name}" not found in namespace "${namespace}"`, {
    kind: "not-found",
    code: "CONFIG_NOT_FOUND",
  });
}

export function missingKey(kind: string, name: string, key: string): RuntimeError {
  return new RuntimeError(`${kind} "${name}" has no key "${key}"`, { kind: "not-found", code: "CONFIG_KEY_MISSING" });
}

/** Bytes that are no UTF-8 go as latin1, as ContainerConfig wants them. */
function toValue(bytes: Buffer): string {
  const text = bytes.toString("utf8");
  return text.includes("\ufffd") && !Buffer.from(text).equals(bytes) ? bytes.toString("latin1") : text;
}

/**
 * A limit or request in units of the divisor, rounded up; what is not set is what the machine has
 * (Kubernetes, "Downward API", resourceFieldRef).
 */
export function resourceValue(ref: ResourceFieldRef, pod: Pod, self: Container | undefined): string {
  const all = [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
  const container = ref.containerName ? all.find(({ name }) => name === ref.containerName) : self;
  const [kind = "limits", resource = ""] = ref.resource.split(".");
  const { limits, requests } = container?.resources ?? {};
  const set = kind === "limits" ? limits?.[resource] : (requests?.[resource] ?? limits?.[resource]);
  const machine: Readonly<Record<string, number>> = { cpu: cpus().length, memory: totalmem() };
  const value = set === undefined ? (kind === "limits" ? (machine[resource] ?? 0) : 0) : (parseQuantity(set) ?? 0);
  const divisor = parseQuantity(ref.divisor ?? 1) || 1;
  return String(Math.ceil(Math.round((value / divisor) * 1e6) / 1e6));
}

const MAP_FIELD = /^metadata\.(labels|annotations)\['([^']+)'\]$/;

export function fieldValue(fieldPath: string, pod: Pod, facts: PodFacts): string {
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
