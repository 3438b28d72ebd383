/**
 * Config -> OCI runtime spec, purely: what a container is, said in the words of runtime-spec 1.3.
 *
 * All policy is here (defaults, capabilities, masked paths, what a mount means); the native
 * core does what the spec says. Knows no store and touches nothing.
 */
import { RuntimeError } from "../base/errors.js";
import type { LinuxDevice, LinuxDeviceCgroup, LinuxNamespace, LinuxSeccomp, Mount, Spec } from "../oci/index.js";
import { ambientCapabilities, containerCapabilities } from "./capabilities.js";
import type { ContainerConfig, ContainerMount } from "./container-config.js";
import { DEFAULT_DEVICE_RULES } from "./default-devices.js";
import { DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS } from "./default-paths.js";
import { defaultSeccomp } from "./default-seccomp.js";
import { toDeviceMount } from "./device-mount.js";
import { containerArgs, containerEnv, type ImageDefaults } from "./process-config.js";
import { type Controllers, toOciResources } from "./resources.js";
import type { IdMapping, SandboxConfig } from "./sandbox-config.js";
import type { ResolvedUser } from "./user.js";

/** What the sandbox offers to its containers; paths on the host. */
export interface SandboxSurroundings {
  readonly config: SandboxConfig;
  /** `/proc/<monitor>/fd/<n>` of each shared namespace; `undefined`: the host's. */
  readonly netnsPath: string | undefined;
  readonly ipcnsPath: string | undefined;
  readonly utsnsPath: string | undefined;
  /** Owner of the others; what is mounted with its ids has them mapped. */
  readonly usernsPath?: string | undefined;
  /** Of the shared PID namespace; `undefined` where each container has its own, or the host's. */
  readonly pidnsPath: string | undefined;
  /** Source of /dev/shm. */
  readonly shmPath: string;
  /** Directory with the generated hosts, hostname and resolv.conf. */
  readonly filesDir: string;
}

/** What this host and daemon can give. */
export interface HostAbilities {
  readonly capabilities: ReadonlySet<string>;
  readonly controllers: Controllers;
  readonly tolerateMissingControllers: boolean;
  /** The daemon's own value, below which nothing can go without CAP_SYS_RESOURCE; `undefined` with it. */
  readonly lowestOomScoreAdj: number | undefined;
  /** Nodes of /dev for privileged containers. */
  readonly devices: readonly LinuxDevice[];
  readonly hasAppArmor: boolean;
  readonly hasSeLinux: boolean;
  readonly hasUserNamespaces: boolean;
}

/** What RuntimeDefault is where the kernel has AppArmor: a loaded profile, or nothing for a reason. */
export type DefaultAppArmor = { readonly profile: string } | { readonly why: string };

export interface ContainerSpecInput {
  readonly config: ContainerConfig;
  readonly image: ImageDefaults;
  readonly user: ResolvedUser;
  readonly sandbox: SandboxSurroundings;
  readonly host: HostAbilities;
  /** Where the container takes it, `takesDefaultAppArmor`, and the kernel has AppArmor. */
  readonly defaultAppArmor?: DefaultAppArmor | undefined;
  /** Below the cgroup v2 mount. */
  readonly cgroupsPath: string;
  /** The profile that a seccomp `localhostRef` names, read. */
  readonly localSeccomp?: LinuxSeccomp | undefined;
  /** What the mounts that name an image show; the mounts are the config's own objects. */
  readonly mountedImages?: ReadonlyMap<ContainerMount, MountedImage> | undefined;
  /** For the volumes that the image declares. */
  readonly imageVolumes?: readonly ImageVolume[] | undefined;
  /** For a runtime that gives options to mount(2), which knows no `lowerdir+`. */
  readonly forOtherRuntime?: boolean | undefined;
  /** The nodes that the config's devices name, looked up; with what is permitted. */
  readonly devices?: readonly AllowedDevice[] | undefined;
}

/** Directories, topmost first and at least two, that make one tree; or a single file. */
export type MountedImage = { readonly layers: readonly string[] } | { readonly file: string };

/** An empty directory that takes what the image has at its place, and then what the container writes. */
export interface ImageVolume {
  /** Absolute, inside the container. */
  readonly containerPath: string;
  /** Absolute, on the host. */
  readonly hostPath: string;
}

