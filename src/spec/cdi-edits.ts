/**
 * What CDI devices change of a container's spec (SPEC.md, "OCI Edits"). Pure.
 */
import { RuntimeError } from "../base/errors.js";
import type { LinuxDevice, Mount, Spec } from "../oci/index.js";
import type { CdiEdits } from "./cdi-spec.js";
import { toDeviceMount } from "./device-mount.js";

/** A container does not start before its hooks have ended, so they always have to. */
const HOOK_TIMEOUT_S = 30;

type DeviceNode = NonNullable<CdiEdits["deviceNodes"]>[number];

/** A node of `CdiEdits` with what the host says where the edits do not. */
export interface FoundNode {
  readonly wanted: DeviceNode;
  readonly device: LinuxDevice;
}

/**
 * The spec with the edits made, in their order; the given one stays as it is.
 *
 * @param nodes those of all edits, looked up
 * @throws RuntimeError `failed-precondition` UNSUPPORTED_FIELD: intelRdt, netDevices, poststart, poststop
 */
export function withCdiEdits(spec: Spec, edits: readonly CdiEdits[], nodes: readonly FoundNode[]): Spec {
  for (const edit of edits) checkSupported(edit);
  const { process, linux } = spec;
  const devices = nodes.map((node) => toDevice(node, process?.user));
  const added = new Set(devices.map(({ path }) => path));
  const rules = nodes
    .filter(({ device }) => device.type !== "p")
    .map(({ wanted, device }) => ({
      allow: true,
      type: device.type === "b" ? ("b" as const) : ("c" as const),
      major: device.major,
      minor: device.minor,
      access: wanted.permissions ?? "rwm",
    }));
  const hooks = edits.flatMap((edit) => edit.hooks ?? []);
  // In a user namespace no node can be made (mknod(2)): the host's own is bound, by its path there.
  const isMapped = linux?.namespaces?.some(({ type }) => type === "user") === true;
  const bound = isMapped ? nodes.map(({ wanted }) => toDeviceMount(wanted.path, wanted.hostPath ?? wanted.path)) : [];
  return {
    ...spec,
    ...(process && {
      process: {
        ...process,
        env: withVariables(
          process.env ?? [],
          edits.flatMap(({ env }) => env ?? []),
        ),
        user: {
          ...process.user,
          additionalGids: [
            ...new Set([
              ...(process.user?.additionalGids ?? []),
              ...edits.flatMap((edit) => edit.additionalGids ?? []),
            ]),
          ],
        },
      },
    }),
    mounts: [...(spec.mounts ?? []), ...bound, ...edits.flatMap(({ mounts }) => (mounts ?? []).map(toMount))],
    ...(hooks.length > 0 && { hooks: toHooks(spec.hooks, hooks) }),
    linux: {
      ...linux,
      devices: [...(linux?.devices ?? []).filter(({ path }) => !added.has(path)), ...(isMapped ? [] : devices)],
      resources: { ...linux?.resources, devices: [...(linux?.resources?.devices ?? []), ...rules] },
    },
  };
}

function checkSupported(edit: CdiEdits): void {
  const refused = (field: string, why: string) =>
    new RuntimeError(`containerEdits.${field}: ${why}`, { kind: "failed-precondition", code: "UNSUPPORTED_FIELD" });
  if (edit.intelRdt !== undefined) throw refused("intelRdt", "minke gives out no cache or memory bandwidth");
  if (edit.netDevices !== undefined) throw refused("netDevices", "minke moves no interfaces of the host into pods");
  for (const { hookName } of edit.hooks ?? []) {
    if (hookName === "poststart" || hookName === "poststop")
      throw refused("hooks", `"${hookName}": only hooks before the container's program starts are run`);
  }
}

/** pkg/cdi ContainerEdits.Apply: who owns a node is the edits' word, or the user that the container runs as. */
function toDevice(
  { wanted, device }: FoundNode,
  user: { readonly uid?: number | undefined; readonly gid?: number | undefined } | undefined,
): LinuxDevice {
  return {
    ...device,
    path: wanted.path,
    fileMode: wanted.fileMode ?? device.fileMode,
    uid: wanted.uid ?? (user?.uid || device.uid),
    gid: wanted.gid ?? (user?.gid || device.gid),
  };
}

/** A later value takes the place of an earlier one. */
function withVariables(env: readonly string[], more: readonly string[]): string[] {
  const names = new Set(more.map((line) => line.split("=", 1)[0]));
  return [...env.filter((line) => !names.has(line.split("=", 1)[0])), ...more];
}

function toMount({
  hostPath,
  containerPath,
  type = "bind",
  options = [],
}: NonNullable<CdiEdits["mounts"]>[number]): Mount {
  const isBind = type === "bind" && !options.some((option) => option === "bind" || option === "rbind");
  return { destination: containerPath, source: hostPath, type, options: isBind ? ["rbind", ...options] : [...options] };
}

function toHooks(before: Spec["hooks"], more: NonNullable<CdiEdits["hooks"]>): NonNullable<Spec["hooks"]> {
  const hooks: NonNullable<Spec["hooks"]> = { ...before };
  for (const { hookName, path, args, env, timeout = HOOK_TIMEOUT_S } of more) {
    hooks[hookName] = [...(hooks[hookName] ?? []), { path, args, env, timeout }];
  }
  return hooks;
}
