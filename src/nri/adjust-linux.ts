/**
 * The Linux half of a plugin's adjustment: devices, namespaces, limits, scheduling, seccomp.
 */
import type {
  Linux,
  LinuxDevice as OciDevice,
  LinuxNamespace,
  LinuxSeccomp as OciSeccomp,
  Scheduler,
  Spec,
} from "../oci/index.js";
import { adjustMap, type Claimant, type Draft, invalidAdjustment } from "./draft.js";
import {
  IOPrioClass,
  type LinuxContainerAdjustment,
  type LinuxDevice,
  type LinuxScheduler,
  LinuxSchedulerFlag,
  LinuxSchedulerPolicy,
  type LinuxSeccomp,
  MpolFlag,
  MpolMode,
} from "./generated/nri/v1alpha1/nri.js";
import { removalOf } from "./owners.js";
import { adjustResources } from "./resources.js";

/** What of the adjustment is for the container as a whole; `adjustLinux` hands each part on. */
export function adjustLinux(draft: Draft, wanted: LinuxContainerAdjustment, who: Claimant): void {
  const linux = (draft.spec.linux ??= {});
  const claim = (field: Parameters<typeof who.owners.claim>[1], key = "") =>
    who.owners.claim(who.containerId, field, key, who.plugin);
  adjustDevices(linux, wanted.devices, who);
  const { resources, warnings } = adjustResources(draft.resources, wanted.resources, who);
  draft.resources = resources;
  draft.warnings.push(...warnings);
  addDeviceRules(linux, wanted);
  if (wanted.cgroupsPath !== "") {
    claim("CgroupsPath");
    draft.cgroupPath = checkedCgroupPath(wanted.cgroupsPath, who.plugin);
    linux.cgroupsPath = draft.cgroupPath;
  }
  if (wanted.oomScoreAdj) {
    claim("OomScoreAdj");
    draft.resources = { ...draft.resources, oomScoreAdj: Number(wanted.oomScoreAdj.value) };
  }
  if (wanted.seccompPolicy) {
    claim("SeccompPolicy");
    linux.seccomp = toOciSeccomp(wanted.seccompPolicy);
  }
  adjustNamespaces(linux, wanted.namespaces, who);
  const sysctl = adjustMap(linux.sysctl ?? {}, wanted.sysctl, "Sysctl", who);
  if (Object.keys(sysctl).length > 0 || linux.sysctl) linux.sysctl = sysctl;
  adjustNetDevices(linux, wanted.netDevices, who);
  if (wanted.memoryPolicy) {
    claim("MemoryPolicy");
    const { mode, nodes, flags } = wanted.memoryPolicy;
    linux.memoryPolicy = {
      mode: nameOf(MpolMode, mode, who, "memory policy"),
      nodes,
      flags: flags.map((flag) => nameOf(MpolFlag, flag, who, "flag of a memory policy")),
    };
  }
  adjustRdt(linux, wanted.rdt, who);
  adjustScheduling(draft.spec, wanted, who);
}

/** Entered by number, as protobuf has them. */
function nameOf<T extends Readonly<Record<string, number>>>(
  members: T,
  value: number,
  { plugin }: Claimant,
  what: string,
): Exclude<keyof T & string, "UNRECOGNIZED"> {
  const found = Object.entries(members).find(([name, number]) => number === value && name !== "UNRECOGNIZED");
  if (!found) throw invalidAdjustment(plugin, `${value} is no ${what}`);
  return found[0] as Exclude<keyof T & string, "UNRECOGNIZED">;
}

