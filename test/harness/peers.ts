/**
 * Debian's own tools for images, as other ends to test against: unpacked into `.cache/peers`,
 * never installed, so that they change nothing of the machine.
 */
import { execFile } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
// @ts-expect-error plain JavaScript with JSDoc, outside of this project's root
import { unpackedPackages } from "../../rootfs-fixtures/debian.mjs";

const CACHE = fileURLToPath(new URL("../../.cache/peers", import.meta.url));
const PACKAGES: readonly string[] = [
  "skopeo",
  "umoci",
  "buildah",
  "podman",
  "containerd",
  "runc",
  "conmon",
  // htpasswd, and what the others are linked with.
  "apache2-utils",
  "libapr1",
  "libaprutil1",
  "libgpgme11",
  "libsubid4",
  "golang-github-containers-common",
  "golang-github-containers-image",
];

export interface Peers {
  /** Where the packages are unpacked. */
  readonly root: string;
  readonly env: NodeJS.ProcessEnv;
  /** Runs a program to its end and gives its standard output; fails with what it said. */
  run(program: string, args: readonly string[], options?: { cwd?: string; timeoutMs?: number }): Promise<string>;
}

/** @param home folder for what the tools keep between calls */
export async function openPeers(home: string): Promise<Peers> {
  await mkdir(CACHE, { recursive: true });
  const root = unpackedPackages(PACKAGES, CACHE) as string;
  const env = {
    PATH: [...["usr/bin", "usr/sbin"].map((dir) => join(root, dir)), process.env["PATH"]].join(":"),
    LD_LIBRARY_PATH: join(root, "usr/lib/x86_64-linux-gnu"),
    HOME: home,
    XDG_RUNTIME_DIR: home,
    TMPDIR: home,
  };
  return {
    root,
    env,
    run: async (program, args, { cwd = home, timeoutMs = 60_000 } = {}) => {
      const { stdout } = await promisify(execFile)(program, args, {
        env,
        cwd,
        timeout: timeoutMs,
        maxBuffer: 16 * 1024 * 1024,
      });
      return stdout;
    },
  };
}
