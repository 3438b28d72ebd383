/** Bundles and containers of minke-oci inside the VM: busybox as rootfs, the spec as a test wants it. */
import type { RunResult } from "./machine/channel.js";
import type { Vm } from "./machine/boot.js";
import { quoted } from "./quoted.js";

export interface BundleOptions {
  readonly args: readonly string[];
  /** Members of `process` besides args, cwd and env. */
  readonly process?: object;
  /** Besides /proc and /dev. */
  readonly mounts?: readonly object[];
  /** Members of `linux` besides namespaces and cgroupsPath. */
  readonly linux?: object;
}

/** On a tmpfs, since the root of the VM is an overlay already. All have one rootfs. */
const BUNDLES = "/tmp/bundles";
const ROOTFS = "/tmp/bundles/rootfs";
const OCI = "build/Release/minke-oci --root /run/minke-oci-check";

/** Where the container's cgroup is. */
export function cgroupOf(id: string): string {
  return `/sys/fs/cgroup/vm-check/${id}`;
}

/** A command line of minke-oci on these containers. */
export function ociCommand(...args: readonly string[]): string {
  return `${OCI} ${args.map(quoted).join(" ")}`;
}

/** Every file of the container's cgroup that can be read, with all its lines. */
export async function cgroupFiles(vm: Vm, id: string): Promise<ReadonlyMap<string, string>> {
  const files = new Map<string, string>();
  const text = await vm.output(`cd ${cgroupOf(id)} && { grep -s '' * || true; }`);
  for (const line of text.split("\n")) {
    const [file = "", ...rest] = line.split(":");
    const value = rest.join(":");
    files.set(file, files.has(file) ? `${files.get(file)}\n${value}` : value);
  }
  return files;
}

/** Runs a container to its end: minke-oci's exit code is the container's. */
export async function runContainer(vm: Vm, id: string, options: BundleOptions, timeoutMs = 30_000): Promise<RunResult> {
  return vm.run(`${writeBundle(id, options)}${OCI} run --bundle ${BUNDLES}/${id} ${id}`, { timeoutMs });
}

/** Starts a container that goes on in the background, until `deleteContainer`. */
export async function startContainer(vm: Vm, id: string, options: BundleOptions): Promise<void> {
  const run = `${OCI} run --detach --bundle ${BUNDLES}/${id} ${id} >/dev/null 2>&1`;
  await vm.output(`${writeBundle(id, options)}${run} || ${OCI} state ${id}`);
}

/** Makes a container and does not start it: its cgroup is there, with all limits. */
export async function createContainer(vm: Vm, id: string, options: BundleOptions): Promise<void> {
  const create = `${OCI} create --bundle ${BUNDLES}/${id} ${id} >/dev/null`;
  const { code, stderr } = await vm.run(`${writeBundle(id, options)}${create}`);
  if (code !== 0) throw new Error(`minke-oci create: ${stderr}`);
}

export async function deleteContainer(vm: Vm, id: string): Promise<void> {
  await vm.output(`${OCI} delete --force ${id}`);
}

/** The commands that write it. */
function writeBundle(id: string, { args, process, mounts = [], linux }: BundleOptions): string {
  const spec = {
    ociVersion: "1.2.0",
    root: { path: ROOTFS },
    process: { args, cwd: "/", env: ["PATH=/bin"], ...process },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
      ...mounts,
    ],
    linux: {
      namespaces: ["mount", "pid", "ipc", "uts", "cgroup"].map((type) => ({ type })),
      cgroupsPath: cgroupOf(id).slice("/sys/fs/cgroup".length),
      ...linux,
    },
  };
  return `
    [ -e ${ROOTFS}/etc ] || {
      mkdir -p ${ROOTFS}/{bin,proc,dev,tmp} && cp /bin/busybox ${ROOTFS}/bin/
      for name in sh cat date dd sleep mknod; do ln -s busybox ${ROOTFS}/bin/$name; done
      mkdir ${ROOTFS}/etc
    }
    mkdir -p ${BUNDLES}/${id} && printf %s ${quoted(JSON.stringify(spec))} >${BUNDLES}/${id}/config.json || exit
  `;
}