function adjustDevices(linux: Linux, wanted: readonly LinuxDevice[], { owners, containerId, plugin }: Claimant): void {
  for (const { path } of wanted) {
    const removed = removalOf(path);
    if (removed === undefined) continue;
    owners.clear(containerId, "Devices", removed);
    linux.devices = (linux.devices ?? []).filter((device) => device.path !== removed);
  }
  for (const device of wanted) {
    if (removalOf(device.path) !== undefined) continue;
    if (!["b", "c", "u", "p"].includes(device.type)) {
      throw invalidAdjustment(plugin, `"${device.type}" is no type of the device "${device.path}"`);
    }
    owners.claim(containerId, "Devices", device.path, plugin);
    const node: OciDevice = {
      path: device.path,
      type: device.type as OciDevice["type"],
      major: Number(device.major),
      minor: Number(device.minor),
      ...(device.fileMode && { fileMode: device.fileMode.value & 0o777 }),
      ...(device.uid && { uid: device.uid.value }),
      ...(device.gid && { gid: device.gid.value }),
    };
    linux.devices = [...(linux.devices ?? []).filter(({ path }) => path !== node.path), node];
    if (node.type === "p") continue;
    addRule(linux, {
      allow: true,
      type: node.type === "b" ? "b" : "c",
      major: node.major,
      minor: node.minor,
      access: accessOf(device),
    });
  }
}

/** What anybody's bits of the node's mode allow; all of it where the mode is not given. */
function accessOf({ fileMode }: LinuxDevice): string {
  if (!fileMode) return "rwm";
  const read = (fileMode.value & 0o444) !== 0 ? "r" : "";
  return `${read}${(fileMode.value & 0o222) !== 0 ? "w" : ""}` || "r";
}

type DeviceRule = NonNullable<NonNullable<Linux["resources"]>["devices"]>[number];

function addRule(linux: Linux, rule: DeviceRule): void {
  linux.resources = { ...linux.resources, devices: [...(linux.resources?.devices ?? []), rule] };
}

function addDeviceRules(linux: Linux, { resources }: LinuxContainerAdjustment): void {
  for (const { allow, type, major, minor, access } of resources?.devices ?? []) {
    addRule(linux, {
      allow,
      type: type === "b" || type === "c" ? type : "a",
      ...(major && { major: Number(major.value) }),
      ...(minor && { minor: Number(minor.value) }),
      access,
    });
  }
}

/** The cgroup is ours to make, to kill and to remove: it is never the root, and never above another one. */
function checkedCgroupPath(path: string, plugin: string): string {
  const parts = path.split("/").filter(Boolean);
  if (!path.startsWith("/") || parts.length === 0 || parts.some((part) => part === "." || part === "..")) {
    throw invalidAdjustment(plugin, `"${path}" is no path of a cgroup below the mount`);
  }
  return `/${parts.join("/")}`;
}

function adjustNamespaces(
  linux: Linux,
  wanted: LinuxContainerAdjustment["namespaces"],
  { owners, containerId, plugin }: Claimant,
): void {
  for (const { type, path } of wanted) {
    const removed = removalOf(type);
    owners.claim(containerId, "Namespace", removed ?? type, plugin);
    const others = (linux.namespaces ?? []).filter((other) => other.type !== (removed ?? type));
    const added = { type, ...(path !== "" && { path }) } as LinuxNamespace;
    linux.namespaces = removed === undefined ? [...others, added] : others;
  }
}

function adjustNetDevices(
  linux: Linux,
  wanted: LinuxContainerAdjustment["netDevices"],
  { owners, containerId, plugin }: Claimant,
): void {
  const devices = new Map(Object.entries(linux.netDevices ?? {}));
  for (const name of Object.keys(wanted)) {
    const removed = removalOf(name);
    if (removed === undefined) continue;
    owners.clear(containerId, "LinuxNetDevices", removed);
    devices.delete(removed);
  }
  for (const [name, device] of Object.entries(wanted)) {
    if (removalOf(name) !== undefined) continue;
    owners.claim(containerId, "LinuxNetDevices", name, plugin);
    devices.set(name, device.name === "" ? {} : { name: device.name });
  }
  if (devices.size > 0 || linux.netDevices) linux.netDevices = Object.fromEntries(devices);
}

