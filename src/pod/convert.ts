/**
 * A pod's manifest as the configs that the runtime takes. Pure; policy of Kubernetes, not ours
 * (kubelet pkg/kubelet/kuberuntime: generatePodSandboxConfig, generateContainerConfig).
 */
import { join } from "node:path";
import { RuntimeError } from "../base/errors.js";
import type { ContainerConfig, ContainerMount, ContainerResources, SecurityProfile } from "../state/container.js";
import type { PortMapping, SandboxConfig, SandboxDns } from "../state/sandbox.js";
import type { ConfigSource } from "./config-objects.js";
import { containerEnv, expandVariables, type PodFacts } from "./env.js";
import type { EnsuredImage } from "./images.js";
import type { Container, Pod } from "./manifest/defaults.js";
import { quantityMillis, quantityValue } from "./manifest/quantity.js";
import type { SecurityProfileSource } from "./manifest/schema.js";

const HOSTNAME_LIMIT = 63;
const CPU_PERIOD_US = 100_000;
const MIN_QUOTA_US = 1_000;
const MIN_SHARES = 2;
const MAX_SHARES = 262_144;

/** At most 63 characters, and never ending in what a label must not end in (kubelet util.go truncatePodHostnameIfNeeded). */
export function podHostname(pod: Pod): string {
  return (pod.spec.hostname ?? pod.metadata.name).slice(0, HOSTNAME_LIMIT).replace(/[-.]+$/, "");
}

/** Labels by which crictl and others find the pod of a sandbox or container. */
function podLabels(pod: Pod, uid: string): Record<string, string> {
  return {
    "io.kubernetes.pod.name": pod.metadata.name,
    "io.kubernetes.pod.namespace": pod.metadata.namespace,
    "io.kubernetes.pod.uid": uid,
  };
}

/** @param hostDns the host's servers and searches, for policies that extend them */
export function toSandboxConfig(
  pod: Pod,
  fields: { uid: string; attempt: number; logDirectory: string; hostDns: SandboxDns },
): SandboxConfig {
  const { spec, metadata } = pod;
  const dns = sandboxDns(pod, fields.hostDns);
  return {
    owner: "pod",
    metadata: { name: metadata.name, uid: fields.uid, namespace: metadata.namespace, attempt: fields.attempt },
    hostname: spec.hostNetwork ? "" : podHostname(pod),
    logDirectory: fields.logDirectory,
    ...(dns && { dns }),
    hostAliases: (spec.hostAliases ?? []).map(({ ip, hostnames }) => ({ ip, hostnames: hostnames ?? [] })),
    portMappings: spec.hostNetwork ? [] : portMappings(pod),
    labels: { ...metadata.labels, ...podLabels(pod, fields.uid) },
    annotations: metadata.annotations ?? {},
    namespaces: {
      network: spec.hostNetwork ? "node" : "pod",
      pid: spec.hostPID ? "node" : spec.shareProcessNamespace ? "pod" : "container",
      ipc: spec.hostIPC ? "node" : "pod",
    },
    ...(spec.hostUsers === false && { userNamespace: "any" as const }),
    sysctls: Object.fromEntries(
      (spec.securityContext?.sysctls ?? []).map(({ name, value }) => [name.replaceAll("/", "."), value]),
    ),
    shmSizeBytes: 0,
    cgroupParent: "",
    runtimeHandler: spec.runtimeClassName ?? "",
  };
}

/** `undefined`: as the host. */
function sandboxDns({ spec }: Pod, host: SandboxDns): SandboxDns | undefined {
  const base = spec.dnsPolicy === "None" ? { servers: [], searches: [], options: [] } : host;
  const { nameservers = [], searches = [], options = [] } = spec.dnsConfig ?? {};
  if (!spec.dnsConfig && spec.dnsPolicy !== "None") return undefined;
  const own = options.map(({ name, value }) => (value === undefined ? name : `${name}:${value}`));
  const overridden = new Set(options.map(({ name }) => name));
  return {
    servers: [...new Set([...base.servers, ...nameservers])],
    searches: [...new Set([...base.searches, ...searches])],
    options: [...base.options.filter((option) => !overridden.has(option.split(":", 1)[0] ?? "")), ...own],
  };
}

