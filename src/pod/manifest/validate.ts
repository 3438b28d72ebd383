/**
 * The rules of a Pod that a shape cannot say (Kubernetes pkg/apis/core/validation), and the
 * warnings about fields that mean less here than in a cluster.
 */
import { isIP } from "node:net";
import type { Pod } from "./defaults.js";
import type { FieldProblem } from "./problems.js";
import { checkActions } from "./validate-actions.js";
import { checkFiles, checkResourceRef } from "./validate-files.js";
import { parseQuantity } from "./quantity.js";
import type { PodContainer, PodManifest, PodSpec, PodVolume, SecurityProfileSource } from "./schema.js";

const DNS_LABEL = /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/;
const DNS_SUBDOMAIN = /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*$/;
const PORT_NAME = /^(?=.*[a-z])(?!.*--)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/;
const LABEL_NAME = /^(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)$/;
const SYSCTL = /^[a-z0-9](?:[-_a-z0-9]*[a-z0-9])?(?:[./][a-z0-9](?:[-_a-z0-9]*[a-z0-9])?)*$/;
const SIGNAL = /^SIG(?:[A-Z0-9]+|RTMIN(?:\+\d+)?|RTMAX(?:-\d+)?)$/;
/** Where a line-based file or a C string is written. */
// oxlint-disable-next-line no-control-regex -- control characters are what it looks for
const CONTROL = /[\u0000-\u001f\u007f]/;

export const isDnsLabel = (value: string): boolean => value.length <= 63 && DNS_LABEL.test(value);
export const isDnsSubdomain = (value: string): boolean => value.length <= 253 && DNS_SUBDOMAIN.test(value);

/** Everything that is wrong with a pod whose shape is right. */
export function podProblems(pod: PodManifest): FieldProblem[] {
  const problems: FieldProblem[] = [];
  const add = (path: string, message: string) => problems.push({ path, message });
  checkMetadata(pod.metadata, add);
  checkPodSpec(pod.spec, add);
  const volumes = checkVolumes(pod.spec.volumes ?? [], add);
  const names = new Set<string>();
  const hostPorts = new Set<string>();
  (pod.spec.initContainers ?? []).forEach((container, i) => {
    const path = `spec.initContainers[${i}]`;
    checkContainer(container, path, { names, volumes, hostPorts, hostNetwork: pod.spec.hostNetwork === true }, add);
    if (container.restartPolicy !== undefined && container.restartPolicy !== "Always") {
      add(`${path}.restartPolicy`, "only Always is possible for an init container");
    }
    if (container.restartPolicy !== "Always") {
      for (const field of ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] as const)
        if (container[field]) add(`${path}.${field}`, "not for an init container that is not a sidecar");
    }
  });
  if (pod.spec.containers.length === 0) add("spec.containers", "at least one container is required");
  pod.spec.containers.forEach((container, i) => {
    const path = `spec.containers[${i}]`;
    checkContainer(container, path, { names, volumes, hostPorts, hostNetwork: pod.spec.hostNetwork === true }, add);
    if (container.restartPolicy !== undefined)
      add(`${path}.restartPolicy`, "not supported for a container; set spec.restartPolicy");
  });
  return problems;
}

/** Fields that are accepted and mean less than in a cluster. */
export function podWarnings(pod: Pod): FieldProblem[] {
  const warnings: FieldProblem[] = [];
  if (pod.metadata.generateName !== undefined && pod.metadata.name !== "") {
    warnings.push({ path: "metadata.generateName", message: "has no effect beside metadata.name, ignored" });
  }
  const add = (container: PodContainer, path: string) => {
    for (const kind of ["limits", "requests"] as const) {
      for (const name of Object.keys(container.resources?.[kind] ?? {})) {
        if (kind === "limits" ? /^(cpu|memory|hugepages-.+)$/.test(name) : /^(cpu|memory)$/.test(name)) continue;
        warnings.push({ path: `${path}.resources.${kind}["${name}"]`, message: "has no effect here, ignored" });
      }
    }
  };
  pod.spec.initContainers?.forEach((c, i) => add(c, `spec.initContainers[${i}]`));
  pod.spec.containers.forEach((c, i) => add(c, `spec.containers[${i}]`));
  return warnings;
}

