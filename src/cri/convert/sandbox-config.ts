/**
 * CRI's PodSandboxConfig -> SandboxConfig. Pure.
 *
 * There is no pause process, so what CRI says of that process alone (its user, groups, read-only root,
 * seccomp and AppArmor profile) has nothing to act on; those fields are checked and otherwise have no effect.
 * `overhead` and `resources` say what a kubelet has written to its own pod cgroup: NRI's plugins hear of them.
 */
import { isIP } from "node:net";
import type { IdMapping, IdMaps, PortMapping, SandboxConfig, SandboxNamespaces } from "../../state/sandbox.js";
import {
  type IDMapping,
  type LinuxSandboxSecurityContext,
  NamespaceMode,
  type NamespaceOption,
  type PodSandboxConfig,
  type PortMapping as CriPortMapping,
  Protocol,
} from "../generated/runtime/v1/api.js";
import { invalidField, plainText, toId } from "./fields.js";
import { toResources } from "./resources.js";

const PROTOCOLS: Readonly<Record<number, PortMapping["protocol"]>> = {
  [Protocol.TCP]: "tcp",
  [Protocol.UDP]: "udp",
  [Protocol.SCTP]: "sctp",
};

/** @throws RuntimeError `invalid-argument` INVALID_FIELD */
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
  const userNamespace = toUserNamespace(security?.namespaceOptions, namespaces);
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
    ...(userNamespace && { userNamespace }),
    sysctls: toSysctls(linux?.sysctls ?? {}),
    shmSizeBytes: 0,
    cgroupParent: toCgroupParent(linux?.cgroupParent ?? ""),
    ...(linux?.overhead && { overhead: toResources(linux.overhead, "config.linux.overhead") }),
    ...(linux?.resources && { resources: toResources(linux.resources, "config.linux.resources") }),
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
  const pid = options.pid === NamespaceMode.CONTAINER ? "container" : shared("pid", options.pid);
  return { network: shared("network", options.network), pid, ipc: shared("ipc", options.ipc) };
}

/** `undefined`: the host's. */
function toUserNamespace(options: NamespaceOption | undefined, namespaces: SandboxNamespaces): IdMaps | undefined {
  const path = "config.linux.security_context.namespace_options.userns_options";
  if (!options?.usernsOptions) return undefined;
  const { mode, uids, gids } = options.usernsOptions;
  if (mode === NamespaceMode.NODE) {
    if (uids.length > 0 || gids.length > 0) throw invalidField(path, "mode NODE takes no mappings");
    return undefined;
  }
  if (mode !== NamespaceMode.POD) throw invalidField(`${path}.mode`, `mode ${mode} is not for sandboxes`);
  for (const [kind, other] of Object.entries(namespaces)) {
    if (other === "node") throw invalidField(`${path}.mode`, `mode POD, and the ${kind} namespace is the node's`);
  }
  const uid = toMapping(uids, `${path}.uids`);
  const gid = toMapping(gids, `${path}.gids`);
  return { uids: [uid], gids: [gid] };
}

const ID_COUNT = 2 ** 32;

function toMapping([first, ...more]: readonly IDMapping[], path: string): IdMapping {
  if (!first || more.length > 0) throw invalidField(path, `${first ? more.length + 1 : 0} mappings; there must be one`);
  const { hostId, containerId, length } = first;
  if (containerId !== 0) throw invalidField(path, "id 0 of the container is not mapped");
  if (length === 0) throw invalidField(path, "a mapping of length 0");
  if (hostId + length >= ID_COUNT) throw invalidField(path, `${length} ids from ${hostId} up do not fit in 32 bits`);
  return { hostId, containerId, length };
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

/** linux/limits.h */
const NAME_MAX = 255;
const PATH_MAX = 4096;

/** Below the cgroup v2 mount, as the cgroupfs driver has it. */
function toCgroupParent(parent: string): string {
  const path = "config.linux.cgroup_parent";
  plainText(parent, path);
  if (parent.endsWith(".slice"))
    throw invalidField(path, `"${parent}" is a systemd slice; the cgroup driver is cgroupfs, as RuntimeConfig says`);
  const folders = parent.split("/");
  if (folders.includes("..")) throw invalidField(path, `"${parent}" leads up`);
  // Beyond either, no cgroup can be made, nor looked for; the rest is for the mount and those of minke.
  if (folders.some((folder) => Buffer.byteLength(folder) > NAME_MAX) || Buffer.byteLength(parent) > PATH_MAX / 2)
    throw invalidField(path, `${Buffer.byteLength(parent)} bytes are too long a path for a cgroup`);
  return parent;
}
