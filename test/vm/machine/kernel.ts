/**
 * A Debian kernel for the VM: its package is downloaded and unpacked below .cache/vm/kernels,
 * never installed, and /etc/apt is only read.
 *
 * With a filled cache nothing is asked of the network; removing the kernel's folder takes the
 * newest version at the next run.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
// @ts-expect-error plain JavaScript with JSDoc, outside of this project's root
import { otherSuite } from "../../../rootfs-fixtures/debian.mjs";
import { CACHE, output } from "./host.js";

/** `debian`: what the host's own sources give; the others by a sources list of their own. */
export const KERNEL_NAMES = ["debian", "trixie", "backports"] as const;
export type KernelName = (typeof KERNEL_NAMES)[number];

export interface Kernel {
  /** As `uname -r` says it. */
  readonly release: string;
  /** The kernel that QEMU starts: an ELF file where the package's could be unpacked. */
  readonly image: string;
  /** The folder that stands for `/usr`: `lib/modules/<release>` is below it. */
  readonly base: string;
  /** Version of the Debian package. */
  readonly packageVersion: string;
}

const META_PACKAGE = "linux-image-amd64";

/** The kernel, downloaded and unpacked where that was not done before. */
export function prepareKernel(name: KernelName): Kernel {
  const folder = join(CACHE, "kernels", name);
  const record = join(folder, "kernel.json");
  if (!existsSync(record)) fetchKernel(name, folder);
  return JSON.parse(readFileSync(record, "utf8")) as Kernel;
}

function fetchKernel(name: KernelName, folder: string): void {
  mkdirSync(join(CACHE, "kernels"), { recursive: true });
  const work = mkdtempSync(join(CACHE, "kernels", `${name}-`));
  try {
    const apt = aptOptions(name, work);
    const packageName = imagePackage(apt);
    const debs = join(work, "debs");
    mkdirSync(debs);
    output("apt-get", ["-q", ...apt, "download", packageName], { cwd: debs });
    const deb = readdirSync(debs).find((file) => file.endsWith(".deb"));
    if (!deb) throw new Error(`apt-get download ${packageName} left no package`);
    const packageVersion = output("dpkg-deb", ["-f", join(debs, deb), "Version"]).trim();
    const unpacked = join(work, "unpacked");
    output("dpkg-deb", ["-x", join(debs, deb), unpacked]);
    const kernel = arrange(unpacked, join(work, "kernel"), folder, packageVersion);
    writeFileSync(join(work, "kernel", "kernel.json"), `${JSON.stringify(kernel, undefined, 2)}\n`);
    rmSync(folder, { recursive: true, force: true });
    renameSync(join(work, "kernel"), folder);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** The package of this day's kernel behind the meta package. */
function imagePackage(apt: readonly string[]): string {
  const find = () => /Depends: (linux-image-\S+)/.exec(output("apt-cache", [...apt, "depends", META_PACKAGE]))?.[1];
  let found: string | undefined;
  try {
    found = find();
  } catch {
    // A machine without package lists: they are fetched below.
  }
  if (!found) {
    output("apt-get", ["-q", ...apt, "update"]);
    found = find();
  }
  if (!found) throw new Error(`${META_PACKAGE} depends on no linux-image package`);
  return found;
}

/** Options that make apt use the suite of this kernel. */
function aptOptions(name: KernelName, work: string): string[] {
  if (name === "debian") return ["-o", "APT::Sandbox::User=root"];
  return otherSuite(work, name === "backports" ? (codename: string) => `${codename}-backports` : name) as string[];
}

/** Takes image and modules out of the unpacked package into `building`, which becomes `final`. */
function arrange(unpacked: string, building: string, final: string, packageVersion: string): Kernel {
  const image = readdirSync(join(unpacked, "boot")).find((file) => file.startsWith("vmlinuz-"));
  if (!image) throw new Error("the kernel package holds no vmlinuz");
  const release = image.slice("vmlinuz-".length);
  const modules = ["lib/modules", "usr/lib/modules"].find((path) => existsSync(join(unpacked, path)));
  if (!modules) throw new Error("the kernel package holds no modules");
  mkdirSync(join(building, "lib"), { recursive: true });
  renameSync(join(unpacked, modules), join(building, "lib/modules"));
  const kernelFile = takeKernel(join(unpacked, "boot", image), building);
  // The initramfs loads plain files; those of newer kernels are compressed.
  output("find", [join(building, "lib/modules"), "-name", "*.ko.xz", "-exec", "xz", "--decompress", "{}", "+"]);
  output("find", [join(building, "lib/modules"), "-name", "*.ko.zst", "-exec", "zstd", "-q", "-d", "--rm", "{}", "+"]);
  output("depmod", ["--basedir", building, release]);
  return { release, image: join(final, kernelFile), base: final, packageVersion };
}

/** How the first bytes tell the compression of a kernel. */
const DECOMPRESSORS = [
  { magic: "fd377a585a00", command: ["xz", "--single-stream", "-dc"] },
  { magic: "28b52ffd", command: ["zstd", "-q", "-dc"] },
  { magic: "1f8b08", command: ["gzip", "-dc"] },
] as const;

/**
 * Puts the kernel into `folder` and gives its name there: unpacked, because emulation takes four
 * seconds for what the host does in one; QEMU starts such a file by its PVH note. Where the
 * compression is another, as it is. Offsets: Documentation/arch/x86/boot.rst, "The real-mode
 * kernel header".
 */
function takeKernel(bzImage: string, folder: string): string {
  const bytes = readFileSync(bzImage);
  const start = (bytes.readUInt8(0x1f1) + 1) * 512 + bytes.readUInt32LE(0x248);
  const payload = bytes.subarray(start, start + bytes.readUInt32LE(0x24c));
  const found = DECOMPRESSORS.find(({ magic }) => payload.toString("hex", 0, magic.length / 2) === magic);
  if (!found) {
    renameSync(bzImage, join(folder, "vmlinuz"));
    return "vmlinuz";
  }
  // The payload ends with four bytes that are the unpacked size.
  writeFileSync(join(folder, "payload"), payload.subarray(0, -4));
  output("sh", ["-c", `${found.command.join(" ")} <payload >vmlinux && rm payload`], { cwd: folder });
  return "vmlinux";
}