function adjustRdt(
  linux: Linux,
  wanted: LinuxContainerAdjustment["rdt"],
  { owners, containerId, plugin }: Claimant,
): void {
  if (!wanted) return;
  const fields = ["RdtClosID", "RdtSchemata", "RdtEnableMonitoring"] as const;
  if (wanted.remove) {
    for (const field of fields) owners.clear(containerId, field, "");
    delete linux.intelRdt;
  }
  const values = [wanted.closId, wanted.schemata, wanted.enableMonitoring];
  for (const [index, field] of fields.entries()) if (values[index]) owners.claim(containerId, field, "", plugin);
  if (values.every((value) => value === undefined)) return;
  linux.intelRdt = {
    ...linux.intelRdt,
    ...(wanted.closId && { closID: wanted.closId.value }),
    ...(wanted.schemata && { schemata: [...wanted.schemata.value] }),
    ...(wanted.enableMonitoring && { enableMonitoring: wanted.enableMonitoring.value }),
  };
}

function adjustScheduling(spec: Spec, wanted: LinuxContainerAdjustment, who: Claimant): void {
  if (!spec.process) return;
  if (wanted.ioPriority) {
    who.owners.claim(who.containerId, "IoPriority", "", who.plugin);
    const name = nameOf(IOPrioClass, wanted.ioPriority.class, who, "class of I/O priority");
    if (name === "IOPRIO_CLASS_NONE") delete spec.process.ioPriority;
    else spec.process.ioPriority = { class: name, priority: wanted.ioPriority.priority };
  }
  if (wanted.scheduler) {
    who.owners.claim(who.containerId, "LinuxSched", "", who.plugin);
    spec.process.scheduler = toOciScheduler(wanted.scheduler, who);
    if (!spec.process.scheduler) delete spec.process.scheduler;
  }
}

function toOciScheduler(wanted: LinuxScheduler, who: Claimant): Scheduler | undefined {
  const policy = nameOf(LinuxSchedulerPolicy, wanted.policy, who, "scheduling policy");
  if (policy === "SCHED_NONE") return undefined;
  const [runtime, deadline, period] = [wanted.runtime, wanted.deadline, wanted.period].map(Number);
  return {
    policy,
    ...(wanted.nice !== 0 && { nice: wanted.nice }),
    ...(wanted.priority !== 0 && { priority: wanted.priority }),
    ...(wanted.flags.length > 0 && {
      flags: wanted.flags.map((flag) => nameOf(LinuxSchedulerFlag, flag, who, "flag of a scheduler")),
    }),
    ...(runtime && { runtime }),
    ...(deadline && { deadline }),
    ...(period && { period }),
  };
}

/** Words that the native core checks when it reads the spec. */
function toOciSeccomp(policy: LinuxSeccomp): OciSeccomp {
  return {
    defaultAction: policy.defaultAction as OciSeccomp["defaultAction"],
    ...(policy.defaultErrno && { defaultErrnoRet: policy.defaultErrno.value }),
    architectures: policy.architectures as NonNullable<OciSeccomp["architectures"]>,
    flags: policy.flags as NonNullable<OciSeccomp["flags"]>,
    ...(policy.listenerPath !== "" && { listenerPath: policy.listenerPath }),
    ...(policy.listenerMetadata !== "" && { listenerMetadata: policy.listenerMetadata }),
    syscalls: policy.syscalls.map(({ names, action, errnoRet, args }) => ({
      names: [...names],
      action: action as OciSeccomp["defaultAction"],
      ...(errnoRet && { errnoRet: errnoRet.value }),
      args: args.map(({ index, value, valueTwo, op }) => ({
        index,
        value,
        valueTwo,
        op: op as NonNullable<NonNullable<OciSeccomp["syscalls"]>[number]["args"]>[number]["op"],
      })),
    })),
  };
}
