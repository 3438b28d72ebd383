/**
 * CRI's LinuxContainerSecurityContext -> who the process is and what confines it. Pure.
 */
import { RuntimeError } from "../../base/errors.js";
import type { ContainerConfig, ContainerSecurity, ContainerUser } from "../../state/container.js";
import type { SandboxConfig } from "../../state/sandbox.js";
import {
  type LinuxContainerSecurityContext,
  NamespaceMode,
  type NamespaceOption,
  type SELinuxOption,
  type SecurityProfile as CriProfile,
  SecurityProfile_ProfileType,
  SupplementalGroupsPolicy,
} from "../generated/runtime/v1/api.js";
import { absolutePath, invalidField, plainText, toId } from "./fields.js";

const PATH = "config.linux.security_context";

type SecurityContext = Partial<LinuxContainerSecurityContext>;
type Profile = NonNullable<ContainerSecurity["seccomp"]>;

export function toUser(security: SecurityContext): ContainerUser {
  const { runAsUser, runAsGroup, runAsUsername = "", supplementalGroups = [], supplementalGroupsPolicy = 0 } = security;
  if (runAsUser && runAsUsername !== "")
    throw invalidField(`${PATH}.run_as_username`, "and run_as_user exclude each other");
  if (runAsGroup && !runAsUser && runAsUsername === "")
    throw invalidField(`${PATH}.run_as_group`, "needs run_as_user or run_as_username");
  if (
    supplementalGroupsPolicy !== SupplementalGroupsPolicy.Merge &&
    supplementalGroupsPolicy !== SupplementalGroupsPolicy.Strict
  ) {
    throw invalidField(`${PATH}.supplemental_groups_policy`, `${supplementalGroupsPolicy} is none`);
  }
  const user = runAsUser ? String(toId(runAsUser.value, `${PATH}.run_as_user`)) : runAsUsername || undefined;
  return {
    user: user === undefined ? undefined : plainText(user, `${PATH}.run_as_username`),
    gid: runAsGroup ? toId(runAsGroup.value, `${PATH}.run_as_group`) : undefined,
    supplementalGroups: supplementalGroups.map((gid) => toId(gid, `${PATH}.supplemental_groups`)),
    supplementalGroupsPolicy: supplementalGroupsPolicy === SupplementalGroupsPolicy.Strict ? "strict" : "merge",
  };
}

/** @throws RuntimeError `failed-precondition` PRIVILEGED_NOT_ALLOWED (api.proto, LinuxSandboxSecurityContext.privileged) */
export function toSecurity(security: SecurityContext, sandbox: SandboxConfig): ContainerSecurity {
  const { capabilities, privileged = false, selinuxOptions } = security;
  if (privileged && sandbox.allowsPrivileged === false) {
    throw new RuntimeError(`${PATH}.privileged: the sandbox was made without privileged`, {
      kind: "failed-precondition",
      code: "PRIVILEGED_NOT_ALLOWED",
    });
  }
  const { maskedPaths = [], readonlyPaths = [] } = security;
  const selinux = toSeLinux(selinuxOptions);
  return {
    ...(selinux && { selinux }),
    privileged,
    readonlyRootfs: security.readonlyRootfs ?? false,
    noNewPrivileges: security.noNewPrivs ?? false,
    addCapabilities: capabilities?.addCapabilities ?? [],
    dropCapabilities: capabilities?.dropCapabilities ?? [],
    addAmbientCapabilities: capabilities?.addAmbientCapabilities ?? [],
    // Empty lists mean what they say: a kubelet sends the default lists itself (procMount: Default).
    maskedPaths: maskedPaths.map((path, i) => absolutePath(path, `${PATH}.masked_paths[${i}]`)),
    readonlyPaths: readonlyPaths.map((path, i) => absolutePath(path, `${PATH}.readonly_paths[${i}]`)),
    seccomp:
      toProfile(security.seccomp, "seccomp") ??
      toLegacyProfile(security.seccompProfilePath ?? "", "seccomp_profile_path"),
    apparmor:
      toProfile(security.apparmor, "apparmor") ?? toLegacyProfile(security.apparmorProfile ?? "", "apparmor_profile"),
  };
}

/** Parts of a context are separated by colons, and only a level has some of its own (SELinux Notebook, "Security Context"). */
function toSeLinux(options: Partial<SELinuxOption> | undefined): ContainerSecurity["selinux"] {
  const { user = "", role = "", type = "", level = "" } = options ?? {};
  for (const [name, word] of Object.entries({ user, role, type, level })) {
    if (!(name === "level" ? /^[\w.,:-]*$/ : /^\w*$/).test(word) || word.length > 255)
      throw invalidField(`${PATH}.selinux_options.${name}`, `${JSON.stringify(word)} is no part of an SELinux label`);
  }
  return user || role || type || level ? { user, role, type, level } : undefined;
}

function toProfile(profile: CriProfile | undefined, field: string): Profile | undefined {
  if (!profile) return undefined;
  const { profileType, localhostRef } = profile;
  if (profileType === SecurityProfile_ProfileType.RuntimeDefault) return { type: "runtime-default", localhostRef: "" };
  if (profileType === SecurityProfile_ProfileType.Unconfined) return { type: "unconfined", localhostRef: "" };
  if (profileType === SecurityProfile_ProfileType.Localhost)
    return localhost(localhostRef, `${PATH}.${field}.localhost_ref`);
  throw invalidField(`${PATH}.${field}.profile_type`, `${profileType} is none`);
}

/** `runtime/default`, `unconfined`, `localhost/<ref>`: how profiles were named before they were messages. */
function toLegacyProfile(text: string, field: string): Profile | undefined {
  if (text === "") return undefined;
  if (text === "runtime/default" || text === "docker/default") return { type: "runtime-default", localhostRef: "" };
  if (text === "unconfined") return { type: "unconfined", localhostRef: "" };
  if (text.startsWith("localhost/")) return localhost(text.slice("localhost/".length), `${PATH}.${field}`);
  throw invalidField(`${PATH}.${field}`, `"${text}" is none of runtime/default, unconfined and localhost/…`);
}

function localhost(reference: string, field: string): Profile {
  const ref = plainText(reference.replace(/^localhost\//, ""), field);
  if (ref === "") throw invalidField(field, "is empty");
  return { type: "localhost", localhostRef: ref };
}

/**
 * The PID namespace, where it is not what the sandbox has. Network and IPC are always the sandbox's:
 * asking for the host's in a sandbox with its own is refused.
 */
export function toPid(options: NamespaceOption | undefined, sandbox: SandboxConfig): ContainerConfig["pid"] {
  if (!options) return undefined;
  const path = `${PATH}.namespace_options`;
  for (const kind of ["network", "ipc"] as const) {
    if (options[kind] === NamespaceMode.NODE && sandbox.namespaces[kind] !== "node")
      throw invalidField(`${path}.${kind}`, "the sandbox has its own");
  }
  if (options.pid === NamespaceMode.POD) return undefined;
  if (options.pid === NamespaceMode.CONTAINER) return "container";
  if (options.pid === NamespaceMode.NODE) return "node";
  if (options.pid !== NamespaceMode.TARGET) throw invalidField(`${path}.pid`, `${options.pid} is no mode`);
  if (options.targetId === "") throw invalidField(`${path}.target_id`, "is empty, and pid is TARGET");
  return { target: options.targetId };
}