export interface AllowedDevice {
  readonly device: LinuxDevice;
  /** The node on the host; `device.path` is where the container finds it. */
  readonly hostPath: string;
  /** Composed of `r`, `w`, `m`. */
  readonly access: string;
}

export interface ContainerSpecOutcome {
  readonly spec: Spec;
  /** What is not in force, a sentence each. */
  readonly warnings: readonly string[];
}

/**
 * The runtime spec of one container.
 * @throws RuntimeError `failed-precondition` APPARMOR_MISSING, and those of `containerArgs`, `containerEnv`, `containerCapabilities` and `toOciResources`
 */
export function toContainerSpec(input: ContainerSpecInput): ContainerSpecOutcome {
  const { config, image, user, sandbox, host } = input;
  const { security } = config;
  const capabilities = containerCapabilities(security, host.capabilities);
  const { resources, warnings } = toOciResources(config.resources, host.controllers, host.tolerateMissingControllers);
  const hostname = sandbox.config.hostname;
  const ambient = ambientCapabilities(security, capabilities);
  const seccomp = security.privileged ? undefined : seccompProfile(input, capabilities);
  const apparmor = security.privileged ? undefined : appArmorProfile(input);
  const labels = host.hasSeLinux ? seLinuxLabels(security.selinux) : undefined;
  const devices = input.devices ?? [];
  // In a user namespace no node can be made (mknod(2)): the host's own is bound, by its path there.
  const [bound, made] = sandbox.usernsPath === undefined ? [[], devices] : [devices, []];
  const oom = clampedOomScoreAdj(config.resources.oomScoreAdj, host.lowestOomScoreAdj);
  const spec: Spec = {
    // crun 1.8 takes nothing but 1.0; what later versions added is optional to every runtime.
    ociVersion: input.forOtherRuntime ? "1.0.2" : "1.3.0",
    root: { path: "rootfs", readonly: security.readonlyRootfs },
    process: {
      terminal: config.tty,
      user: { uid: user.uid, gid: user.gid, additionalGids: [...user.additionalGids], umask: 0o022 },
      args: containerArgs(config, image),
      env: containerEnv(config.env, image, { home: user.home, hostname, tty: config.tty }),
      cwd: config.workingDir || image.workingDir || "/",
      // Inheritable stays empty but for what is asked to be ambient: CVE-2022-24769 and its kin.
      capabilities: {
        bounding: capabilities,
        effective: capabilities,
        permitted: capabilities,
        ...(ambient.length > 0 && { inheritable: ambient, ambient }),
      },
      ...(apparmor !== undefined && { apparmorProfile: apparmor }),
      ...(labels && { selinuxLabel: labels.process }),
      noNewPrivileges: security.noNewPrivileges,
      ...(oom.value !== undefined && { oomScoreAdj: oom.value }),
    },
    mounts: [
      ...standardMounts(security.privileged),
      ...sandboxMounts(sandbox, config),
      ...[
        ...(input.imageVolumes ?? []).map((volume) => toVolumeMount(volume, sandbox.usernsPath !== undefined)),
        ...bound.map(({ device, hostPath }) => toDeviceMount(device.path, hostPath)),
        ...config.mounts.map((mount) => toOciMount(mount, input)),
      ].sort(byDepth),
    ],
    annotations: {},
    linux: {
      namespaces: containerNamespaces(sandbox, config),
      ...(seccomp && { seccomp }),
      ...(labels && { mountLabel: labels.mount }),
      cgroupsPath: input.cgroupsPath,
      resources: {
        ...resources,
        devices: security.privileged
          ? [{ allow: true, access: "rwm" }]
          : [...DEFAULT_DEVICE_RULES, ...devices.map(toDeviceRule)],
      },
      ...((security.privileged || made.length > 0) && {
        devices: uniqueDevices([...(security.privileged ? host.devices : []), ...made.map(({ device }) => device)]),
      }),
      maskedPaths: security.privileged ? [] : [...(security.maskedPaths ?? DEFAULT_MASKED_PATHS)],
      readonlyPaths: security.privileged ? [] : [...(security.readonlyPaths ?? DEFAULT_READONLY_PATHS)],
      rootfsPropagation: rootfsPropagation(config.mounts),
    },
  };
  const more = [oom.warning, appArmorWarning(input), seLinuxWarning(security, host)].filter(
    (warning) => warning !== undefined,
  );
  return { spec, warnings: [...warnings, ...more] };
}

