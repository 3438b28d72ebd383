/**
 * CRI's ContainerConfig -> ContainerConfig. Pure.
 */
import { toByteString } from "../../base/byte-strings.js";
import type { ContainerConfig, ContainerDevice, ContainerMount, MountPropagation } from "../../state/container.js";
import { isCdiDeviceName } from "../../spec/cdi-spec.js";
import type { SandboxConfig } from "../../state/sandbox.js";
import {
  type ContainerConfig as CriContainerConfig,
  type Device,
  type LinuxContainerConfig,
  type LinuxContainerSecurityContext,
  type Mount,
  MountPropagation as CriPropagation,
} from "../generated/runtime/v1/api.js";
import { absolutePath, cString, invalidField, plainText } from "./fields.js";
import { toResources } from "./resources.js";
import { toPid, toSecurity, toUser } from "./security.js";
import { toSignalName } from "./signals.js";

/** A kubelet rotates the logs of its containers itself. */
const NEVER_ROTATED = { logMaxBytes: 0, logMaxFiles: 2 };

/** @throws RuntimeError `invalid-argument` INVALID_FIELD, `failed-precondition` PRIVILEGED_NOT_ALLOWED */
export function toContainerConfig(config: CriContainerConfig | undefined, sandbox: SandboxConfig): ContainerConfig {
  if (!config) throw invalidField("config", "is missing");
  const { metadata, image } = config;
  if (!metadata || metadata.name === "") throw invalidField("config.metadata.name", "is missing");
  if (!image || image.image === "") throw invalidField("config.image.image", "is missing");
  if (config.windows) throw invalidField("config.windows", "this is a Linux host");
  const linux: LinuxContainerConfig = config.linux ?? { resources: undefined, securityContext: undefined };
  const security: Partial<LinuxContainerSecurityContext> = linux.securityContext ?? {};
  return {
    owner: "cri",
    metadata: { name: plainText(metadata.name, "config.metadata.name"), attempt: metadata.attempt },
    image: image.image,
    command:
      config.command.length > 0 ? config.command.map((word, i) => cString(word, `config.command[${i}]`)) : undefined,
    args: config.args.length > 0 ? config.args.map((word, i) => cString(word, `config.args[${i}]`)) : undefined,
    workingDir: config.workingDir === "" ? "" : absolutePath(config.workingDir, "config.working_dir"),
    env: config.envs.map(({ key, value }) => ({ name: key, value: toByteString(value) })),
    mounts: config.mounts.map(toMount),
    devices: config.devices.map(toDevice),
    ...(config.CDIDevices.length > 0 && {
      cdiDevices: config.CDIDevices.map(({ name }, i) => toCdiDevice(name, `config.CDI_devices[${i}].name`)),
    }),
    pid: toPid(security.namespaceOptions, sandbox),
    labels: config.labels,
    annotations: config.annotations,
    logPath: plainText(config.logPath, "config.log_path"),
    stdin: config.stdin,
    stdinOnce: config.stdinOnce,
    tty: config.tty,
    user: toUser(security),
    security: toSecurity(security, sandbox),
    resources: toResources(linux.resources, "config.linux.resources"),
    stopSignal: toSignalName(config.stopSignal, "config.stop_signal"),
    ...NEVER_ROTATED,
  };
}

const PROPAGATION: Readonly<Record<number, MountPropagation>> = {
  [CriPropagation.PROPAGATION_PRIVATE]: "private",
  [CriPropagation.PROPAGATION_HOST_TO_CONTAINER]: "host-to-container",
  [CriPropagation.PROPAGATION_BIDIRECTIONAL]: "bidirectional",
};

/** What restricts a mount; access and propagation have fields of their own. */
const MOUNT_OPTIONS: ReadonlySet<string> = new Set([
  "noexec",
  "exec",
  "nosuid",
  "suid",
  "nodev",
  "dev",
  "noatime",
  "relatime",
  "strictatime",
  "nodiratime",
  "nosymfollow",
]);

function toMount(mount: Mount, index: number): ContainerMount {
  const path = `config.mounts[${index}]`;
  const propagation = PROPAGATION[mount.propagation];
  if (!propagation) throw invalidField(`${path}.propagation`, `${mount.propagation} is none`);
  const image = mount.image?.image ?? "";
  if (image === "" && mount.imageSubPath !== "")
    throw invalidField(`${path}.image_sub_path`, "is set without an image");
  if (mount.imageSubPath.startsWith("/") || mount.imageSubPath.split("/").includes(".."))
    throw invalidField(`${path}.image_sub_path`, `"${mount.imageSubPath}" must be relative and without ".."`);
  plainText(mount.imageSubPath, `${path}.image_sub_path`);
  if (image !== "" && mount.hostPath !== "") throw invalidField(`${path}.host_path`, "is set beside an image");
  // A kubelet says so of each; one that wants to write is not given something else in silence.
  if (image !== "" && !mount.readonly) throw invalidField(`${path}.readonly`, "must be true: images are read-only");
  for (const option of mount.mountOptions) {
    if (!MOUNT_OPTIONS.has(option))
      throw invalidField(`${path}.mount_options`, `"${option}" is none of ${[...MOUNT_OPTIONS].join(", ")}`);
  }
  // selinux_relabel, which a kubelet sets on nearly all mounts, has no effect: what is mounted keeps the labels that it has.
  // api.proto, Mount.recursive_read_only: an error if not readonly, or if the propagation is not private.
  if (mount.recursiveReadOnly && !mount.readonly) throw invalidField(`${path}.recursive_read_only`, "needs readonly");
  if (mount.recursiveReadOnly && propagation !== "private")
    throw invalidField(`${path}.recursive_read_only`, "needs PROPAGATION_PRIVATE");
  if (mount.uidMappings.length > 0 !== mount.gidMappings.length > 0)
    throw invalidField(`${path}.uidMappings`, "and gidMappings go together");
  return {
    containerPath: absolutePath(mount.containerPath, `${path}.container_path`),
    hostPath: image === "" ? absolutePath(mount.hostPath, `${path}.host_path`) : "",
    ...(image !== "" && { image }),
    ...(mount.imageSubPath !== "" && { imageSubPath: mount.imageSubPath }),
    readonly: mount.readonly,
    recursiveReadonly: mount.recursiveReadOnly,
    propagation,
    ...(mount.mountOptions.length > 0 && { options: mount.mountOptions }),
    ...(mount.uidMappings.length > 0 && { uidMappings: mount.uidMappings, gidMappings: mount.gidMappings }),
  };
}

function toCdiDevice(name: string, field: string): string {
  if (!isCdiDeviceName(name)) throw invalidField(field, `${JSON.stringify(name)} is not vendor/class=name`);
  return name;
}

function toDevice(device: Device, index: number): ContainerDevice {
  const path = `config.devices[${index}]`;
  if (!/^[rwm]{0,3}$/.test(device.permissions))
    throw invalidField(`${path}.permissions`, `"${device.permissions}" is not made of r, w and m`);
  return {
    hostPath: absolutePath(device.hostPath, `${path}.host_path`),
    containerPath: absolutePath(device.containerPath || device.hostPath, `${path}.container_path`),
    permissions: device.permissions || "rwm",
  };
}
