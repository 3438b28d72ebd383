/**
 * The initramfs: busybox, the files of test/vm/guest, and the modules that reach the host's
 * root. Made anew for every boot, so that a change of the guest's files is never missed.
 */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { CACHE, GUEST, output } from "./host.js";
import type { Kernel } from "./kernel.js";

/** What /init loads before the root is there; the rest is loaded on demand from the root. */
const MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/** Writes `initramfs` below `folder`, which must be empty, and gives its path. */
export function makeInitramfs(kernel: Kernel, folder: string): string {
  const tree = join(folder, "tree");
  for (const name of ["bin", "guest", "modules"]) mkdirSync(join(tree, name), { recursive: true });
  copyFileSync("/bin/busybox", join(tree, "bin/busybox"));
  for (const name of readdirSync(GUEST)) {
    if (name !== "agent.cc") copyFileSync(join(GUEST, name), join(tree, "guest", name));
  }
  copyFileSync(builtAgent(), join(tree, "guest/agent"));

  const files = modulesInOrder(kernel);
  for (const file of files) copyFileSync(file, join(tree, "modules", basename(file)));
  const init = readFileSync(join(GUEST, "init"), "utf8");
  writeFileSync(join(tree, "init"), init.replaceAll("@MODULES@", files.map((file) => basename(file)).join(" ")));
  chmodSync(join(tree, "init"), 0o755);

  const archive = join(folder, "initramfs");
  output("sh", ["-c", 'find . | busybox cpio -o -H newc -F "$1"', "sh", archive], { cwd: tree });
  return archive;
}

/** The agent, compiled where its source is newer: static, since it starts before anything is sure. */
function builtAgent(): string {
  const source = join(GUEST, "agent.cc");
  const program = join(CACHE, "agent");
  if (existsSync(program) && statSync(program).mtimeMs > statSync(source).mtimeMs) return program;
  const flags = ["-std=c++20", "-Os", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-fno-rtti", "-static", "-s"];
  const building = `${program}-${process.pid}`;
  output("g++", [...flags, source, "-o", building]);
  renameSync(building, program);
  return program;
}

/** Dependencies first; what is built into the kernel is left out. */
function modulesInOrder(kernel: Kernel): string[] {
  const files = new Set<string>();
  for (const name of MODULES) {
    const text = output("modprobe", ["-d", kernel.base, "-S", kernel.release, "--show-depends", name]);
    for (const [, file] of text.matchAll(/^insmod (\S+)/gm)) if (file) files.add(file);
  }
  return [...files];
}
