/** Boots the machine that all test files of a run share, and ends it after the last one. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import type { TestProject } from "vitest/node";
import { bootVm, type VmAddress } from "./machine/boot.js";
import { makeDisk } from "./machine/disk.js";
import { CACHE } from "./machine/host.js";
import { KERNEL_NAMES, type KernelName } from "./machine/kernel.js";

declare module "vitest" {
  interface ProvidedContext {
    readonly vm: VmAddress;
  }
}

/** Where the run script looks for a machine that was kept. */
const KEPT = `${CACHE}/kept.json`;

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  // Tests that boot machines of their own, alone.
  if (process.env["MINKE_VM_SHARED"] === "0") return async () => {};
  const disk = process.env["MINKE_VM_DISK"];
  const keep = process.env["MINKE_VM_KEEP"] === "1";
  mkdirSync(CACHE, { recursive: true });
  rmSync(KEPT, { force: true });
  const vm = await bootVm({
    kernel: kernelName(),
    ...(disk ? { disk: makeDisk(disk) } : {}),
    name: "console",
    detached: keep,
    lifetimeMs: 30 * 60_000,
  });
  console.log(`vm: Linux ${vm.address.release}, up after ${(vm.address.bootMs / 1000).toFixed(1)} s`);
  // The port serves one client at a time: the test files connect one after another.
  vm.disconnect();
  project.provide("vm", vm.address);
  if (!keep) return () => vm.kill();
  writeFileSync(KEPT, JSON.stringify(vm.address));
  return async () => {};
}

function kernelName(): KernelName {
  const name = process.env["MINKE_VM_KERNEL"] ?? "debian";
  const found = KERNEL_NAMES.find((known) => known === name);
  if (!found) throw new Error(`no kernel "${name}": ${KERNEL_NAMES.join(", ")}`);
  return found;
}