function containerNamespaces(sandbox: SandboxSurroundings, config: ContainerConfig): LinuxNamespace[] {
  const shared = (type: LinuxNamespace["type"], path: string | undefined): LinuxNamespace[] =>
    path ? [{ type, path }] : [];
  const ownPid = (config.pid ?? sandbox.config.namespaces.pid) === "container";
  return [
    { type: "mount" },
    { type: "cgroup" },
    ...shared("user", sandbox.usernsPath),
    ...shared("network", sandbox.netnsPath),
    ...shared("ipc", sandbox.ipcnsPath),
    ...shared("uts", sandbox.utsnsPath),
    ...(ownPid ? [{ type: "pid" } as const] : shared("pid", sandbox.pidnsPath)),
  ];
}

function seccompProfile(
  { config, localSeccomp }: ContainerSpecInput,
  capabilities: readonly string[],
): LinuxSeccomp | undefined {
  const type = config.security.seccomp?.type;
  if (type === "runtime-default") return defaultSeccomp(capabilities);
  return type === "localhost" ? localSeccomp : undefined;
}

/**
 * Without a word about it a container has the default profile (Kubernetes, "Restrict a Container's Access to Resources
 * with AppArmor"); a privileged one has none.
 */
export function takesDefaultAppArmor({ apparmor, privileged }: ContainerConfig["security"]): boolean {
  return !privileged && (apparmor === undefined || apparmor.type === "runtime-default");
}

/** @throws RuntimeError `failed-precondition` APPARMOR_MISSING for a named profile where the kernel has no AppArmor */
function appArmorProfile({ config: { security }, host, defaultAppArmor }: ContainerSpecInput): string | undefined {
  const { apparmor } = security;
  if (takesDefaultAppArmor(security))
    return defaultAppArmor && "profile" in defaultAppArmor ? defaultAppArmor.profile : undefined;
  if (apparmor?.type !== "localhost") return undefined;
  if (host.hasAppArmor) return apparmor.localhostRef;
  throw new RuntimeError(`AppArmor profile "${apparmor.localhostRef}": this host's kernel runs without AppArmor`, {
    kind: "failed-precondition",
    code: "APPARMOR_MISSING",
  });
}

/** Where it was asked for by name: others get it where it is to be had. */
function appArmorWarning({ config: { security }, defaultAppArmor }: ContainerSpecInput): string | undefined {
  if (security.apparmor?.type !== "runtime-default" || !defaultAppArmor || "profile" in defaultAppArmor)
    return undefined;
  return `the default AppArmor profile is not loaded (${defaultAppArmor.why}): the container is confined by capabilities, seccomp and masks alone`;
}

/** What is left open is what policies for containers have (container-selinux, container_contexts). */
function seLinuxLabels(asked: ContainerConfig["security"]["selinux"]): { process: string; mount: string } | undefined {
  if (!asked) return undefined;
  const level = asked.level || "s0";
  return {
    process: `${asked.user || "system_u"}:${asked.role || "system_r"}:${asked.type || "container_t"}:${level}`,
    mount: `system_u:object_r:container_file_t:${level}`,
  };
}

function seLinuxWarning({ selinux }: ContainerConfig["security"], { hasSeLinux }: HostAbilities): string | undefined {
  return selinux && !hasSeLinux ? "ignoring the SELinux options: this host's kernel runs without SELinux" : undefined;
}

function toDeviceRule({ device, access }: AllowedDevice): LinuxDeviceCgroup {
  return { allow: true, type: device.type === "b" ? "b" : "c", major: device.major, minor: device.minor, access };
}

/** By path; the last one wins. */
function uniqueDevices(devices: readonly LinuxDevice[]): LinuxDevice[] {
  return [...new Map(devices.map((device) => [device.path, device])).values()];
}

function standardMounts(privileged: boolean): Mount[] {
  const access = privileged ? "rw" : "ro";
  return [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", access] },
    {
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: ["nosuid", "noexec", "nodev", "relatime", access],
    },
  ];
}