/** Of a policy that was asked for: the default one says nothing about what somebody wants. */
export function dnsWarnings({ spec }: PodManifest): FieldProblem[] {
  if (spec.dnsPolicy !== "ClusterFirst" && spec.dnsPolicy !== "ClusterFirstWithHostNet") return [];
  const message = `${spec.dnsPolicy} has no effect without a cluster's DNS, the host's servers are used as with Default`;
  return [{ path: "spec.dnsPolicy", message }];
}

export function metadataProblems(metadata: PodManifest["metadata"]): FieldProblem[] {
  const problems: FieldProblem[] = [];
  checkMetadata(metadata, (path, message) => problems.push({ path, message }));
  return problems;
}

export type Add = (path: string, message: string) => void;

function checkMetadata(metadata: PodManifest["metadata"], add: Add): void {
  if (!metadata.name && !metadata.generateName) add("metadata.name", "required");
  else if (metadata.name && !isDnsSubdomain(metadata.name)) add("metadata.name", invalidSubdomain(metadata.name));
  else if (metadata.generateName && !/^[a-z0-9][a-z0-9.-]{0,246}$/.test(metadata.generateName)) {
    add("metadata.generateName", invalidSubdomain(metadata.generateName));
  }
  if (metadata.namespace !== undefined && !isDnsLabel(metadata.namespace))
    add("metadata.namespace", invalidLabel(metadata.namespace));
  if (metadata.uid !== undefined && !/^[A-Za-z0-9-]{1,64}$/.test(metadata.uid)) {
    add("metadata.uid", `invalid value ${JSON.stringify(metadata.uid)}: letters, digits and "-" only, at most 64`);
  }
  for (const [key, value] of Object.entries(metadata.labels ?? {})) {
    const path = `metadata.labels["${key}"]`;
    if (!isQualifiedName(key)) add(path, "invalid label name");
    if (value !== "" && (value.length > 63 || !LABEL_NAME.test(value)))
      add(path, `invalid label value ${JSON.stringify(value)}`);
  }
  for (const key of Object.keys(metadata.annotations ?? {})) {
    if (!isQualifiedName(key)) add(`metadata.annotations["${key}"]`, "invalid annotation name");
  }
}

function isQualifiedName(key: string): boolean {
  const [name = "", prefix, more] = key.split("/").reverse();
  return (
    more === undefined && name.length <= 63 && LABEL_NAME.test(name) && (prefix === undefined || isDnsSubdomain(prefix))
  );
}

function checkPodSpec(spec: PodSpec, add: Add): void {
  if (spec.hostname !== undefined && !isDnsLabel(spec.hostname)) add("spec.hostname", invalidLabel(spec.hostname));
  if (spec.subdomain !== undefined && !isDnsLabel(spec.subdomain)) add("spec.subdomain", invalidLabel(spec.subdomain));
  if ((spec.terminationGracePeriodSeconds ?? 0) < 0) add("spec.terminationGracePeriodSeconds", "must not be negative");
  if (spec.activeDeadlineSeconds !== undefined && spec.activeDeadlineSeconds < 1)
    add("spec.activeDeadlineSeconds", "must be at least 1");
  if (spec.hostPID && spec.shareProcessNamespace) add("spec.shareProcessNamespace", "cannot be combined with hostPID");
  if (spec.hostUsers === false) {
    for (const field of ["hostNetwork", "hostPID", "hostIPC"] as const)
      if (spec[field]) add(`spec.${field}`, "cannot be combined with hostUsers: false");
  }
  spec.hostAliases?.forEach((alias, i) => {
    if (isIP(alias.ip) === 0) add(`spec.hostAliases[${i}].ip`, `"${alias.ip}" is not an IP address`);
    alias.hostnames?.forEach((name, j) => {
      if (!isDnsSubdomain(name)) add(`spec.hostAliases[${i}].hostnames[${j}]`, invalidSubdomain(name));
    });
  });
  checkDns(spec, add);
  checkIds(spec.securityContext ?? {}, "spec.securityContext", add);
  checkProfiles(spec.securityContext ?? {}, "spec.securityContext", add);
  spec.securityContext?.sysctls?.forEach((sysctl, i) => {
    const path = `spec.securityContext.sysctls[${i}]`;
    if (!SYSCTL.test(sysctl.name) || sysctl.name.includes(".."))
      add(`${path}.name`, `"${sysctl.name}" is not the name of a sysctl`);
    else if (spec.hostNetwork && sysctl.name.startsWith("net."))
      add(`${path}.name`, "net.* cannot be set with hostNetwork");
    else if (spec.hostIPC && /^(kernel\.(shm|msg|sem)|fs\.mqueue\.)/.test(sysctl.name))
      add(`${path}.name`, "cannot be set with hostIPC");
    if (CONTROL.test(sysctl.value)) add(`${path}.value`, "must not contain control characters");
  });
}

