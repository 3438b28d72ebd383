/** Paths and programs of the host that the VM is put together from. */
import { spawnSync, type SpawnSyncOptions } from "node:child_process";
import { fileURLToPath } from "node:url";

/** The checkout, seen at the same path inside the VM. */
export const CHECKOUT = fileURLToPath(new URL("../../..", import.meta.url)).replace(/\/$/, "");
export const CACHE = `${CHECKOUT}/.cache/vm`;
export const GUEST = `${CHECKOUT}/test/vm/guest`;

/** Standard output of a program that must succeed. */
export function output(program: string, args: readonly string[], options: SpawnSyncOptions = {}): string {
  const { status, signal, stdout, stderr, error } = spawnSync(program, args, {
    maxBuffer: 1 << 26,
    env: { ...process.env, LC_ALL: "C", PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` },
    ...options,
    encoding: "utf8",
  });
  if (status !== 0) {
    const why = error?.message ?? stderr.trim();
    throw new Error(`${program} ${args.join(" ")}: ${why || `ended with ${signal ?? status}`}`);
  }
  return stdout;
}