/** The shared /dev/shm and the generated files, where the request does not mount over them itself. */
function sandboxMounts(sandbox: SandboxSurroundings, config: ContainerConfig): Mount[] {
  const taken = new Set(config.mounts.map((mount) => mount.containerPath));
  const access = config.security.readonlyRootfs ? "ro" : "rw";
  const files = ["hosts", "hostname", "resolv.conf"].map((name) => ({
    destination: `/etc/${name}`,
    type: "bind",
    source: `${sandbox.filesDir}/${name}`,
    options: ["bind", "rprivate", access],
  }));
  const shm = {
    destination: "/dev/shm",
    type: "bind",
    source: sandbox.shmPath,
    options: ["bind", "rprivate", "nosuid", "nodev", "noexec"],
  };
  return [shm, ...files].filter((mount) => !taken.has(mount.destination));
}

const PROPAGATION = { private: "rprivate", "host-to-container": "rslave", bidirectional: "rshared" } as const;

function toOciMount(mount: ContainerMount, input: ContainerSpecInput): Mount {
  const image = input.mountedImages?.get(mount);
  const isInUserNamespace = input.sandbox.usernsPath !== undefined;
  const destination = mount.containerPath;
  const imageOptions = ["ro", "nosuid", "nodev", ...(isInUserNamespace ? ["idmap"] : []), ...(mount.options ?? [])];
  if (image && "file" in image) {
    return { destination, type: "bind", source: image.file, options: ["bind", "rprivate", ...imageOptions] };
  }
  if (image) {
    // An overlay of lower directories only is read-only, and costs no copy.
    const lowers = input.forOtherRuntime
      ? [`lowerdir=${image.layers.map((dir) => dir.replace(/[\\:]/g, String.raw`\$&`)).join(":")}`]
      : image.layers.map((dir) => `lowerdir+=${dir}`);
    return { destination, type: "overlay", source: "overlay", options: [...imageOptions, ...lowers] };
  }
  const idmap = isInUserNamespace && mount.mapsIds && !mount.uidMappings?.length ? ["idmap"] : [];
  const access = mount.readonly ? (mount.recursiveReadonly ? "rro" : "ro") : "rw";
  return {
    destination,
    type: "bind",
    source: mount.hostPath,
    options: ["rbind", PROPAGATION[mount.propagation], access, ...idmap, ...(mount.options ?? [])],
    ...(mount.uidMappings?.length && {
      uidMappings: mount.uidMappings.map(toOciMapping),
      gidMappings: (mount.gidMappings ?? []).map(toOciMapping),
    }),
  };
}

/** On a file system of the host and not in the overlay, and writable where the rootfs is read-only: what `VOLUME` is for. */
function toVolumeMount({ containerPath, hostPath }: ImageVolume, isInUserNamespace: boolean): Mount {
  return {
    destination: containerPath,
    type: "bind",
    source: hostPath,
    options: ["bind", "rprivate", "rw", "tmpcopyup", ...(isInUserNamespace ? ["idmap"] : [])],
  };
}

function toOciMapping({ hostId, containerId, length }: IdMapping): {
  hostID: number;
  containerID: number;
  size: number;
} {
  return { hostID: hostId, containerID: containerId, size: length };
}

/** A mount below another one comes after it, or it would be hidden. */
function byDepth(a: Mount, b: Mount): number {
  return a.destination.split("/").length - b.destination.split("/").length;
}

/** A shared or slave mount inside needs a root that lets events through (mount_namespaces(7)). */
function rootfsPropagation(mounts: readonly ContainerMount[]): "rprivate" | "rslave" | "rshared" {
  if (mounts.some((mount) => mount.propagation === "bidirectional")) return "rshared";
  if (mounts.some((mount) => mount.propagation === "host-to-container")) return "rslave";
  return "rprivate";
}

/** @param lowest below which this daemon cannot go; `undefined`: nowhere */
export function clampedOomScoreAdj(
  wanted: number | undefined,
  lowest: number | undefined,
): { value?: number; warning?: string } {
  if (wanted === undefined) return {};
  if (lowest === undefined || wanted >= lowest) return { value: wanted };
  return {
    value: lowest,
    warning: `oom_score_adj ${wanted} needs CAP_SYS_RESOURCE, which minke lacks here: ${lowest} is set`,
  };
}
