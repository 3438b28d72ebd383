/**
 * CRI's PodSandboxConfig -> SandboxConfig. Pure.
 *
 * There is no pause process, so what CRI says of that process alone (its user, groups, read-only root,
 * seccomp and AppArmor profile, `overhead` and `resources` on a kubelet's own pod cgroup) has nothing
 * to act on; those fields are checked and otherwise have no effect.
 */
import { isIP } from "node:net";
import type { PortMapping, SandboxConfig, SandboxNamespaces } from "../../state/sandbox.js";
import {
  type LinuxSandboxSecurityContext,
  NamespaceMode,
  type NamespaceOption,
  type PodSandboxConfig,
  type PortMapping as CriPortMapping,
  Protocol,
} from "../generated/runtime/v1/api.js";
import { invalidField, plainText, toId, unsupportedField } from "./fields.js";

const PROTOCOLS: Readonly<Record<number, PortMapping["protocol"]>> = {
  [Protocol.TCP]: "tcp",
  [Protocol.UDP]: "udp",
  [Protocol.SCTP]: "sctp",
};

/** @throws RuntimeError `invalid-argument` INVALID_FIELD, `failed-precondition` UNSUPPORTED_FIELD */
export function toSandboxConfig(config: PodSandboxConfig | undefined, runtimeHandler: string): SandboxConfig {
  if (!config) throw invalidField("config", "is missing");
  const { metadata, linux } = config;
  if (!metadata) throw invalidField("config.metadata", "is missing");
  if (metadata.name === "") throw invalidField("config.metadata.name", "is empty");
  for (const field of ["name", "uid", "namespace"] as const) plainText(metadata[field], `config.metadata.${field}`);
  if (config.windows) throw invalidField("config.windows", "this is a Linux host");
  if (config.logDirectory !== "" && !config.logDirectory.startsWith("/"))
    throw invalidField("config.log_directory", "is not absolute");
  const security = linux?.securityContext;
  if (security) checkSecurity(security);
  const namespaces = toNamespaces(security?.namespaceOptions);
  if (namespaces.network === "node") {
    const published = config.portMappings.findIndex(
      ({ hostPort, containerPort }) => hostPort !== 0 && hostPort !== containerPort,
    );
    if (published >= 0)
      throw invalidField(
        `config.port_mappings[${published}]`,
        "with the host's network, host_port must be container_port",
      );
  }
  return {
    owner: "cri",
    metadata: { name: metadata.name, uid: metadata.uid, namespace: metadata.namespace, attempt: metadata.attempt },
    hostname: namespaces.network === "node" ? "" : config.hostname,
    logDirectory: plainText(config.logDirectory, "config.log_directory"),
    dns: config.dnsConfig && {
      servers: config.dnsConfig.servers,
      searches: config.dnsConfig.searches,
      options: config.dnsConfig.options,
    },
    hostAliases: [],
    portMappings: namespaces.network === "node" ? [] : config.portMappings.map(toPortMapping),
    labels: config.labels,
    annotations: config.annotations,
    namespaces,
    sysctls: toSysctls(linux?.sysctls ?? {}),
    shmSizeBytes: 0,
    cgroupParent: toCgroupParent(linux?.cgroupParent ?? ""),
    runtimeHandler,
    allowsPrivileged: security?.privileged ?? false,
  };
}

function checkSecurity(security: LinuxSandboxSecurityContext): void {
  const path = "config.linux.security_context";
  if (security.runAsGroup && !security.runAsUser) throw invalidField(`${path}.run_as_group`, "needs run_as_user");
  if (security.runAsUser) toId(security.runAsUser.value, `${path}.run_as_user`);
  if (security.runAsGroup) toId(security.runAsGroup.value, `${path}.run_as_group`);
  for (const gid of security.supplementalGroups) toId(gid, `${path}.supplemental_groups`);
}

/** Of a sandbox: what its containers share. */
export function toNamespaces(options: NamespaceOption | undefined): SandboxNamespaces {
  const path = "config.linux.security_context.namespace_options";
  const refused = (field: string, mode: number) =>
    invalidField(`${path}.${field}`, `mode ${mode} is not for sandboxes`);
  const shared = (field: string, mode: number): "pod" | "node" => {
    if (mode === NamespaceMode.POD) return "pod";
    if (mode === NamespaceMode.NODE) return "node";
    throw refused(field, mode);
  };
  if (!options) return { network: "pod", pid: "pod", ipc: "pod" };
  checkUserNamespace(options);
  const pid = options.pid === NamespaceMode.CONTAINER ? "container" : shared("pid", options.pid);
  return { network: shared("network", options.network), pid, ipc: shared("ipc", options.ipc) };
}

function checkUserNamespace({ usernsOptions }: NamespaceOption): void {
  const path = "config.linux.security_context.namespace_options.userns_options";
  if (!usernsOptions) return;
  const { mode, uids, gids } = usernsOptions;
  if (mode === NamespaceMode.NODE) {
    if (uids.length > 0 || gids.length > 0) throw invalidField(path, "mode NODE takes no mappings");
    return;
  }
  if (mode !== NamespaceMode.POD) throw invalidField(`${path}.mode`, `mode ${mode} is not for sandboxes`);
  for (const [name, mappings] of [
    ["uids", uids],
    ["gids", gids],
  ] as const) {
    const [first, ...more] = mappings;
    if (!first || more.length > 0)
      throw invalidField(`${path}.${name}`, `${mappings.length} mappings; there must be one`);
    if (first.containerId !== 0) throw invalidField(`${path}.${name}`, "id 0 of the container is not mapped");
    if (first.length === 0) throw invalidField(`${path}.${name}`, "a mapping of length 0");
  }
  throw unsupportedField(`${path}.mode`, "user namespaces are not available in this version");
}

function toPortMapping(mapping: CriPortMapping, index: number): PortMapping {
  const path = `config.port_mappings[${index}]`;
  const protocol = PROTOCOLS[mapping.protocol];
  if (!protocol) throw invalidField(`${path}.protocol`, `${mapping.protocol} is none`);
  if (!isPort(mapping.hostPort)) throw invalidField(`${path}.host_port`, `${mapping.hostPort} is not a port`);
  if (!isPort(mapping.containerPort) || (mapping.containerPort === 0 && mapping.hostPort !== 0)) {
    throw invalidField(`${path}.container_port`, `${mapping.containerPort} is not a port`);
  }
  if (mapping.hostIp !== "" && isIP(mapping.hostIp) === 0)
    throw invalidField(`${path}.host_ip`, `"${mapping.hostIp}" is not an IP address`);
  return { protocol, containerPort: mapping.containerPort, hostPort: mapping.hostPort, hostIp: mapping.hostIp };
}

const isPort = (port: number): boolean => port >= 0 && port <= 65_535;

function toSysctls(sysctls: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  for (const [name, value] of Object.entries(sysctls)) {
    if (!/^[a-zA-Z0-9_-]+([./][a-zA-Z0-9_-]+)+$/.test(name))
      throw invalidField("config.linux.sysctls", `"${name}" is not the name of a sysctl`);
    plainText(value, `config.linux.sysctls["${name}"]`);
  }
  return sysctls;
}

/** Below the cgroup v2 mount, as the cgroupfs driver has it. */
function toCgroupParent(parent: string): string {
  const path = "config.linux.cgroup_parent";
  plainText(parent, path);
  if (parent.endsWith(".slice"))
    throw invalidField(path, `"${parent}" is a systemd slice; the cgroup driver is cgroupfs, as RuntimeConfig says`);
  if (parent.split("/").includes("..")) throw invalidField(path, `"${parent}" leads up`);
  return parent;
}