function checkDns(spec: PodSpec, add: Add): void {
  const servers = spec.dnsConfig?.nameservers ?? [];
  if (spec.dnsPolicy === "None" && servers.length === 0)
    add("spec.dnsConfig.nameservers", "at least one is required with dnsPolicy None");
  if (servers.length > 3) add("spec.dnsConfig.nameservers", "at most 3");
  servers.forEach((server, i) => {
    if (isIP(server) === 0) add(`spec.dnsConfig.nameservers[${i}]`, `"${server}" is not an IP address`);
  });
  if ((spec.dnsConfig?.searches ?? []).length > 32) add("spec.dnsConfig.searches", "at most 32");
  spec.dnsConfig?.searches?.forEach((search, i) => {
    if (search !== "." && !/^[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?$/.test(search))
      add(`spec.dnsConfig.searches[${i}]`, invalidSubdomain(search));
  });
  spec.dnsConfig?.options?.forEach((option, i) => {
    if (option.name === "" || /[\s:]/.test(option.name) || CONTROL.test(option.value ?? ""))
      add(`spec.dnsConfig.options[${i}]`, "invalid option");
  });
}

function checkVolumes(volumes: readonly PodVolume[], add: Add): Set<string> {
  const names = new Set<string>();
  volumes.forEach((volume, i) => {
    const path = `spec.volumes[${i}]`;
    if (!isDnsLabel(volume.name)) add(`${path}.name`, invalidLabel(volume.name));
    else if (names.has(volume.name)) add(`${path}.name`, `duplicate name "${volume.name}"`);
    names.add(volume.name);
    checkFiles(volume, path, add);
    const sources = (
      ["configMap", "downwardAPI", "emptyDir", "hostPath", "image", "projected", "secret"] as const
    ).filter((kind) => volume[kind]);
    if (sources.length > 1) add(path, `more than one source: ${sources.join(", ")}`);
    const limit = volume.emptyDir?.sizeLimit;
    if (limit !== undefined && !((parseQuantity(limit) ?? -1) >= 0))
      add(`${path}.emptyDir.sizeLimit`, `"${limit}" is not a quantity`);
    const medium = volume.emptyDir?.medium;
    if (medium && medium !== "Memory") add(`${path}.emptyDir.medium`, `"${medium}" is not supported; use "" or Memory`);
    if (volume.image && !volume.image.reference?.trim()) add(`${path}.image.reference`, "required");
    const hostPath = volume.hostPath?.path;
    if (hostPath !== undefined && !isAbsolute(hostPath))
      add(`${path}.hostPath.path`, `"${hostPath}" must be an absolute path without ".."`);
  });
  return names;
}

interface Scope {
  readonly names: Set<string>;
  readonly volumes: ReadonlySet<string>;
  readonly hostPorts: Set<string>;
  readonly hostNetwork: boolean;
}

function checkContainer(container: PodContainer, path: string, scope: Scope, add: Add): void {
  if (!isDnsLabel(container.name)) add(`${path}.name`, invalidLabel(container.name));
  else if (scope.names.has(container.name)) add(`${path}.name`, `duplicate name "${container.name}"`);
  scope.names.add(container.name);
  if (!container.image?.trim()) add(`${path}.image`, "required");
  else if (container.image !== container.image.trim()) add(`${path}.image`, "must not begin or end with white space");
  if (container.stdinOnce && !container.stdin) add(`${path}.stdinOnce`, "needs stdin");
  container.env?.forEach((env, i) => {
    if (env.name === "" || env.name.includes("=") || CONTROL.test(env.name))
      add(`${path}.env[${i}].name`, `${JSON.stringify(env.name)} is not the name of a variable`);
    if (env.value && env.valueFrom) add(`${path}.env[${i}].valueFrom`, "cannot be combined with value");
    if (env.valueFrom) checkValueFrom(env.valueFrom, `${path}.env[${i}].valueFrom`, add);
    if (env.value?.includes("\0")) add(`${path}.env[${i}].value`, "must not contain NUL");
  });
  container.envFrom?.forEach((source, i) => {
    if ((source.configMapRef === undefined) === (source.secretRef === undefined))
      add(`${path}.envFrom[${i}]`, "one of configMapRef and secretRef is required");
    if (source.prefix && (source.prefix.includes("=") || CONTROL.test(source.prefix)))
      add(`${path}.envFrom[${i}].prefix`, `${JSON.stringify(source.prefix)} cannot begin the name of a variable`);
  });
  checkActions(container, path, add);
  const message = container.terminationMessagePath;
  if (message && !isAbsolute(message))
    add(`${path}.terminationMessagePath`, `"${message}" must be an absolute path without ".."`);
  checkPorts(container, path, scope, add);
  checkMounts(container, path, scope, add);
  checkResources(container, path, add);
  checkIds(container.securityContext ?? {}, `${path}.securityContext`, add);
  checkProfiles(container.securityContext ?? {}, `${path}.securityContext`, add);
  const security = container.securityContext;
  if (security?.allowPrivilegeEscalation === false && security.privileged) {
    add(`${path}.securityContext.allowPrivilegeEscalation`, "cannot be false for a privileged container");
  }
  if (
    security?.allowPrivilegeEscalation === false &&
    security.capabilities?.add?.some((c) => /^(CAP_)?SYS_ADMIN$/.test(c))
  ) {
    add(`${path}.securityContext.allowPrivilegeEscalation`, "cannot be false with the capability SYS_ADMIN");
  }
  const signal = container.lifecycle?.stopSignal;
  if (signal !== undefined && !SIGNAL.test(signal))
    add(`${path}.lifecycle.stopSignal`, `"${signal}" is not the name of a signal (SIGTERM, …)`);
}

const FIELD_PATH =
  /^(metadata\.(name|namespace|uid|labels\['[^']+'\]|annotations\['[^']+'\])|spec\.(nodeName|serviceAccountName)|status\.(hostIPs?|podIPs?))$/;

function checkValueFrom(
  source: NonNullable<NonNullable<PodContainer["env"]>[number]["valueFrom"]>,
  path: string,
  add: Add,
): void {
  if (Object.values(source).filter((one) => one !== undefined).length !== 1)
    add(path, "exactly one source is required");
  if (source.resourceFieldRef) checkResourceRef(source.resourceFieldRef, `${path}.resourceFieldRef`, add);
  if (source.fieldRef && !FIELD_PATH.test(source.fieldRef.fieldPath)) {
    add(`${path}.fieldRef.fieldPath`, `"${source.fieldRef.fieldPath}" is not supported`);
  }
}

function checkPorts(container: PodContainer, path: string, scope: Scope, add: Add): void {
  const names = new Set<string>();
  container.ports?.forEach((port, i) => {
    const at = `${path}.ports[${i}]`;
    if (!isPort(port.containerPort)) add(`${at}.containerPort`, `${port.containerPort} is not between 1 and 65535`);
    if (port.name !== undefined) {
      if (port.name.length > 15 || !PORT_NAME.test(port.name))
        add(`${at}.name`, `"${port.name}" is not the name of a port (at most 15 of a-z, 0-9, "-")`);
      else if (names.has(port.name)) add(`${at}.name`, `duplicate name "${port.name}"`);
      names.add(port.name);
    }
    if (port.hostIP && isIP(port.hostIP) === 0) add(`${at}.hostIP`, `"${port.hostIP}" is not an IP address`);
    if (port.hostPort === undefined || port.hostPort === 0) return;
    if (!isPort(port.hostPort)) add(`${at}.hostPort`, `${port.hostPort} is not between 1 and 65535`);
    if (scope.hostNetwork && port.hostPort !== port.containerPort)
      add(`${at}.hostPort`, "must be the containerPort with hostNetwork");
    const key = `${port.protocol ?? "TCP"}/${port.hostIP ?? ""}/${port.hostPort}`;
    if (scope.hostPorts.has(key)) add(`${at}.hostPort`, `${port.hostPort} is used twice in this pod`);
    scope.hostPorts.add(key);
  });
}

function checkMounts(container: PodContainer, path: string, scope: Scope, add: Add): void {
  const taken = new Set<string>();
  container.volumeMounts?.forEach((mount, i) => {
    const at = `${path}.volumeMounts[${i}]`;
    if (!scope.volumes.has(mount.name)) add(`${at}.name`, `there is no volume "${mount.name}" in spec.volumes`);
    if (!mount.mountPath.startsWith("/") || CONTROL.test(mount.mountPath))
      add(`${at}.mountPath`, `"${mount.mountPath}" must be an absolute path`);
    else if (taken.has(mount.mountPath)) add(`${at}.mountPath`, `"${mount.mountPath}" is used twice`);
    taken.add(mount.mountPath);
    const { subPath } = mount;
    if (
      subPath !== undefined &&
      (subPath.startsWith("/") || subPath.split("/").includes("..") || CONTROL.test(subPath))
    ) {
      add(`${at}.subPath`, `"${subPath}" must be relative and without ".."`);
    }
    if (mount.mountPropagation === "Bidirectional" && !container.securityContext?.privileged) {
      add(`${at}.mountPropagation`, "Bidirectional needs a privileged container");
    }
    if (mount.recursiveReadOnly && mount.recursiveReadOnly !== "Disabled" && !mount.readOnly)
      add(`${at}.recursiveReadOnly`, "needs readOnly");
  });
}

function checkResources(container: PodContainer, path: string, add: Add): void {
  const limits = container.resources?.limits ?? {};
  for (const kind of ["limits", "requests"] as const) {
    for (const [name, quantity] of Object.entries(container.resources?.[kind] ?? {})) {
      const at = `${path}.resources.${kind}["${name}"]`;
      const value = parseQuantity(quantity);
      if (value === undefined) add(at, `"${quantity}" is not a quantity`);
      else if (value < 0) add(at, "must not be negative");
      const limit = limits[name];
      if (kind === "requests" && limit !== undefined && (value ?? 0) > (parseQuantity(limit) ?? Infinity))
        add(at, `"${quantity}" is more than the limit "${limit}"`);
    }
  }
}

interface SecurityProfiles {
  readonly seccompProfile?: SecurityProfileSource | undefined;
  readonly appArmorProfile?: SecurityProfileSource | undefined;
}

/** A seccomp profile is a file below a directory of minke's, AppArmor's is the name of a loaded one. */
function checkProfiles(context: SecurityProfiles, path: string, add: Add): void {
  for (const field of ["seccompProfile", "appArmorProfile"] as const) {
    const profile = context[field];
    if (!profile) continue;
    const name = profile.localhostProfile;
    const at = `${path}.${field}.localhostProfile`;
    if (profile.type !== "Localhost") {
      if (name !== undefined) add(at, `goes with type Localhost, not ${profile.type}`);
    } else if (name === undefined || name === "" || CONTROL.test(name)) {
      add(at, "is required with type Localhost, and must not contain control characters");
    } else if (field === "seccompProfile" && (name.startsWith("/") || name.split("/").includes(".."))) {
      add(at, `"${name}" must be a relative path without ".."`);
    }
  }
}

function checkIds(
  context: {
    runAsUser?: number | undefined;
    runAsGroup?: number | undefined;
    fsGroup?: number | undefined;
    supplementalGroups?: number[] | undefined;
  },
  path: string,
  add: Add,
): void {
  const check = (name: string, id: number | undefined) => {
    if (id !== undefined && (id < 0 || id > 2147483647))
      add(`${path}.${name}`, `${id} is not between 0 and 2147483647`);
  };
  check("runAsUser", context.runAsUser);
  check("runAsGroup", context.runAsGroup);
  check("fsGroup", context.fsGroup);
  context.supplementalGroups?.forEach((gid, i) => check(`supplementalGroups[${i}]`, gid));
}

const isPort = (port: number): boolean => port >= 1 && port <= 65535;
const isAbsolute = (path: string): boolean =>
  path.startsWith("/") && !path.split("/").includes("..") && !CONTROL.test(path);

const invalidLabel = (value: string): string =>
  `invalid value ${JSON.stringify(value)}: at most 63 of a-z, 0-9 and "-", beginning and ending with a letter or digit`;
const invalidSubdomain = (value: string): string =>
  `invalid value ${JSON.stringify(value)}: at most 253 of a-z, 0-9, "-" and ".", each part beginning and ending with a letter or digit`;