export function portMappings(pod: Pod): PortMapping[] {
  const containers = [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
  return containers.flatMap(({ ports = [] }) =>
    ports.map((port) => ({
      protocol: protocolOf(port.protocol),
      containerPort: port.containerPort,
      hostPort: port.hostPort ?? 0,
      hostIp: port.hostIP ?? "",
    })),
  );
}

function protocolOf(protocol: "TCP" | "UDP" | "SCTP" | undefined): PortMapping["protocol"] {
  if (protocol === "UDP") return "udp";
  return protocol === "SCTP" ? "sctp" : "tcp";
}

export interface ContainerFacts extends PodFacts {
  readonly attempt: number;
  readonly image: EnsuredImage;
  readonly mounts: readonly ContainerMount[];
  readonly configs: ConfigSource;
  /** Where seccomp profiles of type Localhost lie; absolute. */
  readonly seccompDir: string;
  readonly logMaxBytes: number;
  readonly logMaxFiles: number;
}

/** @throws RuntimeError `failed-precondition` RUN_AS_ROOT */
export function toContainerConfig(container: Container, pod: Pod, facts: ContainerFacts): ContainerConfig {
  const variables = containerEnv(container, pod, facts, facts.configs);
  const expand = (text: string) => expandVariables(text, variables);
  const own = container.securityContext ?? {};
  const shared = pod.spec.securityContext ?? {};
  const runAsUser = own.runAsUser ?? shared.runAsUser;
  const gid = own.runAsGroup ?? shared.runAsGroup;
  if (own.runAsNonRoot ?? shared.runAsNonRoot) checkNonRoot(container, runAsUser, facts.image);
  const seccomp = toProfile(own.seccompProfile ?? shared.seccompProfile, (name) => join(facts.seccompDir, name));
  const apparmor = toProfile(own.appArmorProfile ?? shared.appArmorProfile, (name) => name);
  const unmasked = own.procMount === "Unmasked" || own.privileged === true;
  return {
    owner: "pod",
    metadata: { name: container.name, attempt: facts.attempt },
    image: facts.image.id,
    ...(container.command && container.command.length > 0 && { command: container.command.map(expand) }),
    ...(container.args && container.args.length > 0 && { args: container.args.map(expand) }),
    workingDir: container.workingDir ?? "",
    env: Array.from(variables, ([name, value]) => ({ name, value })),
    mounts: facts.mounts,
    labels: { ...podLabels(pod, facts.uid), "io.kubernetes.container.name": container.name },
    annotations: {
      "io.kubernetes.container.restartCount": String(facts.attempt),
      "io.kubernetes.pod.terminationGracePeriod": String(pod.spec.terminationGracePeriodSeconds),
    },
    logPath: containerLogPath(container.name, facts.attempt),
    stdin: container.stdin ?? false,
    stdinOnce: container.stdinOnce ?? false,
    tty: container.tty ?? false,
    user: {
      ...(runAsUser !== undefined && { user: String(runAsUser) }),
      ...(gid !== undefined && { gid }),
      supplementalGroups: [
        ...new Set([...(shared.supplementalGroups ?? []), ...(shared.fsGroup === undefined ? [] : [shared.fsGroup])]),
      ],
      ...(shared.supplementalGroupsPolicy === "Strict" && { supplementalGroupsPolicy: "strict" as const }),
    },
    security: {
      privileged: own.privileged ?? false,
      readonlyRootfs: own.readOnlyRootFilesystem ?? false,
      noNewPrivileges: own.allowPrivilegeEscalation === false,
      addCapabilities: (own.capabilities?.add ?? []).map(capabilityName),
      dropCapabilities: (own.capabilities?.drop ?? []).map(capabilityName),
      ...(unmasked && { maskedPaths: [], readonlyPaths: [] }),
      ...(seccomp && { seccomp }),
      ...(apparmor && { apparmor }),
    },
    resources: toResources(container),
    ...(container.lifecycle?.stopSignal && { stopSignal: container.lifecycle.stopSignal }),
    logMaxBytes: facts.logMaxBytes,
    logMaxFiles: facts.logMaxFiles,
  };
}

/** Relative to the pod's log directory. */
export function containerLogPath(name: string, attempt: number): string {
  return `${name}/${attempt}.log`;
}

const PROFILE_TYPES = { RuntimeDefault: "runtime-default", Unconfined: "unconfined", Localhost: "localhost" } as const;

function toProfile(
  source: SecurityProfileSource | undefined,
  toRef: (localhostProfile: string) => string,
): SecurityProfile | undefined {
  if (!source) return undefined;
  const { type, localhostProfile = "" } = source;
  return { type: PROFILE_TYPES[type], localhostRef: type === "Localhost" ? toRef(localhostProfile) : "" };
}

const capabilityName = (name: string): string => name.toUpperCase().replace(/^CAP_/, "");

/** As kubelet verifyRunAsNonRoot: only a number proves that a user is not root. */
function checkNonRoot(container: Container, runAsUser: number | undefined, image: EnsuredImage): void {
  const refuse = (why: string) => {
    throw new RuntimeError(`container "${container.name}" has runAsNonRoot and ${why}`, {
      kind: "failed-precondition",
      code: "RUN_AS_ROOT",
    });
  };
  if (runAsUser !== undefined) {
    if (runAsUser === 0) refuse("runAsUser 0");
    return;
  }
  const [user = ""] = image.user.split(":", 1);
  if (user === "") refuse("its image runs as root");
  else if (!/^\d+$/.test(user)) refuse(`its image has the non-numeric user "${user}"; set runAsUser`);
  else if (Number(user) === 0) refuse("its image runs as root");
}

function toResources({ resources }: Container): ContainerResources {
  const limits = resources?.limits ?? {};
  const requests = resources?.requests ?? {};
  const cpu = requests.cpu ?? limits.cpu;
  const hugepages = Object.entries(limits).filter(([name]) => name.startsWith("hugepages-"));
  return {
    ...(cpu !== undefined && { cpuShares: toShares(quantityMillis(cpu)) }),
    ...(limits.cpu !== undefined &&
      quantityMillis(limits.cpu) > 0 && {
        cpuQuotaUs: Math.max((quantityMillis(limits.cpu) * CPU_PERIOD_US) / 1000, MIN_QUOTA_US),
        cpuPeriodUs: CPU_PERIOD_US,
      }),
    ...(limits.memory !== undefined &&
      quantityValue(limits.memory) > 0 && { memoryLimitBytes: quantityValue(limits.memory) }),
    ...(hugepages.length > 0 && {
      hugepageLimits: hugepages.map(([name, quantity]) => ({
        pageSize: hugepageSize(name),
        limitBytes: quantityValue(quantity),
      })),
    }),
  };
}

function toShares(millis: number): number {
  return Math.min(Math.max(Math.floor((millis * 1024) / 1000), MIN_SHARES), MAX_SHARES);
}

/** `hugepages-2Mi` as the `2MB` that the kernel's files are named by (cgroup-v2.rst, HugeTLB). */
function hugepageSize(resource: string): string {
  return resource.slice("hugepages-".length).replace(/i$/, "B");
}

/** Kubernetes' quality of service class (core helper qos.ComputePodQOS). */
export function qosClass(pod: Pod): "Guaranteed" | "Burstable" | "BestEffort" {
  const containers = [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
  let hasAny = false;
  let isGuaranteed = true;
  for (const { resources } of containers) {
    for (const name of ["cpu", "memory"]) {
      const limit = resources?.limits?.[name];
      const request = resources?.requests?.[name] ?? limit;
      if (limit !== undefined || request !== undefined) hasAny = true;
      if (limit === undefined || quantityMillis(request ?? 0) !== quantityMillis(limit)) isGuaranteed = false;
    }
  }
  if (!hasAny) return "BestEffort";
  return isGuaranteed ? "Guaranteed" : "Burstable";
}
